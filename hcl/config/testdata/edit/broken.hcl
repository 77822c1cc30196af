network { genesis =
