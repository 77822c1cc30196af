package node

import (
	"strings"
	"testing"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/store/disk"
)

// TestKeptInputs: that somebody asks for a file with a lock keeps nothing; what an attempt
// builds with stays, and must be there.
func TestKeptInputs(t *testing.T) {
	s, err := disk.Open(t.TempDir(), disk.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	d, err := lentStore{s}.Put(t.Context(), strings.NewReader("a plug-in"))
	if err != nil {
		t.Fatal(err)
	}
	if known, found := (lentStore{s}).Stat(d.SHA256); !found || known != d || s.Pinned(d.SHA256) {
		t.Errorf("%v, %v, pinned: %v", known, found, s.Pinned(d.SHA256))
	}
	for _, want := range []bool{true, false} {
		if fresh, err := (pinning{s}).Keep(d.SHA256); err != nil || fresh != want || !s.Pinned(d.SHA256) {
			t.Errorf("kept: %v, fresh: %v, pinned: %v", err, fresh, s.Pinned(d.SHA256))
		}
	}
	absent := artifact.SHA256{1}
	if fresh, err := (pinning{s}).Keep(absent); err == nil || !fresh || !strings.Contains(err.Error(), "distribution.quota") {
		t.Errorf("absent: %v, fresh: %v", err, fresh)
	}
	if err := (pinning{s}).Drop(d.SHA256); err != nil || s.Has(d.SHA256) || !s.Pinned(d.SHA256) {
		t.Errorf("dropped: %v, here: %v, pinned: %v", err, s.Has(d.SHA256), s.Pinned(d.SHA256))
	}
}
