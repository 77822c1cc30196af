network { genesis = "sha256:0000000000000000000000000000000000000000000000000000000000000001" }

mirror "oci" {
  unverified = "refuse"
}

mirror "npm" {
}
