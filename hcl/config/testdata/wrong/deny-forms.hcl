deny = ["org.example:bad:1", "sha256:12", "pkg:maven/org.example/bad@1?b=2&a=1"]
network { genesis = "sha256:0000000000000000000000000000000000000000000000000000000000000001" }
