package buildtest

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"time"

	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/build"
	"github.com/pyrsia/appliance/modules/record"
)

// programs are what the tiny image has, beside the shell's own commands.
var programs = []string{"sh", "bash", "busybox", "cat", "cp", "ln", "ls", "mkdir", "rm", "sha256sum", "sleep"}

// Image is a builder image at hand as files.
type Image struct {
	Manifest artifact.SHA256
	Files    []build.File // as an engine leaves an image: manifest, configuration, layer
}

// Open opens a part of the image, as build.Job.Open does.
func (i Image) Open(name artifact.SHA256) (*os.File, error) {
	for _, f := range i.Files {
		if filepath.Base(f.Path) == name.String() {
			return os.Open(f.Path)
		}
	}
	return nil, fmt.Errorf("the tiny image has no part %s: %w", name, os.ErrNotExist)
}

// TinyImage makes a builder image for recipes of a few seconds: this machine's
// shell and a handful of programs with their libraries, a few megabytes. On one
// machine it is always the same. Its files are written into folder, named by
// their digests; repository ("test/tiny") is the name that Files bear.
func TinyImage(folder, repository string) (Image, error) {
	plain, err := tinyLayer()
	if err != nil {
		return Image{}, fmt.Errorf("make the tiny image: %w", err)
	}
	layer := part{ocispecs.MediaTypeImageLayer, plain}
	config := ocispecs.Image{Platform: ocispecs.Platform{Architecture: "amd64", OS: "linux"}}
	config.Config.Env = []string{"PATH=/bin", "TINY=yes"}
	config.RootFS = ocispecs.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(plain)}}
	configPart, err := jsonPart(ocispecs.MediaTypeImageConfig, config)
	if err != nil {
		return Image{}, err
	}
	manifest, err := jsonPart(ocispecs.MediaTypeImageManifest, ocispecs.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispecs.MediaTypeImageManifest,
		Config: configPart.descriptor(), Layers: []ocispecs.Descriptor{layer.descriptor()},
	})
	if err != nil {
		return Image{}, err
	}
	return writeImage(folder, repository, manifest, configPart, layer)
}

type part struct {
	mediaType string
	data      []byte
}

func jsonPart(mediaType string, v any) (part, error) {
	data, err := json.Marshal(v)
	return part{mediaType, data}, err
}

func (p part) digest() artifact.SHA256 { return sha256.Sum256(p.data) }

func (p part) descriptor() ocispecs.Descriptor {
	return ocispecs.Descriptor{MediaType: p.mediaType, Digest: digest.FromBytes(p.data), Size: int64(len(p.data))}
}

func writeImage(folder, repository string, parts ...part) (Image, error) {
	image := Image{Manifest: parts[0].digest()}
	pkg := artifact.DockerPURL(repository, image.Manifest.OCI())
	for i, p := range parts {
		file := build.File{
			Name:      artifact.Name{Package: pkg, File: p.digest().OCI()},
			MediaType: p.mediaType, Path: filepath.Join(folder, p.digest().String()),
		}
		if i == 0 {
			file.Name.File = record.ManifestFile
		}
		if err := os.WriteFile(file.Path, p.data, 0o644); err != nil {
			return Image{}, err
		}
		image.Files = append(image.Files, file)
	}
	sort.Slice(image.Files, func(i, j int) bool { return image.Files[i].Name.String() < image.Files[j].Name.String() })
	return image, nil
}

func tinyLayer() ([]byte, error) {
	files := map[string]string{} // path in the image → path here
	for _, name := range programs {
		here, err := exec.LookPath(name)
		if err != nil {
			return nil, err
		}
		files["bin/"+name] = here
		if err := libraries(here, files); err != nil {
			return nil, fmt.Errorf("%s: %w", here, err)
		}
	}
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	sort.Strings(names)

	var plain bytes.Buffer
	archive := tar.NewWriter(&plain)
	stamp := time.Unix(1, 0)
	for _, folder := range []string{"bin", "etc", "lib", "lib64", "proc", "root", "run", "sys", "tmp"} {
		h := &tar.Header{Typeflag: tar.TypeDir, Name: folder + "/", Mode: 0o755, ModTime: stamp}
		if err := archive.WriteHeader(h); err != nil {
			return nil, err
		}
	}
	for _, name := range names {
		data, err := os.ReadFile(files[name])
		if err != nil {
			return nil, err
		}
		h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o755, Size: int64(len(data)), ModTime: stamp}
		if err := archive.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := archive.Write(data); err != nil {
			return nil, err
		}
	}
	err := archive.Close()
	return plain.Bytes(), err
}

// libraryFolders are where Debian's amd64 loader looks.
var libraryFolders = []string{"/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib"}

// libraries adds the loader and the shared libraries of a program.
func libraries(program string, files map[string]string) error {
	binary, err := elf.Open(program)
	if err != nil {
		return err
	}
	defer binary.Close()
	if loader := binary.Section(".interp"); loader != nil {
		name, err := loader.Data()
		if err != nil {
			return err
		}
		path := strings.TrimRight(string(name), "\x00")
		files[strings.TrimPrefix(path, "/")] = path
	}
	needed, err := binary.ImportedLibraries()
	if err != nil {
		return err
	}
	for _, library := range needed {
		inside := "lib/" + library
		if files[inside] != "" {
			continue
		}
		here, err := findLibrary(library)
		if err != nil {
			return err
		}
		files[inside] = here
		if err := libraries(here, files); err != nil {
			return err
		}
	}
	return nil
}

func findLibrary(name string) (string, error) {
	for _, folder := range libraryFolders {
		path := filepath.Join(folder, name)
		if _, err := os.Stat(path); err == nil {
			return path, nil
		} else if !errors.Is(err, os.ErrNotExist) {
			return "", err
		}
	}
	return "", fmt.Errorf("library %s is in none of %v", name, libraryFolders)
}
