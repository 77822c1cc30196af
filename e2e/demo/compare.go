package main

import (
	"bytes"
	"context"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pyrsia/appliance/modules/artifact"
)

// maxFile bounds what is read into memory, in bytes.
const maxFile = 64 << 20

// get fetches a file whole.
func get(ctx context.Context, method, url string) (*http.Response, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return nil, nil, err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, nil, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return answer, nil, fmt.Errorf("%s %s: %s", method, url, answer.Status)
	}
	data, err := io.ReadAll(io.LimitReader(answer.Body, maxFile))
	return answer, data, err
}

// compare fetches the jar from the regular node and from the upstream.
func (d *demo) compare(ctx context.Context) error {
	output, err := d.library.file(libraryJar)
	if err != nil {
		return err
	}
	path := artifact.MavenPath(output.Name)
	answer, ours, err := get(ctx, http.MethodGet, "http://"+entrance+"/maven2/"+path)
	if err != nil {
		return err
	}
	vouched := answer.Header.Get("Pyrsia-Verified")
	if vouched == "" {
		return fmt.Errorf("the regular node served the jar without saying that it is verified (headers %v)", answer.Header)
	}
	d.out.say("from the regular node: %d bytes, verified: %s", len(ours), vouched)
	_, theirs, err := get(ctx, http.MethodGet, strings.TrimSuffix(d.spec.Upstreams.Maven, "/")+"/"+path)
	if err != nil {
		return fmt.Errorf("fetch the released jar: %w", err)
	}
	sum := sha512.Sum512(ours)
	digest := hex.EncodeToString(sum[:])
	switch {
	case !bytes.Equal(ours, theirs):
		return fmt.Errorf("the jar that was built (%d bytes, SHA-512 %.16s…) is not the released one (%d bytes)", len(ours), digest, len(theirs))
	case len(ours) != libraryJarSize || !strings.HasPrefix(digest, libraryJarSHA512):
		return fmt.Errorf("the jar has %d bytes and SHA-512 %.16s…; want %d and %s…", len(ours), digest, libraryJarSize, libraryJarSHA512)
	}
	d.facts.equalsUpstream = true
	d.out.say("equal to the released jar byte for byte, SHA-512 %.16s…", digest)
	return d.proveOffline(ctx, output.Name, ours)
}

// proveOffline checks the jar by a proof from the regular node, with no node.
func (d *demo) proveOffline(ctx context.Context, name artifact.Name, data []byte) error {
	file := filepath.Join(d.folder, name.File)
	if err := os.WriteFile(file, data, 0o644); err != nil {
		return err
	}
	edge := d.cluster.Regular(0)
	if _, err := edge.Pyrsia(ctx, "log", "prove", name.String(), "--output", file+".proof"); err != nil {
		return err
	}
	said, err := edge.Pyrsia(ctx, "verify", file, "--proof", file+".proof", "--genesis", d.cluster.Genesis())
	if err != nil {
		return err
	}
	verdict, _, _ := strings.Cut(string(said), "\n")
	d.out.say("%s", verdict)
	data = bytes.Clone(data)
	data[len(data)/2] ^= 1
	altered := file + ".altered"
	if err := os.WriteFile(altered, data, 0o644); err != nil {
		return err
	}
	defer os.Remove(altered)
	if _, err := edge.Pyrsia(ctx, "verify", altered, "--proof", file+".proof", "--genesis", d.cluster.Genesis()); err == nil {
		return fmt.Errorf("`pyrsia verify` accepted %s, which has one bit altered", altered)
	}
	d.out.say("with one bit altered it is refused")
	return nil
}
