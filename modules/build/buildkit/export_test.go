package buildkit

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"

	"github.com/moby/buildkit/client/llb"

	"github.com/pyrsia/appliance/modules/build"
)

// StoreID names the inputs' layout to BuildKit.
const StoreID = storeID

// Definition is a job's LLB for BuildKit's own client. The job's inputs are
// left in folder as an OCI layout, what is packed on the way in scratch.
func Definition(ctx context.Context, job build.Job, scratch, folder string) ([]byte, error) {
	p := newPlan(ctx, job, scratch)
	p.log = newProgress(io.Discard)
	state, err := p.packages()
	if err != nil {
		return nil, err
	}
	blobs := filepath.Join(folder, "blobs", "sha256")
	if err := os.MkdirAll(blobs, 0o755); err != nil {
		return nil, err
	}
	for d, part := range p.inputs.blobs {
		if err := writeBlob(filepath.Join(blobs, d.Encoded()), part); err != nil {
			return nil, err
		}
	}
	marshalled, err := p.outputs(state).Marshal(ctx, llb.Platform(platform))
	if err != nil {
		return nil, err
	}
	var definition bytes.Buffer
	err = llb.WriteTo(marshalled, &definition)
	return definition.Bytes(), err
}

func writeBlob(name string, part blob) error {
	if part.open == nil {
		return os.WriteFile(name, part.bytes, 0o644)
	}
	from, err := part.read()
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.Create(name)
	if err != nil {
		return err
	}
	defer to.Close()
	_, err = io.Copy(to, from)
	return err
}
