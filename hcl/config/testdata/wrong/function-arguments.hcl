network { genesis = hostname("x") }
build { parallel = env() }
