network { genesis = "sha256:0000000000000000000000000000000000000000000000000000000000000001" }

distribution {
  quoat = "50GiB"
  upload_rate = "20MiB/s"
}
