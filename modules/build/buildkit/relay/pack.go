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

// Pack writes a tar of what is at the places below a folder: files, folders and links, none
// of which is followed out of the folder. Places that are not there are left out.
func Pack(w io.Writer, folder string, places []string) error {
	root, err := os.OpenRoot(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return tar.NewWriter(w).Close()
	}
	if err != nil {
		return err
	}
	defer root.Close()
	p := &packer{root: root, tar: tar.NewWriter(w), packed: map[string]bool{}}
	for _, place := range places {
		err := p.place(path.Clean(place))
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

// place packs what is at a path. Walking begins by following a link there.
func (p *packer) place(name string) error {
	info, err := p.root.Lstat(name)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return p.visit(name, fs.FileInfoToDirEntry(info), nil)
	}
	return fs.WalkDir(p.root.FS(), name, p.visit)
}

func (p *packer) visit(name string, entry fs.DirEntry, err error) error {
	if err != nil {
		return err
	}
	info, err := p.root.Lstat(name)
	if err != nil {
		return err
	}
	if p.packed[name] || !info.Mode().IsRegular() && !info.IsDir() && info.Mode()&fs.ModeSymlink == 0 {
		return nil
	}
	p.packed[name] = true
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
