package buildkit

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strconv"
	"strings"

	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/build"
	"github.com/pyrsia/appliance/modules/durable"
	"github.com/pyrsia/appliance/modules/record"
)

// exported are the regular files of an exporter's tar stream, written into the
// job's folder under names of our own, hashed on the way.
type exported struct {
	path string
	size int64
	hash artifact.SHA256
}

const defaultOutputBytes = 16 << 30

// errTooLarge ends an export from our side, as build.ErrTooMany does.
var errTooLarge = fmt.Errorf("%w: the outputs are larger than the recipe's limit of disk space", build.ErrFailed)

// room is how much more an export may hold. Empty files take none of the bytes,
// but each is a file to write and to sync.
type room struct {
	bytes int64
	files int
}

func roomOf(recipe *record.Recipe) room {
	r := room{bytes: recipe.Limits.Disk, files: build.MaxFiles}
	if r.bytes <= 0 {
		r.bytes = defaultOutputBytes
	}
	return r
}

// take is an error where a file of a size has no room.
func (r *room) take(size int64) error {
	if r.bytes -= size; r.bytes < 0 {
		return errTooLarge
	}
	if r.files--; r.files < 0 {
		return build.ErrTooMany
	}
	return nil
}

// receive reads an exporter's tar stream into folder, and stops before the first
// file that has no room. want gives a member's file name in folder, or "" to pass
// over it. Everything is synced on return.
func receive(stream io.Reader, folder string, left room, want func(member string) string) (map[string]exported, error) {
	files := map[string]exported{}
	archive := tar.NewReader(stream)
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files, durable.SyncDir(folder)
		}
		if err != nil {
			return nil, fmt.Errorf("read BuildKit's export: %w", err)
		}
		member := strings.TrimPrefix(h.Name, "./")
		name := want(member)
		if name == "" || h.Typeflag != tar.TypeReg {
			continue
		}
		if _, twice := files[member]; twice {
			return nil, fmt.Errorf("read BuildKit's export: %.200q is in it twice", member)
		}
		if err := left.take(h.Size); err != nil {
			return nil, err
		}
		file, err := store(archive, filepath.Join(folder, name))
		if err != nil {
			return nil, err
		}
		files[member] = file
	}
}

func store(r io.Reader, name string) (exported, error) {
	file, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return exported{}, err
	}
	h := sha256.New()
	n, err := io.CopyBuffer(io.MultiWriter(file, h), r, make([]byte, copyBuffer))
	if err == nil {
		err = file.Sync()
	}
	if err := errors.Join(err, file.Close()); err != nil {
		return exported{}, fmt.Errorf("write output: %w", err)
	}
	return exported{path: name, size: n, hash: artifact.SHA256(h.Sum(nil))}, nil
}

// outputFiles receives the outputs of a build in a published image.
func outputFiles(stream io.Reader, job build.Job) ([]build.File, error) {
	names, families, members := map[string]string{}, map[string]int{}, 0
	for i, o := range job.Recipe.Outputs {
		if isFamily(o) {
			families[outputMember(i, o)] = i
			continue
		}
		names[outputMember(i, o)] = "output-" + strconv.Itoa(i)
	}
	received, err := receive(stream, job.Folder, roomOf(job.Recipe), func(member string) string {
		if _, ok := families[path.Dir(member)]; ok {
			members++
			return "member-" + strconv.Itoa(members)
		}
		return names[member]
	})
	if err != nil {
		return nil, err
	}
	var files []build.File
	for i, o := range job.Recipe.Outputs {
		if isFamily(o) {
			family, err := familyFiles(received, outputMember(i, o), o)
			if err != nil {
				return nil, err
			}
			files = append(files, family...)
			continue
		}
		e, ok := received[outputMember(i, o)]
		if !ok {
			return nil, fmt.Errorf("%w: the commands left no file %s, which the recipe publishes as %s", build.ErrFailed, o.Path, o.File)
		}
		files = append(files, build.File{Name: artifact.Name{Package: o.Package, File: o.File}, Path: e.path})
	}
	sortFiles(files)
	return files, nil
}

// familyFiles are the files of a family's folder.
func familyFiles(received map[string]exported, folder string, o record.Output) (files []build.File, err error) {
	for member, e := range received {
		if path.Dir(member) != folder {
			continue
		}
		name, err := build.FamilyMember(o, path.Base(member))
		if err != nil {
			return nil, err
		}
		files = append(files, build.File{Name: name, Path: e.path})
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%w: the commands left no file in %s, which the recipe publishes as %s", build.ErrFailed, o.Path, o.File)
	}
	return files, nil
}

func sortFiles(files []build.File) {
	sort.Slice(files, func(i, j int) bool { return files[i].Name.String() < files[j].Name.String() })
}

const blobFolder = "blobs/sha256/"

// imageFiles receives an image in OCI layout.
func imageFiles(stream io.Reader, job build.Job) ([]build.File, error) {
	received, err := receive(stream, job.Folder, roomOf(job.Recipe), func(member string) string {
		if member == ocispecs.ImageIndexFile {
			return ocispecs.ImageIndexFile
		}
		if hash, ok := strings.CutPrefix(member, blobFolder); ok {
			if _, err := hex.DecodeString(hash); err == nil && len(hash) == 64 {
				return "sha256-" + hash
			}
		}
		return ""
	})
	if err != nil {
		return nil, err
	}
	for member, e := range received {
		if hash, ok := strings.CutPrefix(member, blobFolder); ok && hash != e.hash.String() {
			return nil, fmt.Errorf("read BuildKit's export: blob %s has SHA-256 %s", hash, e.hash)
		}
	}
	var index ocispecs.Index
	if err := decodeFile(received, ocispecs.ImageIndexFile, &index); err != nil {
		return nil, err
	}
	if len(index.Manifests) != 1 {
		return nil, fmt.Errorf("read BuildKit's export: %d manifests, want one", len(index.Manifests))
	}
	var manifest ocispecs.Manifest
	root := index.Manifests[0]
	if err := decodeFile(received, blobFolder+root.Digest.Encoded(), &manifest); err != nil {
		return nil, err
	}
	return nameImage(job.Recipe, received, root, manifest)
}

func decodeFile(received map[string]exported, member string, v any) error {
	e, ok := received[member]
	if !ok || e.size > maxConfigBytes {
		return fmt.Errorf("read BuildKit's export: no usable %s", member)
	}
	data, err := os.ReadFile(e.path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("read BuildKit's export: %s: %w", member, err)
	}
	return nil
}

// nameImage names an image's parts as statements do: the manifest and, by their
// digests, the configuration and the layers, all of the package whose version
// is the manifest's digest.
func nameImage(r *record.Recipe, received map[string]exported, root ocispecs.Descriptor, m ocispecs.Manifest) ([]build.File, error) {
	pkg := artifact.DockerPURL(r.Package.Repository(), root.Digest.String())
	var files []build.File
	seen := map[string]bool{}
	for i, d := range append([]ocispecs.Descriptor{root, m.Config}, m.Layers...) {
		e, ok := received[blobFolder+d.Digest.Encoded()]
		if !ok || e.size != d.Size {
			return nil, fmt.Errorf("read BuildKit's export: blob %s is missing or has not %d bytes", d.Digest, d.Size)
		}
		name := d.Digest.String()
		if i == 0 {
			name = record.ManifestFile
		}
		if seen[name] {
			continue
		}
		seen[name] = true
		files = append(files, build.File{Name: artifact.Name{Package: pkg, File: name}, MediaType: d.MediaType, Path: e.path})
	}
	sortFiles(files)
	return files, nil
}
