# keep: the node of Acme's lab
# keep: ask Ann before changing it

# since March
role = "regular" # until the new machine is there

network {
  genesis = "sha256:0000000000000000000000000000000000000000000000000000000000000001" # keep: as told on the phone
}

# the node of the friends at Beta
trusted_build_peer "beta" {
  id        = "12D3KooWH3uVF6wv47WnArKHk5p6cvgCJEb74UTmxztmQDc298L3"
  addresses = ["/dns4/beta.example/tcp/4001"] # may change
}

# what our builds want
mirror "docker" {
  # policy
  unverified = "refuse"
  packages = [
    # base images
    "library/debian:13-slim", # the base
    "acme/*",                 # ours
    # the end
  ]
}

# keep: half of the disk
distribution { quota = "50GiB" }
