recipe "pkg:docker/acme/jdk@21" {
  timestamp = "2025-01-01T00:00:00Z"
  commands  = ["true"]

  debian {
    suite     = "trixie"
    packages  = ["openjdk-21-jdk-headless"]
    bootstrap = ["mmdebstrap"]
    keys      = ["04B54C3CDCA79751B16BC6B5225629DF75B188BD"]
  }

  output "x.tar" {
    path = "x.tar"
  }

  image {
    command = ["/bin/sh"]
  }
}
