# A builder image: Debian trixie with JDK 21, and Maven 3.9.11 from its own
# release. It is made of nothing but packages that Debian's archive keys signed
# and one archive that is named by its digest.

recipe "pkg:docker/pyrsia/jdk21-maven@3.9.11" {
  platform  = "linux/amd64"
  timestamp = "2025-08-01T00:00:00Z"

  debian {
    suite      = "trixie"
    components = ["main"]
    variant    = "apt"
    packages   = ["openjdk-21-jdk-headless"]
    bootstrap  = ["apt", "mmdebstrap"]

    keys = [
      "04B54C3CDCA79751B16BC6B5225629DF75B188BD", # Debian Archive Automatic Signing Key (13/trixie)
      "41587F7DB8C774BCCF131416762F67A0B2C39DE4", # Debian Stable Release Key (13/trixie)
    ]
  }

  source {
    maven  = "org.apache.maven:apache-maven:3.9.11:bin:tar.gz"
    sha256 = "4b7195b6a4f5c81af4c0212677a32ee8143643401bc6e1e8412e6b06ea82beac"
    into   = "/opt"
  }

  environment {
    locale    = "C.UTF-8"
    time_zone = "UTC"
    umask     = "022"
    work_dir  = "/"
  }

  commands = [
    "ln -s /opt/apache-maven-3.9.11/bin/mvn /usr/local/bin/mvn",
    # Debian's keystore carries the time at which it was made. This one has the
    # same certificates, and neither time nor salt.
    "openssl pkcs12 -export -nokeys -nomac -certpbe NONE -jdktrust anyExtendedKeyUsage -passout pass: -in /etc/ssl/certs/ca-certificates.crt -out /etc/ssl/certs/java/cacerts",
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
