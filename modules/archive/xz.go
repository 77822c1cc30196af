package archive

import (
	"errors"
	"fmt"
	"io"

	"github.com/xi2/xz"
)

// MaxDictionary bounds, in bytes, what the decoder of .xz takes memory for: what the
// strongest preset of the xz program uses. The header of each block asks for it, up to
// 4 GiB.
const MaxDictionary = 64 << 20

// OpenXZ reads .xz streams, one after the other, of which none has a larger dictionary.
func OpenXZ(r io.Reader) (io.Reader, error) {
	z, err := xz.NewReader(r, MaxDictionary)
	if err != nil {
		return nil, err
	}
	return &xzReader{z}, nil
}

type xzReader struct{ *xz.Reader }

// Read implements io.Reader.
func (r *xzReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if errors.Is(err, xz.ErrMemlimit) {
		err = fmt.Errorf("xz: a dictionary of more than %d MiB", MaxDictionary>>20)
	}
	return n, err
}
