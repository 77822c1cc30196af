role = "biuld"

network {
  genesis = "sha256:12"
  listen  = ["0.0.0.0:4001"]
}

mirror "docker" {
  packages   = ["debian"]
  unverified = "pass"
}

distribution {
  quota  = 50
  uplaod = "20MiB/s"
}
