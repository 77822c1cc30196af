recipe "pkg:docker/acme/jdk@21" {
  timestamp = "2025-01-01T00:00:00Z"
  commands  = ["true"]

  debian {
    suite     = "Trixie!"
    packages  = ["openjdk 21", "a", "apt", "apt"]
    bootstrap = ["mmdebstrap"]
    variant   = "minbased"
    keys      = ["04B5 4C3C DCA7 9751 B16B  C6B5 2256 29DF 75B1 88BD"]
  }

  image {
    command = ["/bin/sh"]
  }
}
