recipe "pkg:maven/org.acme/thing@1.0" {
  builder   = "pkg:docker/acme/jdk@21"
  timestamp = "2025-01-01T00:00:00Z"
  commands  = ["make"]

  source {
    url    = "https://source.example/thing.zip"
    sha256 = "03820ab800fd58fc3b1a9d07799de4060002f249d4783135765857fd3163fa09"
  }

  output "thing-1.0.jar" {
    path      = "thing.jar"
    reference = "md5:00112233445566778899aabbccddeeff"
  }

  output "thing-1.0-*" {
    path      = "parts"
    reference = "sha256:03820ab800fd58fc3b1a9d07799de4060002f249d4783135765857fd3163fa09"
  }
}
