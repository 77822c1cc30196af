recipe "pkg:maven/org.acme/thing@1.0" {
  builder   = "pkg:docker/acme/jdk@21"
  timestamp = "2025-01-01T00:00:00Z"
  commands  = ["make"]

  source {
    url    = "https://source.example/thing.zip"
    sha256 = "03820ab800fd58fc3b1a9d07799de4060002f249d4783135765857fd3163fa09"
  }
  environment {
    newline   = "crlf"
    variables = { JAVA_TOOL_OPTIONS = "-Dx=y" }
  }
  limits {
    cpus      = 0
    processes = 1
  }

  output "thing-1.0.jar" {
    path = "thing.jar"
  }
}
