# The Plexus archiver, built from the source archive of its own release.
#
# Its release was built with JDK 21 and Maven 3.9.11; with both the same, the
# jar is the released one byte for byte.

recipe "pkg:maven/org.codehaus.plexus/plexus-archiver@4.10.2" {
  platform  = "linux/amd64"
  builder   = "pkg:docker/pyrsia/jdk21-maven@3.9.11"
  timestamp = "2025-09-30T22:11:17Z" # the pom's project.build.outputTimestamp
  resolve   = "maven"

  source {
    maven  = "org.codehaus.plexus:plexus-archiver:4.10.2:source-release:zip"
    sha256 = "03820ab800fd58fc3b1a9d07799de4060002f249d4783135765857fd3163fa09"
    strip  = 1
  }

  environment {
    locale    = "C.UTF-8"
    time_zone = "UTC"
    umask     = "022"
    work_dir  = "/var/maven/app"
  }

  commands = [
    "mvn -B -Pplexus-release clean package -DskipTests -Dmaven.javadoc.skip -Dgpg.skip",
  ]

  output "plexus-archiver-4.10.2.pom" {
    path = "pom.xml"
  }

  output "plexus-archiver-4.10.2.jar" {
    path = "target/plexus-archiver-4.10.2.jar"
  }

  output "plexus-archiver-4.10.2-source-release.zip" {
    path = "target/plexus-archiver-4.10.2-source-release.zip"
  }

  limits {
    memory = "4GiB"
    disk   = "4GiB"
    time   = "30m"
  }
}
