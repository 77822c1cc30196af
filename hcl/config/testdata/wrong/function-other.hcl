network { genesis = jsondecode("{}") }
