package difference

import (
	"bufio"
	"compress/gzip"
	"encoding/hex"
	"fmt"
	"io"
	"time"
)

// gzipFields are the header of RFC 1952, none of which changes what comes out.
var gzipFields = []struct {
	name string
	read func(*gzip.Header) string
}{
	{"comment", func(h *gzip.Header) string { return h.Comment }},
	{"extra", func(h *gzip.Header) string { return hex.EncodeToString(h.Extra) }},
	{"file name", func(h *gzip.Header) string { return h.Name }},
	{"modified", func(h *gzip.Header) string { return moment(h.ModTime) }},
	{"operating system", func(h *gzip.Header) string { return fmt.Sprint(h.OS) }},
}

func openGzip(c *comparison, b *blob) (*tree, error) {
	p := &bytewise{Reader: bufio.NewReader(b.reader())}
	z, err := gzip.NewReader(p)
	if err != nil {
		return nil, err
	}
	var fields []field
	for _, f := range gzipFields {
		fields = append(fields, field{name: f.name, value: f.read(&z.Header), rule: GzipHeader})
	}
	// The byte that says how hard the compressor tried is not in the library's header.
	if level, err := b.at(8, 1); err == nil && len(level) == 1 {
		fields = append(fields, field{name: "level", value: fmt.Sprint(level[0]), rule: GzipHeader})
	}
	return c.single(struct{ io.Reader }{z}, b.part(p.at, b.size-p.at), fields...)
}

// bytewise counts what is read. The library reads no further than the header from
// what can be read byte by byte, until somebody asks for the content.
type bytewise struct {
	*bufio.Reader
	at int64
}

func (p *bytewise) Read(data []byte) (int, error) {
	n, err := p.Reader.Read(data)
	p.at += int64(n)
	return n, err
}

func (p *bytewise) ReadByte() (byte, error) {
	c, err := p.Reader.ReadByte()
	if err == nil {
		p.at++
	}
	return c, err
}

// moment is a time as a person reads it.
func moment(t time.Time) string {
	if t.IsZero() {
		return "none"
	}
	return t.UTC().Format("2006-01-02T15:04:05.999999999Z")
}
