package archive

import (
	"archive/tar"
	"strings"
)

// IsSparse tells whether a tar's entry is a file with holes in one of GNU tar's forms,
// which archive/tar expands: a few bytes of archive would become any number of zeros.
// Nothing that is released is packed so.
func IsSparse(h *tar.Header) bool {
	if h.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false
}
