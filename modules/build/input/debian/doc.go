// Package debian is the Debian archive as a source of locked inputs: its signed
// InRelease file, its Packages indexes and the closure of dependencies.
//
// The chain of proof is Debian's own: a key that the recipe names by
// fingerprint signs InRelease, InRelease names each index by SHA-256, and an
// index names each .deb by SHA-256. Freshness (Valid-Until) is no part of it:
// a lock must still verify when a release is years old.
//
// Everything here works on bytes that the caller holds; nothing opens a file or
// a connection. All parsers bound what they allocate.
package debian
