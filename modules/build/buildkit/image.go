package buildkit

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/containerd/containerd/v2/core/content"
	cerrdefs "github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/build"
)

const (
	maxManifestBytes = 4 << 20 // what BuildKit reads of a manifest
	maxConfigBytes   = 8 << 20
	maxLayers        = 120 // overlayfs takes 128 below one mount
)

// blob is one part of an OCI image at hand on this node.
type blob struct {
	descriptor ocispecs.Descriptor
	diffID     digest.Digest // of a layer: digest of its uncompressed bytes
	open       func() (readerAtCloser, error)
	bytes      []byte // instead of open
}

// readerAtCloser is a blob being read.
type readerAtCloser interface {
	io.ReaderAt
	io.Closer
}

// read opens a blob that has open as a stream.
func (b blob) read() (io.ReadCloser, error) {
	from, err := b.open()
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{io.NewSectionReader(from, 0, b.descriptor.Size), from}, nil
}

// layout is an OCI image layout that BuildKit reads from us over its session:
// the job's inputs, by digest. It implements content.Store for reading. Safe for
// concurrent use: what packs a failure's remains is added while the session is open.
type layout struct {
	content.Store // nil: BuildKit only calls Info and ReaderAt of a layout

	mu    sync.Mutex // guards blobs
	blobs map[digest.Digest]blob
}

func newLayout() *layout { return &layout{blobs: map[digest.Digest]blob{}} }

// add makes an image of the layers known and returns its manifest's digest.
func (l *layout) add(layers []blob) (digest.Digest, error) {
	if len(layers) > maxLayers {
		return "", fmt.Errorf("%w: the builder image has %d layers, more than %d", errInput, len(layers), maxLayers)
	}
	config := ocispecs.Image{Platform: ocispecs.Platform{Architecture: "amd64", OS: "linux"}}
	config.RootFS.Type = "layers"
	manifest := ocispecs.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispecs.MediaTypeImageManifest}
	for _, b := range layers {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, b.diffID)
		manifest.Layers = append(manifest.Layers, b.descriptor)
		l.put(b)
	}
	var err error
	if manifest.Config, err = l.addJSON(ocispecs.MediaTypeImageConfig, config); err != nil {
		return "", err
	}
	root, err := l.addJSON(ocispecs.MediaTypeImageManifest, manifest)
	return root.Digest, err
}

func (l *layout) addJSON(mediaType string, v any) (ocispecs.Descriptor, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return ocispecs.Descriptor{}, err
	}
	d := ocispecs.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	l.put(blob{descriptor: d, bytes: data})
	return d, nil
}

func (l *layout) put(b blob) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.blobs[b.descriptor.Digest] = b
}

func (l *layout) get(d digest.Digest) (blob, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b, ok := l.blobs[d]
	if !ok {
		return blob{}, fmt.Errorf("input %s: %w", d, cerrdefs.ErrNotFound)
	}
	return b, nil
}

// Info implements content.InfoProvider.
func (l *layout) Info(_ context.Context, d digest.Digest) (content.Info, error) {
	b, err := l.get(d)
	if err != nil {
		return content.Info{}, err
	}
	return content.Info{Digest: d, Size: b.descriptor.Size}, nil
}

// ReaderAt implements content.Provider.
func (l *layout) ReaderAt(_ context.Context, d ocispecs.Descriptor) (content.ReaderAt, error) {
	b, err := l.get(d.Digest)
	if err != nil {
		return nil, err
	}
	if b.open == nil {
		return &memory{bytes.NewReader(b.bytes)}, nil
	}
	file, err := b.open()
	if err != nil {
		return nil, err
	}
	return &sized{file, b.descriptor.Size}, nil
}

// Walk, Update, Delete, Status, ListStatuses, Abort and Writer belong to a
// store that can be written; the server side of a session may still ask.

// Walk implements content.Manager.
func (l *layout) Walk(context.Context, content.WalkFunc, ...string) error { return errReadOnly }

// Update implements content.Manager.
func (l *layout) Update(context.Context, content.Info, ...string) (content.Info, error) {
	return content.Info{}, errReadOnly
}

// Delete implements content.Manager.
func (l *layout) Delete(context.Context, digest.Digest) error { return errReadOnly }

// Status implements content.IngestManager.
func (l *layout) Status(context.Context, string) (content.Status, error) {
	return content.Status{}, errReadOnly
}

// ListStatuses implements content.IngestManager.
func (l *layout) ListStatuses(context.Context, ...string) ([]content.Status, error) {
	return nil, errReadOnly
}

