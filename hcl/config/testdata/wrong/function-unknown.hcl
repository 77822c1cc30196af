network { genesis = enf("X") }
