network { genesis = "sha256:0000000000000000000000000000000000000000000000000000000000000001" }

mirror "docker" {
  packages = ["debian:13", "Acme/App:1", "acme/app@sha256:12", "pkg:maven/a.b/c@1"]
}

mirror "maven" {
  packages = ["org.apache.commons", "org.apache.commons/commons-io", "a:b:c:d", 7]
}

mirror "debian" {
  packages = ["Curl", "curl="]
}
