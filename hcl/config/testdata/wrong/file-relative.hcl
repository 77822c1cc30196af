network { genesis = file("genesis.txt") }
