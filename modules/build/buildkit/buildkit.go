// Package buildkit is the build engine that runs in BuildKit: it packs a job's
// locked inputs into OCI layers, has buildkitd run the recipe's commands on
// them with no network, and takes the outputs out.
//
// Everything a build sees is content by digest: the builder image, the sources,
// the Maven repository and the Debian archive of a job are packed here, in Go,
// into layers that are equal on every node, and BuildKit may use no other source
// (a source policy denies all but these digests). After each build BuildKit's own
// provenance must call it hermetic. BuildKit's cache is keyed by these digests
// and by the commands, so that it can save time and not change an output.
//
// buildkitd is a program beside ours; it does the privileged part.
package buildkit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	gateway "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/session"
	spb "github.com/moby/buildkit/sourcepolicy/pb"

	"github.com/pyrsia/appliance/modules/build"
)

// Compatibility is the version of BuildKit's output format that this engine
// asks for (BuildKit 0.31 and later). It is part of Name: another one may mean
// other bytes.
const Compatibility = 30

// Config is an engine's configuration.
type Config struct {
	Limits // to begin with

	// Relay is the program that runs beside the commands of Resolve: the path of
	// a static executable, then arguments that make it behave as relay.Run, such
	// as {"/usr/bin/pyrsia", "relay"}. It may be empty where Resolve is not used.
	Relay []string

	// Scratch is a folder on disk for packed inputs, as large as the largest
	// job's inputs unpacked; "" is the system's. What is left there by a crash
	// may be removed at any time.
	Scratch string

	// CgroupParent is the control group below which build steps run, "" for
	// buildkitd's own.
	CgroupParent string
}

// Limits are what SetLimits changes while builds run.
type Limits struct {
	// Addresses are the buildkitd to use, such as
	// "unix:///run/pyrsia/buildkitd.sock". A build goes to the one with the
	// fewest builds of this engine; with none reachable it fails.
	Addresses []string

	// Memory, Disk, Time, CPUs and Processes bound every build, whatever its recipe
	// allows. Bytes, and thousandths of a processor; 0 is no bound.
	Memory    int64
	Disk      int64
	Time      time.Duration
	CPUs      int64
	Processes int64

	// Cache is what each worker keeps of earlier builds, bytes; 0 leaves that to the
	// worker.
	Cache int64
}

// Engine implements build.Engine. It is safe for concurrent use and holds
// nothing that outlives a call.
type Engine struct {
	config Config // without its limits

	mu      sync.Mutex // guards what follows
	limits  Limits
	workers map[string]*standing // by address
}

var _ build.Engine = (*Engine)(nil)

// New checks the configuration. It starts nothing and connects to nothing.
func New(config Config) (*Engine, error) {
	if config.Scratch == "" {
		config.Scratch = os.TempDir()
	}
	e := &Engine{config: config, workers: map[string]*standing{}}
	return e, e.SetLimits(config.Limits)
}

// SetLimits makes other limits count for the builds that begin from now on. What
// Check refuses changes nothing.
func (e *Engine) SetLimits(limits Limits) error {
	if err := limits.Check(); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.limits = limits
	return nil
}

func (e *Engine) limitsNow() Limits {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.limits
}

// Check tells whether an engine can go by the limits.
func (l Limits) Check() error {
	if len(l.Addresses) == 0 {
		return errors.New("BuildKit has no address: name at least one worker")
	}
	for _, a := range l.Addresses {
		if !strings.Contains(a, "://") {
			return fmt.Errorf("BuildKit address %q: want a URL such as unix:///run/pyrsia/buildkitd.sock", a)
		}
	}
	return nil
}

// Name implements build.Engine.
func (e *Engine) Name() string { return "buildkit/" + strconv.Itoa(Compatibility) }

// Build implements build.Engine.
func (e *Engine) Build(ctx context.Context, job build.Job) ([]build.File, error) {
	if job.Remains != "" {
		if err := os.Remove(job.Remains); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err // of an earlier build, which this one could be taken for
		}
	}
	var files []build.File
	err := e.run(ctx, job, nil, func(ctx context.Context, r *run) error {
		state, export, err := r.target()
		if err != nil {
			return packing{err}
		}
		files, err = r.solve(ctx, state, export)
		return err
	})
	return files, err
}

