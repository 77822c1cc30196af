network { genesis = "sha256:0000000000000000000000000000000000000000000000000000000000000001" }

storage {
  data = "var/lib/pyrsia"
}

build {
  recipes = "/etc/pyrsia/../recipes.d/"
}

admin {
  socket = "/run/long/long/long/long/long/long/long/long/long/long/long/long/long/long/long/long/long/long/long/long/long/long/long/long/long/control.sock"
}
