package relay

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
)

// Bounds of what is packed: names cost memory, which nothing else here bounds, and links to
// one file take no disk; each folder on the way is open.
const (
	maxPacked = 100_000  // files and folders
	maxNames  = 32 << 20 // of their paths together, bytes
	maxDepth  = 200      // folders in each other
)

// Pack writes a tar of what is at the places below a folder of a root: files, folders and
// links, none of which is followed out of the root, nor the folder's own path. Places that
// are not there are left out.
func Pack(w io.Writer, root, folder string, places []string) error {
	top, err := os.OpenRoot(root)
	if err != nil {
		return err
	}
	defer top.Close()
	below, err := top.OpenRoot(path.Join(".", path.Clean("/"+folder)))
	if errors.Is(err, fs.ErrNotExist) {
		return tar.NewWriter(w).Close()
	}
	if err != nil {
		return err
	}
	defer below.Close()
	p := &packer{root: below, tar: tar.NewWriter(w), packed: map[string]bool{}}
	for _, place := range places {
		err := p.pack(path.Clean(place), 0)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("pack %s: %w", place, err)
		}
	}
	return p.tar.Close()
}

type packer struct {
	root   *os.Root
	tar    *tar.Writer
	packed map[string]bool // by path: places may lie in each other
	names  int             // of packed, bytes
}

// pack packs what is at a path, and below it. Sockets, devices and pipes are left out.
func (p *packer) pack(name string, depth int) error {
	info, err := p.root.Lstat(name)
	if err != nil || p.packed[name] || !info.Mode().IsRegular() && !info.IsDir() && info.Mode()&fs.ModeSymlink == 0 {
		return err
	}
	if p.names += len(name); len(p.packed) >= maxPacked || p.names > maxNames || depth > maxDepth {
		return fmt.Errorf("it has more than %d files, or %d bytes of names, or %d folders in each other", maxPacked, maxNames, maxDepth)
	}
	p.packed[name] = true
	if err := p.visit(name, info); err != nil || !info.IsDir() {
		return err
	}
	folder, err := p.root.Open(name)
	if err != nil {
		return err
	}
	defer folder.Close()
	for {
		entries, err := folder.ReadDir(1000) // a folder may have more names than fit
		for _, entry := range entries {
			if err := p.pack(path.Join(name, entry.Name()), depth+1); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// visit packs one file, link or folder.
func (p *packer) visit(name string, info fs.FileInfo) (err error) {
	target := ""
	if info.Mode()&fs.ModeSymlink != 0 {
		if target, err = p.root.Readlink(name); err != nil {
			return err
		}
	}
	header, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return err
	}
	header.Name = name
	if info.IsDir() {
		header.Name += "/"
	}
	header.Uname, header.Gname = "", ""
	if err := p.tar.WriteHeader(header); err != nil || !info.Mode().IsRegular() {
		return err
	}
	file, err := p.root.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = io.CopyN(p.tar, file, info.Size())
	return err
}
