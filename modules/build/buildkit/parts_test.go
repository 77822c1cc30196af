package buildkit

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/session/sshforward"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/build"
	"github.com/pyrsia/appliance/modules/record"
)

// imageOnShelf puts an image with one layer there; change may spoil it.
func imageOnShelf(s shelf, change func(*ocispecs.Manifest, *ocispecs.Image)) artifact.SHA256 {
	layer := s.put([]byte("layer"))
	var c ocispecs.Image
	c.Config.Env = []string{"A=b"}
	c.RootFS.DiffIDs = []digest.Digest{digest.FromString("plain")}
	var m ocispecs.Manifest
	m.Layers = []ocispecs.Descriptor{{MediaType: ocispecs.MediaTypeImageLayerGzip, Digest: digest.Digest(layer.SHA256.OCI()), Size: layer.Size}}
	change(&m, &c)
	config, _ := json.Marshal(c)
	if m.Config.Digest == "" {
		m.Config.Digest = digest.Digest(s.put(config).SHA256.OCI())
	}
	manifest, _ := json.Marshal(m)
	return s.put(manifest).SHA256
}

func TestOpenBuilder(t *testing.T) {
	s := shelf{}
	image, err := openBuilder(imageOnShelf(s, func(*ocispecs.Manifest, *ocispecs.Image) {}), s.open(t))
	if err != nil {
		t.Fatal(err)
	}
	if len(image.layers) != 1 || image.config.Env[0] != "A=b" || image.layers[0].descriptor.Size != 5 {
		t.Errorf("image %+v", image)
	}
	for name, change := range map[string]func(*ocispecs.Manifest, *ocispecs.Image){
		"no layers":          func(m *ocispecs.Manifest, c *ocispecs.Image) { m.Layers, c.RootFS.DiffIDs = nil, nil },
		"another diff id":    func(m *ocispecs.Manifest, c *ocispecs.Image) { c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, "sha256:x") },
		"diff id of no form": func(m *ocispecs.Manifest, c *ocispecs.Image) { c.RootFS.DiffIDs[0] = "sha256:../../x" },
		"foreign layer":      func(m *ocispecs.Manifest, c *ocispecs.Image) { m.Layers[0].MediaType = "application/x-foreign" },
		"wrong size":         func(m *ocispecs.Manifest, c *ocispecs.Image) { m.Layers[0].Size++ },
		"layer digest":       func(m *ocispecs.Manifest, c *ocispecs.Image) { m.Layers[0].Digest = "sha512:00" },
		"config digest":      func(m *ocispecs.Manifest, c *ocispecs.Image) { m.Config.Digest = "sha256:/etc/passwd" },
		"too many layers": func(m *ocispecs.Manifest, c *ocispecs.Image) {
			for range maxLayers {
				m.Layers, c.RootFS.DiffIDs = append(m.Layers, m.Layers[0]), append(c.RootFS.DiffIDs, c.RootFS.DiffIDs[0])
			}
		},
	} {
		if _, err := openBuilder(imageOnShelf(s, change), s.open(t)); !errors.Is(err, errInput) {
			t.Errorf("%s: %v, want a refusal", name, err)
		}
	}
	if _, err := openBuilder(s.put([]byte("{")).SHA256, s.open(t)); !errors.Is(err, errInput) {
		t.Errorf("broken manifest: %v", err)
	}
	if _, err := openBuilder(s.put(make([]byte, maxManifestBytes+1)).SHA256, s.open(t)); !errors.Is(err, errInput) {
		t.Errorf("huge manifest: %v", err)
	}
}

// TestManifestGolden holds the digest of the image that BuildKit is given: its
// cache and its provenance go by it.
func TestManifestGolden(t *testing.T) {
	l := newLayout()
	d, err := l.add([]blob{{
		descriptor: ocispecs.Descriptor{MediaType: ocispecs.MediaTypeImageLayer, Digest: digest.FromString("a"), Size: 1},
		diffID:     digest.FromString("a"),
	}})
	if err != nil {
		t.Fatal(err)
	}
	if want := digest.Digest("sha256:4b3031a14ec57672c8befa7200aa1203ceb6a72041203aa96340231e250b42af"); d != want {
		t.Errorf("manifest %s, want %s:\n%s", d, want, l.blobs[d].bytes)
	}
	if _, err := l.Info(t.Context(), digest.FromString("other")); err == nil {
		t.Error("a blob that is not there has an info")
	}
	if _, err := l.Writer(t.Context()); err == nil {
		t.Error("inputs can be written")
	}
}

