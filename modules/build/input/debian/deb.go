package debian

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"

	"github.com/ulikunitz/xz"
)

// maxKeyringUnpacked bounds the unpacked keyring package; Debian's has 400 kB.
const maxKeyringUnpacked = 4 << 20

// maxDictionary bounds what unpacking may allocate; dpkg-deb uses 8 MiB at most
// for a package of this size.
const maxDictionary = 64 << 20

// Keyrings are the OpenPGP keyrings in a keyring package: the files below
// usr/share/keyrings of a .deb. Nothing is trusted by being in there: the
// fingerprints of the recipe decide.
func Keyrings(deb []byte) ([][]byte, error) {
	data, err := dataArchive(deb)
	if err != nil {
		return nil, fmt.Errorf("keyring package: %w", err)
	}
	var keyrings [][]byte
	archive := tar.NewReader(&bounded{r: data, left: maxKeyringUnpacked})
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return keyrings, nil
		}
		if err != nil {
			return nil, fmt.Errorf("keyring package: %w: %w", ErrMalformed, err)
		}
		if header.Typeflag != tar.TypeReg || path.Dir(path.Clean("/"+header.Name)) != "/usr/share/keyrings" {
			continue
		}
		keyring, err := io.ReadAll(archive)
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
		if err := checkXZ(data); err != nil {
			return nil, err
		}
		return xz.ReaderConfig{SingleStream: true}.NewReader(bytes.NewReader(data))
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

// checkXZ refuses an xz stream of several blocks, or with a dictionary that is
// too large: the decoder allocates what a block's header asks for (The .xz File
// Format, 2.1.2 and 3.1).
func checkXZ(data []byte) error {
	const streamHeader, streamFooter = 12, 12
	if len(data) < streamHeader+streamFooter+12 {
		return fmt.Errorf("%w: xz stream too short", ErrMalformed)
	}
	footer := data[len(data)-streamFooter:]
	index := (int64(binary.LittleEndian.Uint32(footer[4:8])) + 1) * 4
	start := int64(len(data)-streamFooter) - index
	several := fmt.Errorf("%w: xz stream is not of one block", ErrMalformed)
	if start < streamHeader || data[start] != 0 || data[start+1] != 1 {
		return several
	}
	// The one block reaches from the stream's header to the index.
	size, n := binary.Uvarint(data[start+2:])
	if n <= 0 || size > uint64(start) || streamHeader+(int64(size)+3)&^3 != start {
		return several
	}
	return checkXZBlock(data[streamHeader:start])
}

func checkXZBlock(block []byte) error {
	bad := fmt.Errorf("%w: xz block header", ErrMalformed)
	if len(block) < 8 {
		return bad
	}
	flags, rest := block[1], block[2:]
	if flags&0x3f != 0 { // reserved bits, or more than the one filter
		return bad
	}
	for _, present := range []byte{flags & 0x40, flags & 0x80} {
		if present == 0 {
			continue
		}
		_, n := binary.Uvarint(rest)
		if n <= 0 {
			return bad
		}
		rest = rest[n:]
	}
	const lzma2 = 0x21
	if len(rest) < 3 || rest[0] != lzma2 || rest[1] != 1 {
		return bad
	}
	bits := uint(rest[2])
	if bits > 40 || uint64(2|bits&1)<<(bits/2+11) > maxDictionary {
		return fmt.Errorf("%w: xz dictionary of more than %d bytes", ErrMalformed, maxDictionary)
	}
	return nil
}
