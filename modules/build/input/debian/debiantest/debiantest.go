// Package debiantest is a small Debian archive with a key of its own, for tests:
// signed, indexed and served as Debian's is, with packages of a few bytes.
package debiantest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"github.com/pyrsia/appliance/modules/artifact"
)

// Paths in every archive.
const (
	InRelease  = "dists/trixie/InRelease"
	IndexFile  = "dists/trixie/main/binary-amd64/Packages.gz"
	DpkgDeb    = "pool/main/d/dpkg/dpkg_1.22_amd64.deb"
	KeyringDeb = "pool/main/d/debian-archive-keyring/debian-archive-keyring_2025.1_all.deb"
)

// Archive is a suite with one component for amd64, called trixie by its paths.
type Archive struct {
	Key      *openpgp.Entity
	Codename string             // as InRelease has it
	ByHash   bool               // whether the index is also served under its digest
	Packages map[string]Package // by path
}

// Package is a package of an archive.
type Package struct {
	Stanza  string // in the index
	Content string // of the .deb
}

// New is an archive with what a bootstrap needs: dpkg, which is essential, apt,
// mmdebstrap, and the archive's own key in debian-archive-keyring.
func New(t testing.TB) *Archive {
	t.Helper()
	a := &Archive{Key: NewKey(t), Codename: "trixie", ByHash: true, Packages: map[string]Package{}}
	a.Add(DpkgDeb, "Package: dpkg\nVersion: 1.22\nArchitecture: amd64\nEssential: yes\nPriority: required\n", "the package manager")
	a.Add("pool/main/a/apt/apt_3_amd64.deb", "Package: apt\nVersion: 3\nArchitecture: amd64\nDepends: debian-archive-keyring\nPriority: important\n", "apt")
	a.Add("pool/main/m/mmdebstrap/mmdebstrap_1_all.deb", "Package: mmdebstrap\nVersion: 1\nArchitecture: all\nDepends: apt\nPriority: optional\n", "the bootstrapper")
	a.Add(KeyringDeb, "Package: debian-archive-keyring\nVersion: 2025.1\nArchitecture: all\nPriority: important\n", keyringPackage(t, a.Keyring(t)))
	return a
}

// NewKey is a key that can sign an archive.
func NewKey(t testing.TB) *openpgp.Entity {
	t.Helper()
	key, err := openpgp.NewEntity("archive", "", "archive@debian.example", &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA, DefaultHash: crypto.SHA256})
	must(t, err)
	return key
}

// Fingerprint is the archive's key as recipes name it.
func (a *Archive) Fingerprint() string {
	return strings.ToUpper(hex.EncodeToString(a.Key.PrimaryKey.Fingerprint))
}

// Keyring is a keyring file with the archive's key.
func (a *Archive) Keyring(t testing.TB) []byte {
	t.Helper()
	var ring bytes.Buffer
	must(t, a.Key.Serialize(&ring))
	return ring.Bytes()
}

// Add adds a package: stanza is the first part of its paragraph in the index.
func (a *Archive) Add(path, stanza, content string) {
	a.Packages[path] = Package{
		Stanza:  stanza + fmt.Sprintf("Filename: %s\nSize: %d\nSHA256: %s\n", path, len(content), digestOf(content)),
		Content: content,
	}
}

// Index is the archive's index of packages, unpacked.
func (a *Archive) Index() string {
	var paragraphs []string
	for _, p := range a.Packages {
		paragraphs = append(paragraphs, p.Stanza)
	}
	slices.Sort(paragraphs)
	return strings.Join(paragraphs, "\n")
}

// Files are the archive as an upstream serves it, by path.
func (a *Archive) Files(t testing.TB) map[string]string {
	t.Helper()
	plain := a.Index()
	packed := Pack(t, plain)
	release := fmt.Sprintf("Suite: stable\nCodename: %s\nDate: Sat, 21 Nov 2026 09:15:44 UTC\nValid-Until: Sat, 28 Nov 2020 09:15:44 UTC\n", a.Codename)
	if a.ByHash {
		release += "Acquire-By-Hash: yes\n"
	}
	release += fmt.Sprintf("SHA256:\n %s %d main/binary-amd64/Packages\n %s %d main/binary-amd64/Packages.gz\n",
		digestOf(plain), len(plain), digestOf(packed), len(packed))
	files := map[string]string{InRelease: a.sign(t, release), IndexFile: packed}
	if a.ByHash {
		files["dists/trixie/main/binary-amd64/by-hash/SHA256/"+digestOf(packed).String()] = packed
	}
	for path, p := range a.Packages {
		files[path] = p.Content
	}
	return files
}

func (a *Archive) sign(t testing.TB, release string) string {
	t.Helper()
	var b bytes.Buffer
	w, err := clearsign.Encode(&b, a.Key.PrivateKey, nil)
	must(t, err)
	_, err = io.WriteString(w, release)
	must(t, err)
	must(t, w.Close())
	return b.String() + "\n"
}

// Pack compresses an index.
func Pack(t testing.TB, index string) string {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, err := io.WriteString(w, index)
	must(t, err)
	must(t, w.Close())
	return b.String()
}

// keyringPackage is a .deb with a keyring in it.
func keyringPackage(t testing.TB, keyring []byte) string {
	t.Helper()
	var data bytes.Buffer
	archive := tar.NewWriter(&data)
	must(t, archive.WriteHeader(&tar.Header{Name: "./usr/share/keyrings/debian-archive-keyring.gpg", Mode: 0o644, Size: int64(len(keyring))}))
	_, err := archive.Write(keyring)
	must(t, err)
	must(t, archive.Close())
	deb := "!<arch>\n"
	for _, m := range []struct{ name, content string }{{"debian-binary", "2.0\n"}, {"data.tar", data.String()}} {
		deb += fmt.Sprintf("%-16s%-12d%-6d%-6d%-8s%-10d`\n", m.name, 0, 0, 0, "100644", len(m.content)) + m.content
		if len(m.content)%2 == 1 {
			deb += "\n"
		}
	}
	return deb
}

func digestOf(content string) artifact.SHA256 { return sha256.Sum256([]byte(content)) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