func exportJob(t *testing.T, outputs ...record.Output) build.Job {
	return build.Job{Folder: t.TempDir(), Recipe: &record.Recipe{Package: "pkg:docker/a/b@1", Outputs: outputs, Limits: record.Limits{Disk: 1000}}}
}

// TestWrapper: a project's own wrapper gets Maven where Maven gets its files.
func TestWrapper(t *testing.T) {
	p := newPlan(t.Context(), exportJob(t), t.TempDir())
	if got := strings.Join(p.variables(nil), " "); strings.Contains(got, "MVNW") {
		t.Errorf("without Maven: %s", got)
	}
	p.job.Recipe.Resolve = "maven"
	if got := p.variables(nil); !slices.Contains(got, "MVNW_REPOURL=file:///m2") {
		t.Errorf("in a build: %q", got)
	}
	p.relay = new(relayPlan)
	if got := p.variables(nil); !slices.Contains(got, "MVNW_REPOURL=http://127.0.0.1:7889") {
		t.Errorf("while inputs are found: %q", got)
	}
}

func TestOutputFiles(t *testing.T) {
	outputs := []record.Output{{File: "z.jar", Package: "pkg:maven/g/a@1", Path: "target/z.jar"}, {File: "a.pom", Package: "pkg:maven/g/a@1", Path: "pom.xml"}}
	good := []member{
		{name: "0/", kind: tar.TypeDir}, {name: "0/target/z.jar", content: "jar", kind: tar.TypeReg},
		{name: "1/pom.xml", content: "pom", kind: tar.TypeReg}, {name: "1/other", content: "other", kind: tar.TypeReg}, {name: "../evil", content: "x", kind: tar.TypeReg},
	}
	job := exportJob(t, outputs...)
	files, err := outputFiles(bytes.NewReader(makeTar(t, good)), job)
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != 2 || files[0].Name.File != "a.pom" || files[1].Name.File != "z.jar" {
		t.Errorf("files %+v", files)
	}
	if left, _ := os.ReadDir(job.Folder); len(left) != 2 {
		t.Errorf("%d files in the folder, want the outputs alone", len(left))
	}
	for name, members := range map[string][]member{
		"missing":   good[:2],
		"a link":    {good[1], {name: "1/pom.xml", target: "/etc/passwd", kind: tar.TypeSymlink}},
		"too large": {good[1], {name: "1/pom.xml", content: strings.Repeat("x", 2000), kind: tar.TypeReg}},
	} {
		if _, err := outputFiles(bytes.NewReader(makeTar(t, members)), exportJob(t, outputs...)); !errors.Is(err, build.ErrFailed) {
			t.Errorf("%s: %v, want ErrFailed", name, err)
		}
	}
	for name, data := range map[string][]byte{
		"cut": makeTar(t, good)[:800], "twice": makeTar(t, append(good[:3:3], good[2])),
	} {
		if _, err := outputFiles(bytes.NewReader(data), exportJob(t, outputs...)); err == nil || errors.Is(err, build.ErrFailed) {
			t.Errorf("%s: %v, want an error that is not the recipe's", name, err)
		}
	}
}

