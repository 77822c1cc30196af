// Package e2e holds the stories: what a network of whole nodes does for people,
// told over one declarative cluster (e2e/cluster) and checked from outside, by
// the ports and the command line that people use. It also holds the test of the
// architecture.
//
// `go test ./e2e` runs the quick stories, whose recipes build for real and take
// seconds. Most are told twice (TestStories): over nodes in the test's own
// process, where the race detector and a debugger see them, and over nodes that
// are the released program and build in BuildKit. Stories of crashes are told
// over processes alone. To run a part:
//
//	go test -race -run TestStories/inproc ./e2e      half a minute at most
//	PYRSIA_RACE=1 go test -run Kill ./e2e            nodes built with the race detector
//
// Stories need root. Those in the test's process need busybox; the others runc,
// and Debian's archive as apt's own sources name it. The slow build tag adds the
// slower stories.
package e2e