// Resolve implements build.Engine.
func (e *Engine) Resolve(ctx context.Context, job build.Job, mirror http.Handler) error {
	if len(e.config.Relay) == 0 {
		return errors.New("this node has no relay program, so it cannot resolve a recipe's inputs")
	}
	if job.Recipe.Builder == "" {
		return fmt.Errorf("%w: the recipe of %s has no builder image to resolve its inputs in", build.ErrFailed, job.Recipe.Package)
	}
	return e.run(ctx, job, &relayPlan{program: e.config.Relay}, func(ctx context.Context, r *run) error {
		state, err := r.plan.packages()
		if err != nil {
			return packing{err}
		}
		m := serveMirror(mirror)
		defer m.close()
		r.attachments = append(r.attachments, m)
		_, err = r.solve(ctx, state, nil)
		return err
	})
}

// run is one job on one buildkitd.
type run struct {
	plan        *plan
	packer      []string // the relay's program, to pack what a failed command left
	client      *client.Client
	attachments []session.Attachable
}

// run prepares a job, and cleans up after it whatever happens.
func (e *Engine) run(ctx context.Context, job build.Job, relay *relayPlan, do func(context.Context, *run) error) error {
	limits := e.limitsNow()
	limit := limits.time(job)
	if limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, limit, fmt.Errorf("%w: it took longer than its limit of %s", build.ErrFailed, limit))
		defer cancel()
	}
	scratch, err := os.MkdirTemp(e.config.Scratch, "build-")
	if err != nil {
		return fmt.Errorf("make a folder for the build's inputs: %w", err)
	}
	defer os.RemoveAll(scratch)

	if err := checkJob(job); err != nil {
		return err
	}
	memory := limits.memory(job)
	p := newPlan(ctx, job, scratch)
	p.cgroup, p.relay, p.log = e.config.CgroupParent, relay, newProgress(job.Log)
	p.limits = llb.LinuxResources{Memory: memory, MemorySwap: memory} // together: no swap
	if cpus := lower(job.Recipe.Limits.CPUs, limits.CPUs); cpus > 0 {
		const period = 100_000 // microseconds, the kernel's own default
		p.limits.CPUPeriod, p.limits.CPUQuota = period, cpus*period/1000
	}

	p.disk, p.processes = lower(job.Recipe.Limits.Disk, limits.Disk), lower(job.Recipe.Limits.Processes, limits.Processes)

	c, address, err := e.connect(ctx, limits.Addresses)
	if err != nil {
		return err
	}
	defer c.Close()
	if len(limits.Addresses) > 1 {
		p.log.say("on the worker %s", address)
	}
	e.prune(ctx, c, address, limits.Cache, p.log)
	err = e.explain(ctx, p, do(ctx, &run{plan: p, packer: e.config.Relay, client: c}))
	e.unclaim(address, fault(ctx, err))
	return err
}

// memoryFile is a file of the memory controller that runc did not find.
var memoryFile = regexp.MustCompile(`/memory\.[a-z.]+: no such file`)

// explain makes a sentence of an error and decides whose fault it is.
func (e *Engine) explain(ctx context.Context, p *plan, err error) error {
	if err == nil || errors.Is(err, build.ErrFailed) {
		return err
	}
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if errors.Is(err, errInput) {
		return fmt.Errorf("%w: %w", build.ErrFailed, err)
	}
	if broken := p.log.brokenRuntime(); broken != "" {
		if memoryFile.MatchString(broken) {
			broken += "; the cgroup that buildkitd runs in has no memory controller (see its cgroup.controllers), and a build's memory must be bounded"
		}
		// Not errWorker: a command may print such a line, and must not make a worker rest.
		return fmt.Errorf("buildkitd cannot run a step: %s", broken)
	}
	if exit := (*gateway.ExitError)(nil); errors.As(err, &exit) && p.log.failedStep() != "" {
		hint := ""
		if why := p.log.exceeded(); why != "" {
			return fmt.Errorf("%w: %s: %s", build.ErrFailed, p.log.failedStep(), why)
		}
		if exit.ExitCode == 137 && p.limits.Memory > 0 {
			hint = fmt.Sprintf(" (killed; its limit of memory is %d MiB)", p.limits.Memory>>20)
		}
		return fmt.Errorf("%w: %s: exit code %d%s", build.ErrFailed, p.log.failedStep(), exit.ExitCode, hint)
	}
	if errors.As(err, new(packing)) {
		return err
	}
	return fmt.Errorf("BuildKit: %w", err)
}

// packing is an error from before BuildKit was asked: of this node, not of a worker.
type packing struct{ error }

// Unwrap is for package errors.
func (p packing) Unwrap() error { return p.error }

func (l Limits) time(job build.Job) time.Duration {
	return time.Duration(lower(job.Recipe.Limits.Seconds*int64(time.Second), int64(l.Time)))
}

