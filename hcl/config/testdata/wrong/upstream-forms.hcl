network { genesis = "sha256:0000000000000000000000000000000000000000000000000000000000000001" }

mirror "docker" {
  upstream = "registry.example"
}

mirror "maven" {
  upstream = "https://me:secret@repo.example/maven?x=1"
}
