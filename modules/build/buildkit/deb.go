package buildkit

import (
	"archive/tar"
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
	"strings"
)

const (
	arMagic      = "!<arch>\n"
	arHeaderSize = 60
)

// debData finds the compressed tar archive of files in a Debian binary package
// (deb(5)): an ar archive of debian-binary, control.tar.* and data.tar.*. It
// returns a reader of that member and its name.
func debData(r io.Reader) (io.Reader, string, error) {
	magic := make([]byte, len(arMagic))
	if _, err := io.ReadFull(r, magic); err != nil || string(magic) != arMagic {
		return nil, "", fmt.Errorf("%w: no Debian package", errInput)
	}
	// Members before the one we want: debian-binary, control.tar.*, and as the
	// format allows a few whose names begin with "_".
	for range 16 {
		name, size, err := arHeader(r)
		if err != nil {
			return nil, "", err
		}
		if strings.HasPrefix(name, "data.tar") {
			return io.LimitReader(r, size), name, nil
		}
		if _, err := io.CopyN(io.Discard, r, size+size%2); err != nil {
			return nil, "", fmt.Errorf("%w: member %.32q: %w", errInput, name, err)
		}
	}
	return nil, "", fmt.Errorf("%w: no data.tar among the first members", errInput)
}

// arHeader reads one member header of the common ar format: name 16 bytes,
// time 12, owner 6, group 6, mode 8, size 10, end 2.
func arHeader(r io.Reader) (name string, size int64, err error) {
	header := make([]byte, arHeaderSize)
	if _, err := io.ReadFull(r, header); err != nil {
		return "", 0, fmt.Errorf("%w: member header: %w", errInput, err)
	}
	if string(header[58:]) != "`\n" {
		return "", 0, fmt.Errorf("%w: member header without its end mark", errInput)
	}
	size, err = strconv.ParseInt(strings.TrimRight(string(header[48:58]), " "), 10, 64)
	if err != nil || size < 0 {
		return "", 0, fmt.Errorf("%w: member size %q", errInput, header[48:58])
	}
	return strings.TrimSuffix(strings.TrimRight(string(header[:16]), " "), "/"), size, nil
}

// deb unpacks the files of a Debian package into the layer, with their modes
// and owners. aliases are the links that stand for folders at the top (bin →
// usr/bin) and grows with the links that this package brings.
func (l *layerWriter) deb(file *os.File, aliases map[string]string) error {
	member, name, err := debData(bufio.NewReaderSize(file, copyBuffer))
	if err != nil {
		return err
	}
	if name == "data.tar" {
		name += ".tar"
	}
	plain, err := decompress(member, name)
	if err != nil {
		return err
	}
	defer plain.Close()
	archive := tar.NewReader(plain)
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%w: %w", errInput, err)
		}
		if err := l.debEntry(h, archive, aliases); err != nil {
			return err
		}
	}
}

func (l *layerWriter) debEntry(h *tar.Header, content io.Reader, aliases map[string]string) error {
	name, err := debPath(h.Name, aliases)
	if err != nil || name == "" {
		return err
	}
	if there := l.packed[name]; there != nil && (h.Typeflag != tar.TypeDir || there.Typeflag == tar.TypeSymlink) {
		// Packages that replace each other's files may both carry one; which
		// comes first is fixed by the packages' names.
		return nil
	}
	mode := h.Mode & 0o7777
	switch h.Typeflag {
	case tar.TypeDir:
		return l.folder(name, mode, h.Uid, h.Gid)
	case tar.TypeSymlink:
		if !strings.Contains(name, "/") && !strings.HasPrefix(h.Linkname, "/") {
			aliases[name] = path.Clean(h.Linkname)
		}
		return l.symlink(name, h.Linkname, h.Uid, h.Gid)
	case tar.TypeLink:
		target, err := debPath(h.Linkname, aliases)
		if err != nil {
			return err
		}
		return l.hardlink(name, target)
	case tar.TypeReg:
		if err := solid(h); err != nil {
			return err
		}
		return l.regular(name, mode, h.Uid, h.Gid, h.Size, content)
	default:
		return fmt.Errorf("%w: %.200q is neither file, folder nor link", errInput, h.Name)
	}
}

// debPath is an entry's path in the layer, "" for the root itself.
func debPath(name string, aliases map[string]string) (string, error) {
	clean := path.Clean("/" + name)[1:]
	if strings.Contains("/"+name+"/", "/../") {
		return "", fmt.Errorf("%w: path %.200q", errInput, name)
	}
	first, rest, below := strings.Cut(clean, "/")
	if target, ok := aliases[first]; ok && below {
		return target + "/" + rest, nil
	}
	return clean, nil
}
