network { genesis = "sha256:0000000000000000000000000000000000000000000000000000000000000001" }

storage {
  data = "${home}/pyrsia"
}

log {
  level = lower("INFO")
}