// Abort implements content.IngestManager.
func (l *layout) Abort(context.Context, string) error { return errReadOnly }

// Writer implements content.Ingester.
func (l *layout) Writer(context.Context, ...content.WriterOpt) (content.Writer, error) {
	return nil, errReadOnly
}

var errReadOnly = fmt.Errorf("a build's inputs are read only: %w", cerrdefs.ErrPermissionDenied)

type memory struct{ *bytes.Reader }

func (m *memory) Close() error { return nil }

type sized struct {
	readerAtCloser
	size int64
}

// Size implements content.ReaderAt.
func (s *sized) Size() int64 { return s.size }

// builderImage is a published image, read back to build in.
type builderImage struct {
	config ocispecs.ImageConfig
	layers []blob
}

// openBuilder reads an image's manifest and configuration. The bytes are the
// ones the chain vouches for, but whoever made them need not be friendly:
// sizes and kinds are checked before they go to BuildKit.
func openBuilder(manifest artifact.SHA256, open func(artifact.SHA256) (*os.File, error)) (*builderImage, error) {
	var m ocispecs.Manifest
	if err := readJSON(manifest, maxManifestBytes, open, &m); err != nil {
		return nil, fmt.Errorf("builder image manifest: %w", err)
	}
	config, err := artifact.ParseSHA256(m.Config.Digest.String())
	if err != nil {
		return nil, fmt.Errorf("builder image manifest: %w: configuration: %w", errInput, err)
	}
	var c ocispecs.Image
	if err := readJSON(config, maxConfigBytes, open, &c); err != nil {
		return nil, fmt.Errorf("builder image configuration: %w", err)
	}
	if len(m.Layers) != len(c.RootFS.DiffIDs) || len(m.Layers) == 0 || len(m.Layers) > maxLayers {
		return nil, fmt.Errorf("%w: the builder image has %d layers and %d diff ids", errInput, len(m.Layers), len(c.RootFS.DiffIDs))
	}
	image := &builderImage{config: c.Config}
	for i, layer := range m.Layers {
		b, err := builderLayer(layer, c.RootFS.DiffIDs[i], open)
		if err != nil {
			return nil, fmt.Errorf("builder image, layer %d: %w", i+1, err)
		}
		image.layers = append(image.layers, b)
	}
	return image, nil
}

var layerMediaTypes = map[string]string{
	ocispecs.MediaTypeImageLayer:                        ocispecs.MediaTypeImageLayer,
	ocispecs.MediaTypeImageLayerGzip:                    ocispecs.MediaTypeImageLayerGzip,
	ocispecs.MediaTypeImageLayerZstd:                    ocispecs.MediaTypeImageLayerZstd,
	"application/vnd.docker.image.rootfs.diff.tar.gzip": ocispecs.MediaTypeImageLayerGzip,
}

func builderLayer(layer ocispecs.Descriptor, diffID digest.Digest, open func(artifact.SHA256) (*os.File, error)) (blob, error) {
	name, err := artifact.ParseSHA256(layer.Digest.String())
	if err != nil {
		return blob{}, fmt.Errorf("%w: %w", errInput, err)
	}
	if _, err := artifact.ParseSHA256(diffID.String()); err != nil {
		return blob{}, fmt.Errorf("%w: diff id: %w", errInput, err)
	}
	mediaType, ok := layerMediaTypes[layer.MediaType]
	if !ok {
		return blob{}, fmt.Errorf("%w: media type %.100q", errInput, layer.MediaType)
	}
	file, err := open(name)
	if err != nil {
		return blob{}, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return blob{}, err
	}
	if info.Size() != layer.Size {
		return blob{}, fmt.Errorf("%w: the manifest says %d bytes, the file has %d", errInput, layer.Size, info.Size())
	}
	return blob{
		descriptor: ocispecs.Descriptor{MediaType: mediaType, Digest: digest.Digest(name.OCI()), Size: layer.Size},
		diffID:     diffID,
		open:       func() (readerAtCloser, error) { return open(name) },
	}, nil
}

func readJSON(name artifact.SHA256, limit int64, open func(artifact.SHA256) (*os.File, error), v any) error {
	file, err := open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err != nil {
		return err
	}
	if int64(len(data)) > limit {
		return fmt.Errorf("%w: more than %d bytes", errInput, limit)
	}
	if sha256.Sum256(data) != name {
		return &build.CorruptError{Name: "a part of the builder image", SHA256: name}
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("%w: %w", errInput, err)
	}
	return nil
}
