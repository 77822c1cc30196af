network { genesis = "sha256:0000000000000000000000000000000000000000000000000000000000000001" }

trusted_build_peer "beta" {
  id = "12D3KooWPjceQrSwdWXPyLLeABRXmuqt69Rg3sBYbU1Nft9HyQ6X"
}

trusted_build_peer "beta" {
  id = "12D3KooWH3uVF6wv47WnArKHk5p6cvgCJEb74UTmxztmQDc298L3"
}