func (l Limits) memory(job build.Job) int64 { return lower(job.Recipe.Limits.Memory, l.Memory) }

// lower is the lower one of two bounds, of which 0 or less is none.
func lower(a, b int64) int64 {
	if a <= 0 || b > 0 && b < a {
		a = b
	}
	return max(a, 0)
}

// dial connects and asks one small question, since the client itself connects
// only when it is used.
func dial(ctx context.Context, address string) (*client.Client, error) {
	c, err := client.New(ctx, address)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if _, err := c.Info(ctx); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// export is what is taken out of a build and how it is read.
type export struct {
	entry client.ExportEntry
	read  func(io.Reader, build.Job) ([]build.File, error)
}

// target is the state that a recipe publishes.
func (r *run) target() (llb.State, *export, error) {
	recipe := r.plan.job.Recipe
	if recipe.Builder == "" {
		state, err := r.plan.image()
		if err != nil {
			return llb.State{}, nil, err
		}
		config, err := imageConfig(recipe)
		if err != nil {
			return llb.State{}, nil, err
		}
		// The exporter's rewrite-timestamp would compress the layer a second time
		// to give each file the one time that the plan's last copy gave it already.
		return state, &export{read: imageFiles, entry: client.ExportEntry{Type: client.ExporterOCI, Attrs: map[string]string{
			"oci-mediatypes": "true", "compression": "gzip",
			"source-date-epoch":             strconv.FormatInt(recipe.Timestamp, 10),
			exptypes.ExporterImageConfigKey: string(config),
		}}}, nil
	}
	state, err := r.plan.packages()
	if err != nil {
		return llb.State{}, nil, err
	}
	return r.plan.outputs(state), &export{read: outputFiles, entry: client.ExportEntry{Type: client.ExporterTar, Attrs: map[string]string{}}}, nil
}

// solve has BuildKit make the state, with nothing but the plan's inputs.
func (r *run) solve(ctx context.Context, state llb.State, x *export) ([]build.File, error) {
	definition, err := state.Marshal(ctx, llb.Platform(platform))
	if err != nil {
		return nil, err
	}
	options := client.SolveOpt{
		CompatibilityVersion: Compatibility,
		OCIStores:            map[string]content.Store{storeID: r.plan.inputs},
		SourcePolicy:         &spb.Policy{Version: 1, Rules: r.plan.policy},
		Session:              r.attachments,
		Ref:                  path.Base(r.plan.scratch),
	}
	if x == nil {
		if err := r.follow(ctx, definition, options); err != nil {
			return nil, err
		}
		return nil, r.requireHermetic(ctx, options.Ref)
	}
	files, err := r.receive(x, func(entry client.ExportEntry) error {
		options.Exports = []client.ExportEntry{entry}
		if r.plan.job.Remains != "" && len(r.packer) > 0 && r.plan.job.Recipe.Builder != "" {
			return r.build(ctx, definition, options)
		}
		return r.follow(ctx, definition, options)
	})
	if err != nil {
		return nil, err
	}
	return files, r.requireHermetic(ctx, options.Ref)
}

// receive runs solve with an export whose stream is read here at the same time.
func (r *run) receive(x *export, solve func(client.ExportEntry) error) ([]build.File, error) {
	reader, writer := io.Pipe()
	type result struct {
		files []build.File
		err   error
	}
	done := make(chan result, 1)
	go func() {
		files, err := x.read(reader, r.plan.job)
		if err == nil {
			_, err = io.Copy(io.Discard, reader) // what pads the end of a tar stream
		}
		reader.CloseWithError(err)
		done <- result{files, err}
	}()
	x.entry.Output = func(map[string]string) (io.WriteCloser, error) { return writer, nil }
	err := solve(x.entry)
	writer.CloseWithError(err) // nil means end of file; a second close does nothing
	read := <-done
	// A reader that gives up makes the export fail as well: its reason is the
	// better one. Else what it says of a stream that broke off is worthless: an
	// output that did not arrive is not one that the commands did not leave.
	if err == nil || errors.Is(read.err, errTooLarge) || errors.Is(read.err, build.ErrTooMany) {
		err = read.err
	}
	if err != nil {
		return nil, err
	}
	return read.files, nil
}

// follow runs a solve and writes its progress to the job's log.
func (r *run) follow(ctx context.Context, definition *llb.Definition, options client.SolveOpt) error {
	stream := make(chan *client.SolveStatus)
	followed := make(chan struct{})
	go func() { r.plan.log.follow(stream); close(followed) }()
	_, err := r.client.Solve(ctx, definition, options, stream)
	<-followed
	return err
}
