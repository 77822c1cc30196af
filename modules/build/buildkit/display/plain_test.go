package display

import (
	"bytes"
	"testing"
)

// TestPlain: a log comes out as it is, but for what steers a terminal, however it is cut.
func TestPlain(t *testing.T) {
	const (
		log  = "   \x1b]0;owned\a\x1b]52;c;cm0=\a\x1b[2J\x1b[Hfine\r\n=> done\tin 3 s – größer 漢字 \u202e\u009b31m\nhalf \xe6\xbc\nno end"
		want = "   ]0;owned]52;c;cm0=[2J[Hfine\n=> done\tin 3 s – größer 漢字 31m\nhalf ��\nno end"
	)
	for size := 1; size <= len(log); size++ {
		var out bytes.Buffer
		p := &Plain{To: &out}
		for rest := []byte(log); len(rest) > 0; rest = rest[min(size, len(rest)):] {
			part := rest[:min(size, len(rest))]
			if n, err := p.Write(part); n != len(part) || err != nil {
				t.Fatalf("%d, %v", n, err)
			}
		}
		if out.String() != want {
			t.Fatalf("in parts of %d bytes:\n%q\nwant\n%q", size, out.String(), want)
		}
	}
}
