recipe "pkg:maven/org.acme/thing@1.0" {
  commands = [
