package buildkit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/content/proxy"
	control "github.com/moby/buildkit/api/services/control"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// provenance is what we read of the SLSA version 1 predicate that BuildKit
// keeps of each build.
type provenance struct {
	RunDetails struct {
		Metadata struct {
			Hermetic bool `json:"buildkit_hermetic"`
		} `json:"metadata"`
	} `json:"runDetails"`
}

const maxProvenanceBytes = 64 << 20

// requireHermetic asks BuildKit's record of a build whether it was hermetic: no
// step had a network, and every source is known by its digest.
func (r *run) requireHermetic(ctx context.Context, ref string) error {
	history, err := r.client.ControlClient().ListenBuildHistory(ctx, &control.BuildHistoryRequest{Ref: ref, EarlyExit: true})
	if err != nil {
		return fmt.Errorf("read the provenance: %w", err)
	}
	for {
		event, err := history.Recv()
		if errors.Is(err, io.EOF) {
			return errors.New("BuildKit kept no provenance of the build")
		}
		if err != nil {
			return fmt.Errorf("read the provenance: %w", err)
		}
		if event.Record == nil || event.Record.Ref != ref || event.Record.Result == nil {
			continue
		}
		return r.checkHermetic(ctx, event.Record.Result.Attestations)
	}
}

func (r *run) checkHermetic(ctx context.Context, attestations []*control.Descriptor) error {
	if len(attestations) == 0 {
		return errors.New("BuildKit kept no provenance of the build")
	}
	store := proxy.NewContentStore(r.client.ContentClient())
	for _, a := range attestations {
		if a.Size < 0 || a.Size > maxProvenanceBytes {
			return fmt.Errorf("the provenance has %d bytes", a.Size)
		}
		data, err := content.ReadBlob(ctx, store, ocispecs.Descriptor{Digest: digest.Digest(a.Digest), Size: a.Size})
		if err != nil {
			return fmt.Errorf("read the provenance: %w", err)
		}
		var p provenance
		if err := json.Unmarshal(data, &p); err != nil {
			return fmt.Errorf("read the provenance: %w", err)
		}
		if !p.RunDetails.Metadata.Hermetic {
			return errors.New("BuildKit does not call the build hermetic; its outputs are not used")
		}
	}
	return nil
}
