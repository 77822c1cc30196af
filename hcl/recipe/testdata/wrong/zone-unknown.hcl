recipe "pkg:maven/org.acme/thing@1.0" {
  builder   = "pkg:docker/acme/jdk@21"
  timestamp = "2026-01-31T12:00:00Z"
  commands  = ["true"]

  source {
    maven  = "org.acme:thing:1.0:sources:jar"
    sha256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
  }

  environment {
    time_zone = "Local"
  }

  output "thing-1.0.jar" {
    path = "thing.jar"
  }
}
