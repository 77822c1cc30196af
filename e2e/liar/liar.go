// Package liar is a build node's lies, each around the real thing: an engine that
// tells something else than it built, a way to the others that contradicts itself, and
// inputs that others do not have. Stories of liars use it; the product has no such
// switch.
package liar

import (
	"context"
	"os"

	"github.com/pyrsia/appliance/modules/build"
)

// Engine alters the last byte of the first output of each build.
type Engine struct {
	build.Engine
	Lie byte // below 128; liars with equal numbers lie alike
}

// Build implements build.Engine.
func (e Engine) Build(ctx context.Context, job build.Job) ([]build.File, error) {
	files, err := e.Engine.Build(ctx, job)
	if err != nil || len(files) == 0 || job.Recipe.Builder == "" {
		return files, err // the builder image is built honestly, so that there is something to build with
	}
	return files, alter(files[0].Path, e.Lie)
}

// alter changes the file's last byte.
func alter(path string, lie byte) error {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	last := make([]byte, 1)
	if _, err := file.ReadAt(last, info.Size()-1); err != nil {
		return err
	}
	last[0] ^= 0x80 | lie
	if _, err := file.WriteAt(last, info.Size()-1); err != nil {
		return err
	}
	return file.Sync()
}
