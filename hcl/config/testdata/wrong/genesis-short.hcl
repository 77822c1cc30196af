network {
  genesis = "sha256:0f3c"
}
