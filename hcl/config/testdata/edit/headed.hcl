# keep: of the whole file

# of the peer
trusted_build_peer "beta" {
  id = "12D3KooWH3uVF6wv47WnArKHk5p6cvgCJEb74UTmxztmQDc298L3"
}
mirror "docker" {} # behind it

# keep: of the network
network { genesis = "sha256:0000000000000000000000000000000000000000000000000000000000000001" }
role = "build"
