package buildtest

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strconv"
	"strings"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/build"
	"github.com/pyrsia/appliance/modules/build/buildkit"
	"github.com/pyrsia/appliance/modules/record"
)

// unpack makes a folder of layers, with the places that a step mounts to.
func unpack(folder string, layers []buildkit.Layer) error {
	for _, place := range []string{"dev", "proc", "run", "sys", "tmp"} {
		if err := os.MkdirAll(filepath.Join(folder, place), 0o755); err != nil {
			return err
		}
	}
	root, err := os.OpenRoot(folder)
	if err != nil {
		return err
	}
	defer root.Close()
	for i, l := range layers {
		if err := unpackLayer(root, l); err != nil {
			return fmt.Errorf("unpack layer %d of %d: %w", i+1, len(layers), err)
		}
	}
	return nil
}

func unpackLayer(root *os.Root, l buildkit.Layer) error {
	stream, err := l.Open()
	if err != nil {
		return err
	}
	defer stream.Close()
	var folders []*tar.Header
	archive := tar.NewReader(stream)
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		h.Name = path.Clean(h.Name)
		if h.Typeflag == tar.TypeDir {
			folders = append(folders, h)
		}
		if err := unpackEntry(root, h, archive); err != nil {
			return err
		}
	}
	// What came into a folder has changed its time.
	for _, h := range folders {
		if err := root.Chtimes(h.Name, h.ModTime, h.ModTime); err != nil {
			return err
		}
	}
	return nil
}

func unpackEntry(root *os.Root, h *tar.Header, content io.Reader) error {
	if h.Typeflag == tar.TypeDir {
		return errors.Join(root.MkdirAll(h.Name, 0o755), own(root, h))
	}
	if err := root.Remove(h.Name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	switch h.Typeflag {
	case tar.TypeReg:
		file, err := root.OpenFile(h.Name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		_, err = io.Copy(file, content)
		return errors.Join(err, file.Close(), own(root, h))
	case tar.TypeSymlink:
		return errors.Join(root.Symlink(h.Linkname, h.Name), root.Lchown(h.Name, h.Uid, h.Gid))
	case tar.TypeLink:
		return root.Link(path.Clean(h.Linkname), h.Name)
	}
	return fmt.Errorf("%q is neither file, folder nor link", h.Name)
}

// own gives an entry its owner, mode and time.
func own(root *os.Root, h *tar.Header) error {
	return errors.Join(root.Lchown(h.Name, h.Uid, h.Gid), root.Chmod(h.Name, h.FileInfo().Mode()), root.Chtimes(h.Name, h.ModTime, h.ModTime))
}

// outputs takes a recipe's outputs out of a root. Links are not followed, as
// the engine of the product follows none.
func outputs(job build.Job, folder, workDir string) ([]build.File, error) {
	root, err := os.OpenRoot(folder)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	out := &outgoing{job: job, root: root, room: job.Recipe.Limits.Disk}
	for _, o := range job.Recipe.Outputs {
		inside := strings.TrimPrefix(path.Join(workDir, o.Path), "/")
		name := artifact.Name{Package: o.Package, File: o.File}
		if _, family := name.Family(); family {
			err = out.family(o, inside)
		} else {
			err = out.take(name, inside, fmt.Sprintf("%s, which the recipe publishes as %s", o.Path, o.File))
		}
		if err != nil {
			return nil, err
		}
	}
	sort.Slice(out.files, func(i, j int) bool { return out.files[i].Name.String() < out.files[j].Name.String() })
	return out.files, syncPath(job.Folder)
}

// outgoing are the outputs on their way out of a root.
type outgoing struct {
	job   build.Job
	root  *os.Root
	room  int64 // bytes left of the recipe's limit
	files []build.File
}

func (out *outgoing) take(name artifact.Name, inside, what string) error {
	size, ok := plainFile(out.root, inside)
	if !ok {
		return fmt.Errorf("%w: the commands left no file %s", build.ErrFailed, what)
	}
	if out.room -= size; out.room < 0 && out.job.Recipe.Limits.Disk > 0 {
		return fmt.Errorf("%w: the outputs are larger than the recipe's limit of disk space", build.ErrFailed)
	}
	if len(out.files) == build.MaxFiles {
		return build.ErrTooMany
	}
	f := build.File{Name: name, Path: filepath.Join(out.job.Folder, "output-"+strconv.Itoa(len(out.files)))}
	out.files = append(out.files, f)
	return copyOut(f.Path, out.root, inside)
}

// family takes every plain file of a family's folder.
func (out *outgoing) family(o record.Output, folder string) error {
	before := len(out.files)
	entries, _ := fs.ReadDir(out.root.FS(), folder) // one that is missing has no files
	for _, entry := range entries {
		inside := path.Join(folder, entry.Name())
		if _, plain := plainFile(out.root, inside); !plain {
			continue
		}
		name, err := build.FamilyMember(o, entry.Name())
		if err != nil {
			return err
		}
		if err := out.take(name, inside, inside); err != nil {
			return err
		}
	}
	if len(out.files) == before {
		return fmt.Errorf("%w: the commands left no file in %s, which the recipe publishes as %s", build.ErrFailed, o.Path, o.File)
	}
	return nil
}

// plainFile tells whether a file is there, and its size, with no link on the
// way to it.
func plainFile(root *os.Root, name string) (size int64, ok bool) {
	for at := range name {
		if name[at] != '/' {
			continue
		}
		if info, err := root.Lstat(name[:at]); err != nil || !info.IsDir() {
			return 0, false
		}
	}
	info, err := root.Lstat(name)
	if err != nil || !info.Mode().IsRegular() {
		return 0, false
	}
	return info.Size(), true
}

func copyOut(to string, root *os.Root, name string) error {
	source, err := root.Open(name)
	if err != nil {
		return err
	}
	defer source.Close()
	return errors.Join(writeNew(to, 0o644, source), syncPath(to))
}

func writeNew(name string, mode os.FileMode, content io.Reader) error {
	file, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, content)
	return errors.Join(err, file.Close())
}

func syncPath(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
