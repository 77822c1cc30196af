role = "regular"

network {
  listen = ["/ip4/0.0.0.0/tcp/4001"]
}
