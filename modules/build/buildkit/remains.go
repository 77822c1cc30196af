package buildkit

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
)

const (
	// maxRemains bounds what is kept of a failed build, bytes before compression.
	maxRemains = 256 << 20
	// remainsTime is how long taking it may last; a person waits for the failure.
	remainsTime = 2 * time.Minute
)

// build has BuildKit make the definition as a front end of our own would: when a command
// fails, the root that it left is still there to look into, for as long as the front end
// has not ended.
func (r *run) build(ctx context.Context, definition *llb.Definition, options client.SolveOpt) error {
	stream := make(chan *client.SolveStatus)
	followed := make(chan struct{})
	go func() { r.plan.log.follow(stream); close(followed) }()
	_, err := r.client.Build(ctx, options, "", func(ctx context.Context, g gateway.Client) (*gateway.Result, error) {
		result, err := g.Solve(ctx, gateway.SolveRequest{Definition: definition.ToPB(), Evaluate: true})
		if err != nil {
			r.keepRemains(ctx, g, err)
		}
		return result, err
	}, stream)
	<-followed
	return err
}

// keepRemains leaves a gzipped tar of what the failing command left where the outputs would
// have been. That it cannot be had is a line of the log: the failure is what counts.
func (r *run) keepRemains(ctx context.Context, g gateway.Client, failure error) {
	var failed *errdefs.SolveError
	if ctx.Err() != nil || !errors.As(failure, &failed) || failed.Solve == nil || failed.Solve.GetOp().GetExec() == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, remainsTime)
	defer cancel()
	partial := r.plan.job.Remains + ".partial" // whoever looks meanwhile finds nothing
	size, err := r.takeRemains(ctx, g, failed, partial)
	if err == nil && size > emptyTar {
		err = os.Rename(partial, r.plan.job.Remains)
	}
	switch {
	case err != nil:
		r.plan.log.say("what the failed command left is not kept: %s", oneLine(err.Error()))
	case size > emptyTar:
		r.plan.log.say("what the failed command left is kept for a while")
	}
	os.Remove(partial) //nolint:errcheck // it is there where it was not kept, and made anew the next time
}

func (r *run) takeRemains(ctx context.Context, g gateway.Client, failed *errdefs.SolveError, name string) (size int64, err error) {
	container, err := r.openRemains(ctx, g, failed)
	if err != nil {
		return 0, err
	}
	defer container.Release(context.WithoutCancel(ctx)) //nolint:errcheck // the build is over
	file, err := os.Create(name)
	if err != nil {
		return 0, err
	}
	packed := &packedRemains{to: gzip.NewWriter(file)}
	err = r.packRemains(ctx, container, packed)
	return packed.size, errors.Join(packed.err, err, packed.to.Close(), file.Sync(), file.Close())
}

// emptyTar is the size of a tar with nothing in it.
const emptyTar = 1024

// remainsMount is where the failed root is for who packs it.
const remainsMount = "/remains"

// openRemains makes a container of our own program, with the failed root beside it: no
// program of that root runs, for nothing would bound it.
func (r *run) openRemains(ctx context.Context, g gateway.Client, failed *errdefs.SolveError) (gateway.Container, error) {
	at := slices.IndexFunc(failed.Solve.Op.GetExec().Mounts, func(m *pb.Mount) bool { return m.Dest == "/" })
	if at < 0 || at >= len(failed.Solve.MountIDs) {
		return nil, errors.New("BuildKit has no root of it")
	}
	program, err := packProgram(ctx, r.plan.scratch, r.packer[0])
	if err != nil {
		return nil, err
	}
	state, err := r.plan.source(remainsSource, program)
	if err != nil {
		return nil, err
	}
	definition, err := state.Marshal(ctx, llb.Platform(platform))
	if err != nil {
		return nil, err
	}
	result, err := g.Solve(ctx, gateway.SolveRequest{Definition: definition.ToPB(), Evaluate: true})
	if err != nil {
		return nil, err
	}
	root, err := result.SingleRef()
	if err != nil {
		return nil, err
	}
	return g.NewContainer(ctx, gateway.NewContainerRequest{NetMode: pb.NetMode_NONE, Mounts: []gateway.Mount{
		{Dest: "/", MountType: pb.MountType_BIND, Ref: root},
		{Dest: remainsMount, MountType: pb.MountType_BIND, ResultID: failed.Solve.MountIDs[at], Readonly: true},
	}})
}

func (r *run) packRemains(ctx context.Context, container gateway.Container, to io.WriteCloser) error {
	said := new(firstLine)
	arguments := append([]string{"/" + path.Base(relayProgram)}, r.packer[1:]...)
	process, err := container.Start(ctx, gateway.StartRequest{
		Args: append(append(arguments, "pack", remainsMount, r.plan.workDir()), r.plan.remains()...),
		Cwd:  "/", SecurityMode: pb.SecurityMode_SANDBOX, Stdout: to, Stderr: said,
	})
	if err != nil {
		return err
	}
	if err := process.Wait(); err != nil {
		return fmt.Errorf("%s: %w", oneLine(said.text.String()), err)
	}
	return nil
}

// remains are the folders that outputs would be in: what a compiler and tests wrote is
// beside them. Outputs in the working folder itself are packed alone, for the whole of the
// source is there too.
func (p *plan) remains() []string {
	var places []string
	for _, o := range p.job.Recipe.Outputs {
		place := path.Clean(o.Path)
		if parent := path.Dir(place); parent != "." {
			place = parent
		}
		if !slices.Contains(places, place) {
			places = append(places, place)
		}
	}
	return places
}

// packedRemains takes so many bytes, and fails with more.
type packedRemains struct {
	to   *gzip.Writer
	size int64
	err  error
}

// Write implements io.Writer.
func (p *packedRemains) Write(data []byte) (int, error) {
	if p.size += int64(len(data)); p.size > maxRemains {
		p.err = fmt.Errorf("it has more than %d MiB", maxRemains>>20)
		return 0, p.err
	}
	return p.to.Write(data)
}

// Close implements io.Closer; the file is closed by who opened it.
func (p *packedRemains) Close() error { return nil }

// firstLine takes the beginning of what a program says.
type firstLine struct{ text strings.Builder }

// Write implements io.Writer.
func (f *firstLine) Write(data []byte) (int, error) {
	const enough = 1000
	f.text.Write(data[:min(len(data), max(0, enough-f.text.Len()))])
	return len(data), nil
}

// Close implements io.Closer.
func (f *firstLine) Close() error { return nil }