// TestReceiveEndsEarly: what has no room is not waited for, and not written. Empty
// files take room too, links and folders do not, since nothing of them is kept.
func TestReceiveEndsEarly(t *testing.T) {
	file := func(name, content string) member { return member{name: name, content: content, kind: tar.TypeReg} }
	for name, test := range map[string]struct {
		members []member
		want    error
		kept    int
	}{
		"room for all": {[]member{
			file("0/a", "a"), {name: "0/f/", kind: tar.TypeDir}, {name: "0/l", target: "a", kind: tar.TypeSymlink}, file("0/b", ""), file("0/c", "c"),
		}, nil, 3},
		"too many files": {[]member{file("0/a", ""), file("0/b", ""), file("0/c", ""), file("0/d", "")}, build.ErrTooMany, 3},
		"too many bytes": {[]member{file("0/a", "12345"), file("0/b", "123456")}, errTooLarge, 1},
	} {
		folder := t.TempDir()
		data := makeTar(t, test.members)
		var stream io.Reader = bytes.NewReader(data)
		if test.want != nil {
			// More would come, if anybody asked for it.
			stream = io.MultiReader(bytes.NewReader(data[:len(data)-1024]), iotest.ErrReader(errors.New("read on")))
		}
		_, err := receive(stream, folder, room{bytes: 10, files: 3}, func(member string) string { return strings.ReplaceAll(member, "/", "-") })
		if !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
		if left, _ := os.ReadDir(folder); len(left) != test.kept {
			t.Errorf("%s: %d files are kept, want %d", name, len(left), test.kept)
		}
	}
	if r := roomOf(exportJob(t).Recipe); r != (room{bytes: 1000, files: build.MaxFiles}) {
		t.Errorf("a recipe's outputs have room %+v", r)
	}
}

// TestReceiveSaysWhy: a reader that gives up breaks the export, and its reason is
// what is told, not that the export broke.
func TestReceiveSaysWhy(t *testing.T) {
	for _, reason := range []error{errTooLarge, build.ErrTooMany} {
		r := &run{plan: &plan{job: exportJob(t)}}
		x := &export{read: func(io.Reader, build.Job) ([]build.File, error) { return nil, reason }}
		_, err := r.receive(x, func(entry client.ExportEntry) error {
			stream, err := entry.Output(nil)
			if err != nil {
				return err
			}
			if _, err := stream.Write([]byte("x")); err == nil {
				t.Error("a reader that gave up takes more")
			}
			return errors.New("the export broke")
		})
		if err != reason {
			t.Errorf("%v, want %v", err, reason)
		}
	}
}

func TestImageFiles(t *testing.T) {
	put := func(members *[]member, data []byte) digest.Digest {
		d := digest.FromBytes(data)
		*members = append(*members, member{name: blobFolder + d.Encoded(), content: string(data), kind: tar.TypeReg})
		return d
	}
	good := func() []member {
		var members []member
		m := ocispecs.Manifest{
			Config: ocispecs.Descriptor{MediaType: ocispecs.MediaTypeImageConfig, Digest: put(&members, []byte("config")), Size: 6},
			Layers: []ocispecs.Descriptor{{MediaType: ocispecs.MediaTypeImageLayerGzip, Digest: put(&members, []byte("layer")), Size: 5}},
		}
		data, _ := json.Marshal(m)
		index, _ := json.Marshal(ocispecs.Index{Manifests: []ocispecs.Descriptor{{MediaType: ocispecs.MediaTypeImageManifest, Digest: put(&members, data), Size: int64(len(data))}}})
		return append(members, member{name: "index.json", content: string(index), kind: tar.TypeReg}, member{name: "oci-layout", content: "{}", kind: tar.TypeReg})
	}
	files, err := imageFiles(bytes.NewReader(makeTar(t, good())), exportJob(t))
	if err != nil {
		t.Fatal(err)
	}
	manifest := digest.FromString(good()[2].content)
	for i, f := range files {
		if f.Name.Package != artifact.DockerPURL("a/b", manifest.String()) {
			t.Errorf("file %d belongs to %s", i, f.Name.Package)
		}
		if f.Name.File == record.ManifestFile && f.MediaType != ocispecs.MediaTypeImageManifest {
			t.Errorf("manifest of type %q", f.MediaType)
		}
	}
	if len(files) != 3 || files[0].Name.File != "manifest" || !strings.HasPrefix(files[1].Name.File, "sha256:") {
		t.Errorf("files %+v", files)
	}
	for name, spoil := range map[string]func([]member) []member{
		"altered blob": func(m []member) []member { m[1].content = "LAYER"; return m },
		"no index":     func(m []member) []member { return m[:3] },
		"no layer":     func(m []member) []member { return append(m[:1:1], m[2:]...) },
		"no manifest":  func(m []member) []member { return append(m[:2:2], m[3:]...) },
		"bad index":    func(m []member) []member { m[3].content = "{"; return m },
		"empty index":  func(m []member) []member { m[3].content = "{}"; return m },
		"bad manifest name": func(m []member) []member {
			m[3].content = `{"manifests":[{"digest":"sha256:../../x"}]}`
			return m
		},
	} {
		if _, err := imageFiles(bytes.NewReader(makeTar(t, spoil(good()))), exportJob(t)); err == nil {
			t.Errorf("%s is no error", name)
		}
	}
}

