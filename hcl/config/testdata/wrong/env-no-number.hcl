network { genesis = "sha256:0000000000000000000000000000000000000000000000000000000000000001" }
build { parallel = env("PYRSIA_TEST_WORD") }
distribution { share = env("PYRSIA_TEST_WORD") }
