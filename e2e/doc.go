// Package e2e holds the stories: what a network of whole nodes does for people,
// told over one declarative cluster (e2e/cluster) and checked from outside, by
// the ports and the command line that people use. It also holds the test of the
// architecture.
//
// `go test ./e2e` runs the quick stories: real processes and real builds of
// recipes of a few seconds. It needs root, runc, and Debian's archive as apt's
// own sources name it. The slow build tag adds the slower stories.
package e2e
