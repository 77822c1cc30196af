package tree

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"

	"lukechampine.com/blake3"
	"lukechampine.com/blake3/bao"

	"github.com/pyrsia/appliance/modules/artifact"
)

var sizes = []int{0, 1, 1023, 1024, 1025, 9000, Group - 1, Group, Group + 1, 2 * Group, 2*Group + 1, 3*Group + 5, 7 * Group, 64 * Group, 65*Group + 17}

func random(n int) []byte {
	p := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(n), byte(n >> 8)})
	_, _ = r.Read(p)
	return p
}

func build(t testing.TB, data []byte, step int) (artifact.BLAKE3, []byte) {
	t.Helper()
	b := NewBuilder()
	for rest := data; len(rest) > 0; {
		n := min(step, len(rest))
		_, _ = b.Write(rest[:n])
		rest = rest[n:]
	}
	root, size, outboard := b.Finish()
	if size != int64(len(data)) {
		t.Fatalf("size %d, want %d", size, len(data))
	}
	return root, outboard
}

// The tree is plain BLAKE3 and the layout is Bao's: two other programs agree.
func TestSameAsBao(t *testing.T) {
	for _, size := range sizes {
		for _, step := range []int{7001, Group, 1 << 20} {
			data := random(size)
			root, outboard := build(t, data, step)
			if root != blake3.Sum256(data) {
				t.Errorf("size %d step %d: root is not the BLAKE3 digest", size, step)
			}
			want, _ := bao.EncodeBuf(data, groupLog, true)
			if !bytes.Equal(outboard, want) {
				t.Errorf("size %d step %d: outboard is not Bao's", size, step)
			}
		}
	}
}

func ranges(size int64) [][2]int64 {
	var all [][2]int64
	for offset := int64(0); offset < size; offset += Group * 3 {
		for _, length := range []int64{Group, 2 * Group, 64 * Group, size - offset} {
			length = min(length, size-offset)
			all = append(all, [2]int64{offset, length})
		}
	}
	return all
}

