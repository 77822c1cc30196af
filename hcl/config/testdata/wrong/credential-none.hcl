network {
  genesis    = credential("genesis")
  checkpoint = credential("../keys/vote.key")
}
mirror "maven" { upstream = credential("wrong-url") }
