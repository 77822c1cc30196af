network {
  genesis = "sha256:0000000000000000000000000000000000000000000000000000000000000001"
  max_age = "5m"
}

build {
  memory  = "4MiB"
  timeout = "1s"
}