func TestSlices(t *testing.T) {
	for _, n := range sizes {
		data, size := random(n), int64(n)
		root, outboard := build(t, data, n+1)
		for _, r := range ranges(size) {
			slice, err := AppendSlice(nil, bytes.NewReader(data), bytes.NewReader(outboard), size, r[0], r[1])
			if err != nil {
				t.Fatal(err)
			}
			if int64(len(slice)) != SliceSize(size, r[0], r[1]) {
				t.Errorf("size %d range %v: slice has %d bytes, SliceSize says %d", size, r, len(slice), SliceSize(size, r[0], r[1]))
			}
			if got, ok := bao.VerifySlice(slice, groupLog, uint64(r[0]), uint64(r[1]), root); !ok || !bytes.Equal(got, data[r[0]:r[0]+r[1]]) {
				t.Errorf("size %d range %v: Bao does not accept the slice", size, r)
			}
			got := make([]byte, r[1])
			nodes := make([]byte, len(outboard))
			err = Decode(bytes.NewReader(slice), root, size, r[0], got, func(at int64, node []byte) { copy(nodes[at:], node) })
			if err != nil || !bytes.Equal(got, data[r[0]:r[0]+r[1]]) {
				t.Errorf("size %d range %v: %v", size, r, err)
			}
			if r[0] == 0 && r[1] == size && !bytes.Equal(nodes[head:], outboard[head:]) {
				t.Errorf("size %d: the nodes of the whole slice are not the outboard", size)
			}
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	data := random(5*Group + 100)
	size := int64(len(data))
	root, outboard := build(t, data, 1<<20)
	offset, length := int64(2*Group), size-2*Group
	slice, err := AppendSlice(nil, bytes.NewReader(data), bytes.NewReader(outboard), size, offset, length)
	if err != nil {
		t.Fatal(err)
	}
	decode := func(slice []byte, size, offset, length int64) error {
		return Decode(bytes.NewReader(slice), root, size, offset, make([]byte, max(0, length)), nil)
	}
	for i := 0; i < len(slice); i += 61 {
		flipped := bytes.Clone(slice)
		flipped[i] ^= 1
		if err := decode(flipped, size, offset, length); !errors.Is(err, ErrUnverified) {
			t.Errorf("bit of byte %d flipped: %v", i, err)
		}
	}
	for cut := 0; cut < len(slice); cut += 97 {
		if err := decode(slice[:cut], size, offset, length); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut at %d: %v", cut, err)
		}
	}
	for _, bad := range []struct{ size, offset, length int64 }{
		{size + 1, offset, length + 1}, {size, offset + 1, length - 1}, {size, offset, length - 1},
		{size, size, 0}, {size, -Group, Group}, {size, 0, size + 1}, {-1, 0, 1}, {1 << 62, 0, Group},
	} {
		if err := decode(slice, bad.size, bad.offset, bad.length); err == nil {
			t.Errorf("%+v accepted", bad)
		}
	}
}

func TestVerifyNamesWrongGroups(t *testing.T) {
	data := random(9*Group + 3)
	root, outboard := build(t, data, 1<<20)
	claim := func(int64) (bool, error) { return true, nil }
	check := func(data, outboard []byte) (wrong []int64) {
		if err := Verify(bytes.NewReader(data), bytes.NewReader(outboard), root, 9*Group+3, claim, func(g int64) { wrong = append(wrong, g) }); err != nil {
			t.Fatal(err)
		}
		return wrong
	}
	if wrong := check(data, outboard); wrong != nil {
		t.Errorf("sound file: wrong %v", wrong)
	}
	rotten := bytes.Clone(data)
	rotten[4*Group] ^= 4
	if wrong := check(rotten, outboard); fmt.Sprint(wrong) != "[4]" {
		t.Errorf("one bit: wrong %v", wrong)
	}
	if wrong := check(data[:9*Group], outboard); fmt.Sprint(wrong) != "[9]" {
		t.Errorf("cut: wrong %v", wrong)
	}
	torn := bytes.Clone(outboard)
	torn[len(torn)-1-64*0] ^= 1 // the last node in pre-order is over groups 6 and 7
	if wrong := check(data, torn); len(wrong) == 0 {
		t.Error("torn tree: nothing wrong")
	}
	stop := errors.New("stop")
	err := Verify(bytes.NewReader(data), bytes.NewReader(outboard), root, 9*Group+3, func(g int64) (bool, error) {
		if g == 3 {
			return false, stop
		}
		return true, nil
	}, func(int64) {})
	if !errors.Is(err, stop) {
		t.Errorf("stopped: %v", err)
	}
}

// FuzzDecode feeds hostile slices: whatever Decode accepts is the file.
func FuzzDecode(f *testing.F) {
	data := random(3*Group + 9)
	size := int64(len(data))
	root, outboard := build(f, data, 1<<20)
	slice, err := AppendSlice(nil, bytes.NewReader(data), bytes.NewReader(outboard), size, Group, 2*Group)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(slice, uint8(1), uint8(2))
	f.Add(slice[:40], uint8(0), uint8(1))
	f.Fuzz(func(t *testing.T, slice []byte, from, groups uint8) {
		offset := int64(from) * Group
		dst := make([]byte, max(0, min(int64(groups)*Group, size-offset)))
		if err := Decode(bytes.NewReader(slice), root, size, offset, dst, nil); err != nil {
			return
		}
		if !bytes.Equal(dst, data[offset:offset+int64(len(dst))]) {
			t.Fatal("accepted other bytes")
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	data := random(16 << 20)
	size := int64(len(data))
	root, outboard := build(b, data, 1<<20)
	slice, err := AppendSlice(nil, bytes.NewReader(data), bytes.NewReader(outboard), size, 4<<20, 1<<20)
	if err != nil {
		b.Fatal(err)
	}
	dst := make([]byte, 1<<20)
	b.SetBytes(1 << 20)
	b.ReportAllocs()
	for b.Loop() {
		if err := Decode(bytes.NewReader(slice), root, size, 4<<20, dst, nil); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkBuild(b *testing.B) {
	data := random(16 << 20)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		builder := NewBuilder()
		_, _ = builder.Write(data)
		builder.Finish()
	}
}
