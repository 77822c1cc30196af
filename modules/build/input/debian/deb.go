package debian

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"

	"github.com/pyrsia/appliance/modules/archive"
)

// maxKeyringUnpacked bounds the unpacked keyring package; Debian's has 400 kB.
const maxKeyringUnpacked = 4 << 20

// Keyrings are the OpenPGP keyrings in a keyring package: the files below
// usr/share/keyrings of a .deb. Nothing is trusted by being in there: the
// fingerprints of the recipe decide.
func Keyrings(deb []byte) ([][]byte, error) {
	data, err := dataArchive(deb)
	if err != nil {
		return nil, fmt.Errorf("keyring package: %w", err)
	}
	var keyrings [][]byte
	files := tar.NewReader(&bounded{r: data, left: maxKeyringUnpacked})
	left := int64(maxKeyringUnpacked) // of what comes out of the tar, which may be more than goes in
	for {
		header, err := files.Next()
		if errors.Is(err, io.EOF) {
			return keyrings, nil
		}
		if err != nil {
			return nil, fmt.Errorf("keyring package: %w: %w", ErrMalformed, err)
		}
		if header.Typeflag != tar.TypeReg || path.Dir(path.Clean("/"+header.Name)) != "/usr/share/keyrings" {
			continue
		}
		if left -= header.Size; left < 0 || archive.IsSparse(header) {
			return nil, fmt.Errorf("keyring package: %w: its keyrings have more than %d bytes, or holes", ErrMalformed, maxKeyringUnpacked)
		}
		keyring, err := io.ReadAll(files)
		if err != nil {
			return nil, fmt.Errorf("keyring package: %w: %w", ErrMalformed, err)
		}
		keyrings = append(keyrings, keyring)
	}
}

// dataArchive is the tar of a .deb's files (deb(5)).
func dataArchive(deb []byte) (io.Reader, error) {
	name, data, err := arMember(deb, "data.tar")
	if err != nil {
		return nil, err
	}
	switch name {
	case "data.tar":
		return bytes.NewReader(data), nil
	case "data.tar.gz":
		return gzip.NewReader(bytes.NewReader(data))
	case "data.tar.xz":
		return archive.OpenXZ(bytes.NewReader(data))
	}
	return nil, fmt.Errorf("%w: no way to unpack %.40q", ErrMalformed, name)
}

const arMagic, arHeader = "!<arch>\n", 60

// arMember finds the first member of an ar archive whose name begins with the
// prefix.
func arMember(data []byte, prefix string) (string, []byte, error) {
	rest, found := bytes.CutPrefix(data, []byte(arMagic))
	if !found {
		return "", nil, fmt.Errorf("%w: not a .deb", ErrMalformed)
	}
	for len(rest) >= arHeader {
		name := strings.TrimRight(strings.TrimSpace(string(rest[:16])), "/")
		size, err := strconv.ParseInt(strings.TrimSpace(string(rest[48:58])), 10, 64)
		rest = rest[arHeader:]
		if err != nil || size < 0 || size > int64(len(rest)) {
			return "", nil, fmt.Errorf("%w: .deb member %.20q has a wrong size", ErrMalformed, name)
		}
		if strings.HasPrefix(name, prefix) {
			return name, rest[:size], nil
		}
		rest = rest[min(size+size%2, int64(len(rest))):]
	}
	return "", nil, fmt.Errorf("%w: .deb without %s", ErrMalformed, prefix)
}
