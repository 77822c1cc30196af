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

// maxPacked is how many files and folders are packed: names cost memory, which nothing else
// here bounds, and links to one file take no disk.
const maxPacked = 100_000

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
		err := p.pack(path.Clean(place))
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
}

// pack packs what is at a path, and below it.
func (p *packer) pack(name string) error {
	info, err := p.root.Lstat(name)
	if err != nil || p.packed[name] {
		return err
	}
	if len(p.packed) >= maxPacked {
		return fmt.Errorf("it has more than %d files", maxPacked)
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
			if err := p.pack(path.Join(name, entry.Name())); err != nil {
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

// visit packs one file, link or folder; others, such as sockets, are left out.
func (p *packer) visit(name string, info fs.FileInfo) (err error) {
	if !info.Mode().IsRegular() && !info.IsDir() && info.Mode()&fs.ModeSymlink == 0 {
		return nil
	}
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
