# A builder image with an update of JDK 17 from before 17.0.14, whose compiler joins texts
# otherwise than earlier ones did (JDK-8273914): for releases that were built before. It
# has nothing of Maven: each recipe brings the release that it wants, by digest. Debian 11
# gets no updates in this suite any more, so that its JDK stays 17.0.12. Not for anything
# but builds, which have no network.

recipe "pkg:docker/pyrsia/jdk17@bullseye" {
  platform  = "linux/amd64"
  timestamp = "2025-08-01T00:00:00Z"

  debian {
    suite      = "bullseye"
    components = ["main"]
    variant    = "apt"
    packages   = ["locales", "openjdk-17-jdk-headless"]
    bootstrap  = ["apt", "mmdebstrap"]

    keys = [
      "1F89983E0081FDE018F3CC9673A4F27B8DD47936", # Debian Archive Automatic Signing Key (11/bullseye)
      "A4285295FC7B1A81600062A9605C66F00D6C9793", # Debian Stable Release Key (11/bullseye)
      "B8B80B5B623EAB6AD8775C45B7C5D7D6350947F8", # Debian Archive Automatic Signing Key (12/bookworm)
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
    variables = { JAVA_HOME = "/usr/lib/jvm/java-17-openjdk-amd64" }
    work_dir  = "/"
  }

  limits {
    memory = "4GiB"
    disk   = "4GiB"
    time   = "30m"
  }
}
