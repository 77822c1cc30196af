recipe "pkg:maven/org.acme/thing@1.0" {
  builder   = "pkg:docker/acme/jdk@21"
  timestamp = "2025-01-01T00:00:00Z"
  commands  = ["make"]

  source {
    folder = "src"
  }

  output "thing-1.0.jar" {
    path = "thing.jar"
  }
}
