package git

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
)

const copyBuffer = 256 * 1024

// packTree writes the tree of a commit as a tar. All of the tree is looked at
// before the first byte is written, all but the content of files.
func packTree(ctx context.Context, from objects, s Source, out io.Writer, limits bounds) error {
	data, err := content(from, plumbing.NewHash(s.Commit), plumbing.CommitObject, maxCommit)
	if err != nil {
		return err
	}
	tree, err := parseCommit(data)
	if err != nil {
		return err
	}
	w := &walker{from: from, limits: limits, room: limits.bytes, filled: map[string]bool{}}
	for _, at := range s.Submodules {
		w.filled[at] = true
	}
	if err := w.walk(ctx, tree, "", 0); err != nil {
		return err
	}
	for _, at := range slices.Sorted(maps.Keys(w.filled)) {
		if w.filled[at] {
			return refused("%.200q is no submodule of it", at)
		}
	}
	if len(w.places) == 0 {
		return refused("its tree is empty")
	}
	if err := w.checkLinks(ctx); err != nil {
		return err
	}
	return w.write(ctx, out)
}

func (w *walker) write(ctx context.Context, out io.Writer) error {
	archive := tar.NewWriter(out)
	buffer := make([]byte, copyBuffer)
	for _, p := range w.places {
		if err := w.writePlace(ctx, archive, p, buffer); err != nil {
			return fmt.Errorf("pack %.200q: %w", p.path, err)
		}
	}
	return archive.Close()
}

func (w *walker) writePlace(ctx context.Context, archive *tar.Writer, p place, buffer []byte) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	// PAX is what the format falls back to for names that ustar has no room for.
	h := tar.Header{Name: p.path, Mode: 0o644, ModTime: time.Unix(0, 0), Format: tar.FormatPAX}
	switch p.kind {
	case folder:
		h.Typeflag, h.Name, h.Mode = tar.TypeDir, p.path+"/", 0o755
		return archive.WriteHeader(&h)
	case link:
		h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, p.target, 0o777
		return archive.WriteHeader(&h)
	case executable:
		h.Mode = 0o755
	}
	blob, err := open(w.from, p.hash, plumbing.BlobObject)
	if err != nil {
		return err
	}
	defer blob.Close()
	if err := w.take(p.path, blob.size); err != nil {
		return err
	}
	h.Typeflag, h.Size = tar.TypeReg, blob.size
	if err := archive.WriteHeader(&h); err != nil {
		return err
	}
	_, err = io.CopyBuffer(onlyWriter{archive}, until{ctx, blob}, buffer)
	return err
}

// onlyWriter hides tar.Writer's ReadFrom, which would ignore our buffer.
type onlyWriter struct{ io.Writer }

// until reads as long as the context lasts.
type until struct {
	ctx context.Context
	r   io.Reader
}

func (u until) Read(p []byte) (int, error) {
	if err := context.Cause(u.ctx); err != nil {
		return 0, err
	}
	return u.r.Read(p)
}
