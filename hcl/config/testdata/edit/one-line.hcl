network { genesis = "sha256:0000000000000000000000000000000000000000000000000000000000000001" }
mirror "docker" { packages = ["library/debian:13-slim", "acme/*"] }
