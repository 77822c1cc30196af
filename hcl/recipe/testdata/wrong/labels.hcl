recipe "pkg:maven/org.acme/thing@1.0" "again" {
}

recipe "pkg:maven/org.acme/thing@1.0" {
  source "x" {
    maven = "org.acme:thing:1.0:sources:jar"
  }

  output {
    path = "target/thing-1.0.jar"
  }

  output "thing-1.0.pom" "jar" {
    path = "pom.xml"
  }

  output "thing-1.0.jar" {
  }

  limits "a" {
  }
}
