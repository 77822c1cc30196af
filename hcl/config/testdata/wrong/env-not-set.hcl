network { genesis = env("PYRSIA_NO_SUCH_VARIABLE") }
