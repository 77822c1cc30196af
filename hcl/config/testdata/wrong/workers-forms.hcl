network { genesis = "sha256:0000000000000000000000000000000000000000000000000000000000000001" }

build {
  workers = ["/run/pyrsia/buildkitd.sock", "unix://run/buildkitd.sock", "tcp://worker.example", "ssh://worker.example"]
}
