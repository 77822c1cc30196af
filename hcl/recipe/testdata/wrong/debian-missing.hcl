recipe "pkg:docker/acme/jdk@21" {
  timestamp = "2025-01-01T00:00:00Z"
  commands  = ["true"]

  debian {
    packages  = ["openjdk-21-jdk-headless"]
    bootstrap = ["mmdebstrap"]
  }

  image {
    command = ["/bin/sh"]
  }
}
