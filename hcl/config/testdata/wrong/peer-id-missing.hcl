network { genesis = "sha256:0000000000000000000000000000000000000000000000000000000000000001" }

trusted_build_peer "beta" {
  addresses = ["/dns4/beta.example/tcp/4001"]
}
