package buildkit

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"

	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/pyrsia/appliance/modules/build"
)

// Root is what a job's commands find, and how they run, as this engine gives it
// to BuildKit. It is exported for an engine without BuildKit, so that a recipe
// cannot meet another world there.
type Root struct {
	Layers    []Layer  // of the file system, bottom first
	Variables []string // of every command, NAME=value; of a name that comes twice the last counts
	WorkDir   string   // where every command begins
	Steps     []Step   // in order, until one fails
}

// Layer is one layer of a root.
type Layer struct{ blob blob }

// Step is one command of a recipe.
type Step struct {
	Name   string // for people; has lines where the command does
	Script string // for /bin/sh -eu -c
}

// PackRoot packs the root of a job with a builder image; what it makes on the
// way is left in scratch. Maven, where the recipe uses it, has the job's locked
// files and no other, or the mirror at MirrorAddress and no other to resolve
// with. What is the recipe's fault wraps build.ErrFailed.
func PackRoot(ctx context.Context, job build.Job, scratch string, resolve bool) (*Root, error) {
	if err := checkJob(job); err != nil {
		return nil, err
	}
	p := newPlan(ctx, job, scratch)
	if resolve {
		p.relay = &relayPlan{}
	}
	image, layers, err := p.layers()
	if errors.Is(err, errInput) {
		return nil, fmt.Errorf("%w: %w", build.ErrFailed, err)
	}
	if err != nil {
		return nil, err
	}
	root := &Root{Variables: p.variables(image.config.Env), WorkDir: p.workDir(), Steps: p.steps()}
	for _, b := range layers {
		root.Layers = append(root.Layers, Layer{b})
	}
	return root, nil
}

// layerEndings are the media types of layers as decompress names them.
var layerEndings = map[string]string{
	ocispecs.MediaTypeImageLayer: ".tar", ocispecs.MediaTypeImageLayerGzip: ".tar.gz", ocispecs.MediaTypeImageLayerZstd: ".tar.zst",
}

// Open opens the layer as an uncompressed tar stream.
func (l Layer) Open() (io.ReadCloser, error) {
	file, err := l.blob.read()
	if err != nil {
		return nil, err
	}
	plain, err := decompress(bufio.NewReaderSize(file, copyBuffer), layerEndings[l.blob.descriptor.MediaType])
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return layerStream{plain, file}, nil
}

// layerStream closes the file below the decompression as well.
type layerStream struct {
	io.ReadCloser
	file io.Closer
}

// Close implements io.Closer.
func (s layerStream) Close() error { return errors.Join(s.ReadCloser.Close(), s.file.Close()) }
