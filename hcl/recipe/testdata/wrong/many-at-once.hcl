recipe "pkg:maven/org.acme/thing@1.0" {
  builder   = "acme/jdk"
  timestamp = "2025-13-01T00:00:00Z"
  commands  = []

  source {
    maven  = "org.acme:thing:1.0:source-release:zip"
    sha256 = "03820ab800fd58fc3b1a9d07799de4060002f249d4783135765857fd3163"
  }

  output "thing-1.0.jar" {
    pth = "target/thing-1.0.jar"
  }
}
