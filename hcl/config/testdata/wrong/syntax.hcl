network { genesis = "sha256:0000000000000000000000000000000000000000000000000000000000000001" }

distribution {
  share = true,
  quota = 50

registry {
  listen = ["127.0.0.1:7888"]
}
