network { genesis = "sha256:0000000000000000000000000000000000000000000000000000000000000001" }

trust {
  require = 2
  of      = ["beta", "gamma"]
}