func TestProgress(t *testing.T) {
	var out strings.Builder
	p := newProgress(&out)
	start := time.Unix(1, 0)
	end := start.Add(1500 * time.Millisecond)
	a, b := digest.FromString("a"), digest.FromString("b")
	stream := make(chan *client.SolveStatus, 8)
	stream <- &client.SolveStatus{Vertexes: []*client.Vertex{{Digest: a, Name: "one", Started: &start}}}
	stream <- &client.SolveStatus{Logs: []*client.VertexLog{{Vertex: a, Data: []byte("half ")}}}
	stream <- &client.SolveStatus{Logs: []*client.VertexLog{{Vertex: b, Data: []byte("runc run failed: no such thing\r\n")}, {Vertex: a, Data: []byte("line\nlast")}}}
	stream <- &client.SolveStatus{Vertexes: []*client.Vertex{{Digest: a, Name: "one", Started: &start, Completed: &end}}}
	stream <- &client.SolveStatus{Vertexes: []*client.Vertex{{Digest: b, Name: "two\nlines", Started: &start, Completed: &end, Error: "exit code: 1"}}}
	stream <- &client.SolveStatus{Logs: []*client.VertexLog{{Vertex: a, Data: bytes.Repeat([]byte("x"), maxLogLine+5)}}}
	close(stream)
	p.follow(stream)
	want := "=> one\n   runc run failed: no such thing\n   half line\n   last\n=> one: done in 1.5 s\n=> two …\n=> two …: exit code: 1\n   " +
		strings.Repeat("x", maxLogLine) + "\n   xxxxx\n"
	if out.String() != want {
		t.Errorf("log\n%s\nwant\n%s", out.String(), want)
	}
	if p.failedStep() != "two …" || p.brokenRuntime() != "runc run failed: no such thing" {
		t.Errorf("failed %q, broken %q", p.failedStep(), p.brokenRuntime())
	}
}

// TestMirrorSession speaks HTTP through a session's stream, as a build does.
func TestMirrorSession(t *testing.T) {
	release := make(chan struct{})
	m := serveMirror(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hang" {
			w.(http.Flusher).Flush()
			<-release
		}
		io.WriteString(w, strings.Repeat(r.URL.Path, 50_000))
	}))
	server := grpc.NewServer()
	m.Register(server)
	listener, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	connection, err := grpc.NewClient("unix:"+listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	agent := sshforward.NewSSHClient(connection)
	if _, err := agent.CheckAgent(t.Context(), &sshforward.CheckAgentRequest{ID: "default"}); err == nil {
		t.Error("another socket is there too")
	}
	if _, err := agent.CheckAgent(t.Context(), &sshforward.CheckAgentRequest{ID: mirrorID}); err != nil {
		t.Error(err)
	}
	for _, ending := range []string{"/a", "/bc"} {
		stream, err := agent.ForwardAgent(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		near, far := net.Pipe()
		go sshforward.Copy(t.Context(), far, stream, stream.CloseSend)
		transport := &http.Transport{DialContext: dialTo(near), DisableCompression: true}
		for range 2 { // the second request goes over the same connection
			response, err := (&http.Client{Transport: transport}).Get("http://mirror" + ending)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(response.Body)
			if err != nil || string(body) != strings.Repeat(ending, 50_000) {
				t.Errorf("%d bytes, %v", len(body), err)
			}
			response.Body.Close()
		}
		transport.CloseIdleConnections()
	}
	// A connection in the middle of an answer does not keep the session open.
	stream, err := agent.ForwardAgent(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&sshforward.BytesMessage{Data: []byte("GET /hang HTTP/1.1\r\nHost: m\r\n\r\n")}); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	close(release)
	m.close()
	connection.Close()
	server.Stop()
	<-served
}

func dialTo(c net.Conn) func(context.Context, string, string) (net.Conn, error) {
	return func(context.Context, string, string) (net.Conn, error) { return c, nil }
}
