recipe "pkg:maven/org.acme/thing@1.0" {
  builder   = "pkg:docker/acme/jdk@21"
  timestamp = "2025-01-01T00:00:00Z"
  commands  = ["mvn package"]

  source {
    maven  = "org.acme:thing:1.0:source-release:zip"
    sha256 = "03820ab800fd58fc3b1a9d07799de4060002f249d4783135765857fd3163fa09"
  }

  output "thing-1.0-sources.jar" {
    path = "target/thing-1.0-sources.jar"
  }

  output "thing-1.0.jar" {
    path = "target/thing-1.0.jar"
  }

  output "thing-1.0-*" {
    path = "target/parts"
  }

  output "thing-1.0-native-*" {
    path = "target/native"
  }
}
