recipe "pkg:maven/org.acme/thing@1.0" {
  platform  = "linux/amd64"
  builder   = "pkg:docker/acme/jdk@21"
  timestamp = "2025-01-01T00:00:00Z"
  resolve   = "maven"

  source {
    git    = "https://source.example/thing.git"
    tag    = "v1.0"
    commit = "0123456789abcdef0123456789abcdef01234567"
    submodules = [
      "lib/a",
      "lib/b",
    ]
    sha256  = "03820ab800fd58fc3b1a9d07799de4060002f249d4783135765857fd3163fa09"
    newline = "crlf"
  }

  source {
    url    = "https://source.example/thing.zip"
    sha256 = "03820ab800fd58fc3b1a9d07799de4060002f249d4783135765857fd3163fa09"
    into   = "/opt"
    strip  = 2
  }

  environment {
    locale    = "en_US.UTF-8"
    time_zone = "UTC"
    umask     = "002"
    newline   = "crlf"
    work_dir  = "/build"
    variables = {
      A    = "b=c"
      PATH = "/opt/bin:/bin"
    }
  }

  commands = [
    "echo \"a $${b} %%{c}\\n\"",
    "mvn -B package",
  ]

  output "part-1.0.jar" {
    package = "pkg:maven/org.acme/part@1.0"
    path    = "part/target/part-1.0.jar"
  }

  output "thing-1.0.jar" {
    path      = "target/thing-1.0.jar"
    reference = "sha256:03820ab800fd58fc3b1a9d07799de4060002f249d4783135765857fd3163fa09"
  }

  limits {
    memory    = "4GiB"
    disk      = "16GiB"
    time      = "90s"
    cpus      = 2
    processes = 500
  }
}
