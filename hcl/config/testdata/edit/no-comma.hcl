role="build"
network {genesis="sha256:0000000000000000000000000000000000000000000000000000000000000001"}
mirror "docker" {
    packages=[
        "acme/*",
        "library/debian:13-slim"
    ]
}
