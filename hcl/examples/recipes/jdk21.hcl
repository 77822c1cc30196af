# A builder image with JDK 21 and nothing of Maven: each recipe brings the release
# of Maven that it wants as a source, by digest. JDK 21 is the default of Debian 13.

recipe "pkg:docker/pyrsia/jdk21@trixie" {
  platform  = "linux/amd64"
  timestamp = "2025-08-01T00:00:00Z"

  debian {
    suite      = "trixie"
    components = ["main"]
    variant    = "apt"
    packages   = ["locales", "openjdk-21-jdk-headless"]
    bootstrap  = ["apt", "mmdebstrap"]

    keys = [
      "04B54C3CDCA79751B16BC6B5225629DF75B188BD", # Debian Archive Automatic Signing Key (13/trixie)
      "41587F7DB8C774BCCF131416762F67A0B2C39DE4", # Debian Stable Release Key (13/trixie)
    ]
  }

  environment {
    locale    = "C.UTF-8"
    time_zone = "UTC"
    umask     = "022"
    work_dir  = "/"
  }

  commands = [
    # Most releases were built under this locale, and Java takes its language and
    # its encoding from it.
    "localedef -i en_US -f UTF-8 en_US.UTF-8",
    # Debian's keystore carries the time at which it was made. A build has no
    # network, so its JDK has nobody to trust.
    "rm -f /etc/ssl/certs/java/cacerts",
  ]

  image {
    command   = ["/bin/bash"]
    variables = { JAVA_HOME = "/usr/lib/jvm/java-21-openjdk-amd64" }
    work_dir  = "/"
  }

  limits {
    memory = "4GiB"
    disk   = "4GiB"
    time   = "30m"
  }
}
