# Every setting that a file may have.
role = "build"
deny = ["pkg:maven/org.example/bad", "sha256:0000000000000000000000000000000000000000000000000000000000000001"]

network {
  genesis      = "sha256:0000000000000000000000000000000000000000000000000000000000000001"
  genesis_file = "/etc/pyrsia/genesis.json"
  name         = "acme"
  listen       = ["/ip4/0.0.0.0/tcp/4002"]
  max_age      = "2h"
  checkpoint   = <<-END
    acme/0000000000000000000000000000000000000000000000000000000000000001
    42
    AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=
  END
}

trusted_build_peer "beta" {
  id        = "12D3KooWPjceQrSwdWXPyLLeABRXmuqt69Rg3sBYbU1Nft9HyQ6X"
  addresses = ["/dns4/beta.example/tcp/4001", "/ip6/2001:db8::1/udp/4001/quic-v1/p2p/12D3KooWPjceQrSwdWXPyLLeABRXmuqt69Rg3sBYbU1Nft9HyQ6X"]
}

trusted_build_peer "gamma" {
  id = "12D3KooWH3uVF6wv47WnArKHk5p6cvgCJEb74UTmxztmQDc298L3"
}

mirror "docker" {
  packages   = ["library/debian:13-slim", "acme/*"]
  upstream   = "https://registry.example"
  unverified = "pass"
}

mirror "maven" {
  packages = ["org.codehaus.plexus:plexus-archiver:4.10.2"]
}

distribution {
  share    = true
  quota    = "50GiB"
  upload   = "20MiB/s"
  download = "unlimited"
}

build {
  recipes  = "/etc/pyrsia/recipes.d"
  workers  = ["tcp://worker.example:1234"]
  parallel = 2
  memory   = "4GiB"
  disk     = "10GiB"
  cpus     = 2
  cache    = "20GiB"
  keep     = "7d"

  processes = 1000
  timeout  = "1d12h"
}

registry { listen = ["0.0.0.0:7888", "[::1]:7888"] }
storage { data = "/var/lib/pyrsia" }
admin { socket = "/run/pyrsia/control.sock" }

log {
  level  = "debug"
  format = "json"
}

metrics { listen = ["127.0.0.1:9100"] }
