// Package build is one build of a package: a recipe and its locked inputs in,
// files out, with nothing else able to reach it.
//
// The package holds what every engine shares; modules/build/buildkit runs
// builds in BuildKit, modules/build/input finds, fetches and proves the locked
// inputs, modules/build/buildtest holds the suite that every engine passes.
package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/record"
)

// ErrFailed is wrapped by an engine's error when the recipe's own commands
// failed, or did not leave an output: building again would not help. Any other
// error is the engine's or the machine's.
var ErrFailed = errors.New("build failed")

// CorruptError is an engine's error where a file of Job.Open is not what its digest says
// any more: the node's disk has lost its bytes. Got anew, building again helps.
type CorruptError struct {
	Name   string // for people
	SHA256 artifact.SHA256
}

// Error implements error.
func (e *CorruptError) Error() string {
	return fmt.Sprintf("%.200q (sha256 %s) is not what was locked any more: this node's disk has other bytes", e.Name, e.SHA256)
}

// Job is one build.
type Job struct {
	ID     string         // unique on this node, for the engine's references and logs
	Recipe *record.Recipe //
	Lock   *record.Lock   // with every entry at hand through Open

	// Open opens a file of the lock or of the builder image; the caller closes
	// it. The bytes were verified when they came; a disk may have lost some since.
	Open func(artifact.SHA256) (*os.File, error)

	// Builder is the OCI image manifest that the commands run in: its bytes are
	// at hand through Open, and so are its configuration's and layers'. It is
	// zero for a recipe that bootstraps from Debian packages.
	Builder artifact.SHA256

	Folder string    // existing and empty; outputs are left here, the caller removes it
	Log    io.Writer // what a person reads while the build runs; never nil

	// Remains is a path at which Build may leave a gzipped tar of what failing commands
	// left where the outputs would have been; "" where nobody wants it. An engine need
	// not.
	Remains string
}

// File is one output.
type File struct {
	Name      artifact.Name // as it will be published
	MediaType string        // of the parts of an image, else ""
	Path      string        // of the bytes, in Job.Folder
}

// MaxFiles is how many files the commands may leave to publish: no publication has
// more (docs/protocol.md, "Limits"). An engine takes no more out of a build.
const MaxFiles = 10_000

// ErrTooMany is a build's that left more.
var ErrTooMany = fmt.Errorf("%w: the commands left more than %d files to publish", ErrFailed, MaxFiles)

// FamilyMember is the name under which a family publishes a file that the commands
// left in its folder. Its error wraps ErrFailed: nothing that is in the folder is
// passed over in silence.
func FamilyMember(o record.Output, left string) (artifact.Name, error) {
	name := artifact.Name{Package: o.Package, File: left}
	beginning, _ := artifact.Name{Package: o.Package, File: o.File}.Family()
	if artifact.CheckFile(left) != nil || strings.Contains(left, "*") || !strings.HasPrefix(left, beginning) {
		return name, fmt.Errorf("%w: the commands left %q in %s, and the recipe publishes from there only what begins with %q", ErrFailed, left, o.Path, beginning)
	}
	return name, nil
}

// Engine runs builds. Implementations are safe for concurrent use.
type Engine interface {
	// Name is the engine and its output format, such as "buildkit/30". Equal
	// names mean equal bytes for equal jobs.
	Name() string

	// Build makes the job's outputs with no network at all. The files are
	// sorted by name, complete and synced when it returns.
	Build(ctx context.Context, job Job) ([]File, error)

	// Resolve runs the same commands, able to reach nothing but mirror, which
	// serves a plain-HTTP Maven repository at "/". The job's lock need only
	// name the inputs that are known before (builder image, sources).
	Resolve(ctx context.Context, job Job, mirror http.Handler) error
}
