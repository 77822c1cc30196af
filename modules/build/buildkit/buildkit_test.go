package buildkit_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/build"
	"github.com/pyrsia/appliance/modules/build/buildkit"
	"github.com/pyrsia/appliance/modules/build/buildkit/buildkittest"
	"github.com/pyrsia/appliance/modules/record"
)

const tinyPackage = artifact.PURL("pkg:generic/tiny@1.0")

// bench is what a test of the real engine stands on: a tiny builder image and a
// set of locked files.
type bench struct {
	t     *testing.T
	image buildkittest.Image
	files map[artifact.SHA256]string
	lock  record.Lock
}

func newBench(t *testing.T, image buildkittest.Image) *bench {
	return &bench{t: t, image: image, files: map[artifact.SHA256]string{}}
}

func tinyImage(t *testing.T) buildkittest.Image {
	t.Helper()
	image, err := buildkittest.TinyImage(t.TempDir(), "test/tiny")
	must(t, err)
	return image
}

func (b *bench) put(data []byte) artifact.Descriptor {
	b.t.Helper()
	d := artifact.Descriptor{SHA256: sha256.Sum256(data), Size: int64(len(data))}
	name := filepath.Join(b.t.TempDir(), "file")
	if err := os.WriteFile(name, data, 0o600); err != nil {
		b.t.Fatal(err)
	}
	b.files[d.SHA256] = name
	return d
}

func (b *bench) open(d artifact.SHA256) (*os.File, error) {
	if name, ok := b.files[d]; ok {
		return os.Open(name)
	}
	return b.image.Open(d)
}

// recipe has one source, a tar archive with greeting.txt in a folder to strip.
func (b *bench) recipe(commands ...string) *record.Recipe {
	var data bytes.Buffer
	z := gzip.NewWriter(&data)
	archive := tar.NewWriter(z)
	for name, content := range map[string]string{"tiny-1.0/greeting.txt": "good day\n"} {
		must(b.t, archive.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o600, Size: int64(len(content))}))
		_, err := archive.Write([]byte(content))
		must(b.t, err)
	}
	must(b.t, archive.Close())
	must(b.t, z.Close())
	return &record.Recipe{
		Package: tinyPackage, Platform: "linux/amd64", Builder: "pkg:docker/test/tiny@1.0",
		Sources:     []record.Source{{URL: "http://source.example/tiny-1.0.tar.gz", SHA256: b.put(data.Bytes()).SHA256, Strip: 1}},
		Commands:    commands,
		Environment: record.Environment{Locale: "C.UTF-8", TimeZone: "UTC", Umask: "027", WorkDir: "/work", Variables: []string{"WHO=world"}},
		Outputs:     []record.Output{{File: "tiny-1.0.txt", Package: tinyPackage, Path: "out/tiny.txt"}},
		Timestamp:   1_700_000_000,
		Limits:      record.Limits{Seconds: 600, Memory: 256 << 20, Disk: 64 << 20},
	}
}

func (b *bench) job(r *record.Recipe, log *logBuffer) build.Job {
	return build.Job{
		ID: b.t.Name(), Recipe: r, Lock: &b.lock, Open: b.open, Builder: b.image.Manifest,
		Folder: b.t.TempDir(), Log: log,
	}
}

type logBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Buffer.Write(p)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newEngine(t *testing.T, d *buildkittest.Daemon) *buildkit.Engine {
	t.Helper()
	relay, err := buildkittest.Relay(t.Context())
	must(t, err)
	e, err := buildkit.New(buildkit.Config{Addresses: []string{d.Address}, Scratch: t.TempDir(), Relay: relay})
	must(t, err)
	return e
}

// TestEngine builds for real, in two buildkitd with roots of their own.
func TestEngine(t *testing.T) {
	one, two := buildkittest.Start(t), buildkittest.Start(t)
	engines := []*buildkit.Engine{newEngine(t, one), newEngine(t, two)}
	image := tinyImage(t)

	t.Run("equal outputs on two roots", func(t *testing.T) { testEqual(newBench(t, image), engines) })
	t.Run("failures", func(t *testing.T) { testFailures(newBench(t, image), engines[0]) })
	t.Run("no network", func(t *testing.T) { testNoNetwork(newBench(t, image), engines[0]) })
	t.Run("resolve", func(t *testing.T) { testResolve(newBench(t, image), engines[0]) })
	t.Run("locked Maven files", func(t *testing.T) { testMavenFiles(newBench(t, image), engines[0]) })
	t.Run("limits", func(t *testing.T) { testLimits(newBench(t, image), engines[0]) })
	t.Run("cancel", func(t *testing.T) { testCancel(newBench(t, image), engines[0]) })
}

func testEqual(b *bench, engines []*buildkit.Engine) {
	t := b.t
	r := b.recipe(
		`mkdir out; { echo "hello $WHO, $TINY"; cat greeting.txt; ls -ln --time-style=+%s greeting.txt; umask; echo $SOURCE_DATE_EPOCH $TZ $LANG $HOME; } > out/tiny.txt`,
		`sha256sum out/tiny.txt > "out/sum of it"`,
		`cat "out/sum of it"`)
	r.Outputs = append(r.Outputs, record.Output{File: "a/sum", Package: tinyPackage, Path: "out/sum of it"})
	const want = "hello world, yes\ngood day\n-rw-r--r-- 1 0 0 9 1700000000 greeting.txt\n0027\n1700000000 UTC C.UTF-8 /root\n"
	for i, e := range engines {
		log := new(logBuffer)
		files, err := e.Build(t.Context(), b.job(r, log))
		if err != nil {
			t.Fatalf("engine %d: %v\n%s", i, err, log)
		}
		if len(files) != 2 || files[0].Name.File != "a/sum" || files[1].Name.File != "tiny-1.0.txt" {
			t.Fatalf("files %+v", files)
		}
		got, err := os.ReadFile(files[1].Path)
		must(t, err)
		if string(got) != want {
			t.Errorf("engine %d made %q, want %q", i, got, want)
		}
		sum := fmt.Sprintf("%x  out/tiny.txt", sha256.Sum256([]byte(want)))
		if !strings.Contains(log.String(), "   "+sum+"\n") {
			t.Errorf("the log does not have the command's output %q:\n%s", sum, log)
		}
	}
}

func testFailures(b *bench, e *buildkit.Engine) {
	t := b.t
	for _, test := range []struct {
		name   string
		change func(*record.Recipe)
		want   []string
	}{
		{"command", func(r *record.Recipe) { r.Commands = []string{"mkdir out", "echo no >&2; exit 7"} }, []string{"command 2 of 2", "echo no", "exit code 7"}},
		{"unset variable", func(r *record.Recipe) { r.Commands = []string{"echo $NOBODY"} }, []string{"command 1 of 1", "exit code 2"}},
		{"missing output", func(r *record.Recipe) { r.Commands = []string{"mkdir out"} }, []string{"left no file out/tiny.txt", "tiny-1.0.txt"}},
		{"missing folder of an output", func(r *record.Recipe) { r.Commands = []string{"true"} }, []string{"left no file out/tiny.txt"}},
		{"folder as output", func(r *record.Recipe) { r.Commands = []string{"mkdir -p out/tiny.txt/x"} }, []string{"left no file out/tiny.txt"}},
		{"output outside", func(r *record.Recipe) { r.Outputs[0].Path = "../../etc/passwd" }, []string{"output path"}},
		{"link as output", func(r *record.Recipe) { r.Commands = []string{"mkdir out; ln -s /nowhere out/tiny.txt"} }, []string{"left no file out/tiny.txt"}},
		{"other platform", func(r *record.Recipe) { r.Platform = "linux/riscv64" }, []string{"linux/riscv64"}},
		{"source that is no archive", func(r *record.Recipe) { r.Sources[0].SHA256 = b.put([]byte("no")).SHA256 }, []string{"unpack tiny-1.0.tar.gz"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := b.recipe("true")
			test.change(r)
			log := new(logBuffer)
			files, err := e.Build(t.Context(), b.job(r, log))
			if !errors.Is(err, build.ErrFailed) || files != nil {
				t.Fatalf("%v, %v; want ErrFailed\n%s", files, err, log)
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not say %q", err, want)
				}
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("error of several lines: %q", err)
			}
		})
	}
}

// testNoNetwork has a build try to reach a listener of this machine, which
// answers to itself.
func testNoNetwork(b *bench, e *buildkit.Engine) {
	t := b.t
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer listener.Close()
	address := listener.Addr().(*net.TCPAddr)
	c, err := net.Dial("tcp", address.String())
	must(t, err)
	must(t, c.Close())

	for _, host := range []string{"127.0.0.1", "192.0.2.1"} {
		command := fmt.Sprintf("bash -c 'exec 3<>/dev/tcp/%s/%d'", host, address.Port)
		_, err = e.Build(t.Context(), b.job(b.recipe(command), new(logBuffer)))
		if !errors.Is(err, build.ErrFailed) || !strings.Contains(err.Error(), "command 1 of 1") {
			t.Errorf("%s: %v; want the command to fail", host, err)
		}
	}
	log := new(logBuffer)
	_, err = e.Build(t.Context(), b.job(b.recipe("mkdir out; ls /sys/class/net > out/tiny.txt; cat out/tiny.txt; ls /run"), log))
	must(t, err)
	if !strings.Contains(log.String(), "   lo\n") || strings.Contains(log.String(), "   eth") {
		t.Errorf("network devices in a build:\n%s", log)
	}
}

// get is an HTTP client in bash: it prints the body of an answer that says its
// length, as the mirror's do.
const get = `get() { exec 3<>/dev/tcp/127.0.0.1/7889; printf 'GET %s HTTP/1.1\r\nHost: mirror\r\n\r\n' "$1" >&3; n=0
while IFS= read -r line <&3; do line=${line%$'\r'}; case "$line" in Content-Length:*) n=${line#*: };; "") break;; esac; done
IFS= read -r -N "$n" body <&3; printf %s "$body"; exec 3>&-; }
`

func testResolve(b *bench, e *buildkit.Engine) {
	t := b.t
	outside, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer outside.Close()
	port := outside.Addr().(*net.TCPAddr).Port

	script := get + `test "$(get /org/a/a.pom)" = "<a/>"; test "$(get /org/b/b.jar)" = "` + strings.Repeat("b", 100_000) + `"; cat /root/.m2/settings.xml; ls -A /m2`
	r := b.recipe("exec bash -euc '"+strings.ReplaceAll(script, "'", `'\''`)+"'",
		fmt.Sprintf("if bash -c 'exec 3<>/dev/tcp/127.0.0.1/%d'; then echo reached; exit 3; fi", port))
	r.Resolve = "maven"
	for round := range 2 { // a second time: nothing may come from a cache
		var mu sync.Mutex
		var asked []string
		mirror := http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
			mu.Lock()
			asked = append(asked, request.Method+" "+request.URL.Path)
			mu.Unlock()
			body := map[string]string{"/org/a/a.pom": "<a/>", "/org/b/b.jar": strings.Repeat("b", 100_000)}[request.URL.Path]
			w.Header().Set("Content-Length", fmt.Sprint(len(body)))
			w.Write([]byte(body))
		})
		log := new(logBuffer)
		if err := e.Resolve(t.Context(), b.job(r, log), mirror); err != nil {
			t.Fatalf("%v\n%s", err, log)
		}
		if want := []string{"GET /org/a/a.pom", "GET /org/b/b.jar"}; !slices.Equal(asked, want) {
			t.Errorf("round %d asked for %q, want %q", round, asked, want)
		}
		if !strings.Contains(log.String(), "<mirrorOf>*</mirrorOf>") {
			t.Errorf("settings of Maven:\n%s", log)
		}
	}
	r.Commands = []string{"exit 9"}
	if err := e.Resolve(t.Context(), b.job(r, new(logBuffer)), http.NotFoundHandler()); !errors.Is(err, build.ErrFailed) || !strings.Contains(err.Error(), "exit code 9") {
		t.Errorf("a failing command: %v", err)
	}
}

func testMavenFiles(b *bench, e *buildkit.Engine) {
	t := b.t
	for path, content := range map[string]string{
		"org/a/a/1/a-1.jar": "jar of a", "org/a/a/1/a-1.pom": "<a/>", "org/a/maven-metadata.xml": "<m/>",
	} {
		b.lock.Entries = append(b.lock.Entries, record.LockEntry{Kind: "maven", Path: path, File: b.put([]byte(content))})
	}
	b.lock.Sort()
	r := b.recipe("mkdir out; cat /m2/org/a/a/1/a-1.jar /m2/org/a/maven-metadata-local.xml > out/tiny.txt; ls -A /m2/org/a; echo x > /m2/written; cat /root/.m2/settings.xml >> out/tiny.txt")
	r.Resolve = "maven"
	log := new(logBuffer)
	files, err := e.Build(t.Context(), b.job(r, log))
	if err != nil {
		t.Fatalf("%v\n%s", err, log)
	}
	got, err := os.ReadFile(files[0].Path)
	must(t, err)
	if !strings.HasPrefix(string(got), "jar of a<m/>") || !strings.Contains(string(got), "<offline>true</offline>") || !strings.Contains(string(got), "<localRepository>/m2</localRepository>") {
		t.Errorf("the build saw %q", got)
	}
}

func testLimits(b *bench, e *buildkit.Engine) {
	t := b.t
	for _, test := range []struct {
		name, command, want string
		limits              record.Limits
	}{
		{"time", "sleep 600", "limit of 1s", record.Limits{Seconds: 1}},
		{"size of a file", "cat /dev/zero > big", "exit code", record.Limits{Disk: 1 << 20, Seconds: 300}},
		{"memory", `bash -c 'x=x; while :; do x=$x$x; done'`, "limit of memory is 32 MiB", record.Limits{Memory: 32 << 20, Seconds: 300}},
		{"size of the outputs", "mkdir out; i=0; while test $i -lt 3000; do echo 0123456789 0123456789 0123456789; i=$((i+1)); done > out/tiny.txt; cp out/tiny.txt out/2", "limit of disk space", record.Limits{Disk: 100_000, Seconds: 300}},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := b.recipe(test.command)
			r.Limits = test.limits
			if test.name == "size of the outputs" {
				r.Outputs = append(r.Outputs, record.Output{File: "2", Package: tinyPackage, Path: "out/2"})
			}
			log := new(logBuffer)
			_, err := e.Build(t.Context(), b.job(r, log))
			if !errors.Is(err, build.ErrFailed) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v; want ErrFailed with %q\n%s", err, test.want, log)
			}
		})
	}
}

func testCancel(b *bench, e *buildkit.Engine) {
	t := b.t
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	job := b.job(b.recipe("echo started; sleep 600"), nil)
	job.Log = writerFunc(func(p []byte) {
		if strings.Contains(string(p), "   started") {
			cancel()
		}
	})
	if _, err := e.Build(ctx, job); !errors.Is(err, context.Canceled) || errors.Is(err, build.ErrFailed) {
		t.Errorf("%v; want the context's error", err)
	}
}

type writerFunc func([]byte)

func (f writerFunc) Write(p []byte) (int, error) { f(p); return len(p), nil }

// TestNoDaemon wants an error that is not the recipe's fault, at once.
func TestNoDaemon(t *testing.T) {
	e, err := buildkit.New(buildkit.Config{Addresses: []string{"unix://" + filepath.Join(t.TempDir(), "none.sock")}, Scratch: t.TempDir()})
	must(t, err)
	b := newBench(t, tinyImage(t))
	_, err = e.Build(t.Context(), b.job(b.recipe("true"), new(logBuffer)))
	if err == nil || errors.Is(err, build.ErrFailed) || !strings.Contains(err.Error(), "no buildkitd answers") {
		t.Errorf("%v", err)
	}
}

// TestDaemonDies wants the machine's failure told from the recipe's.
func TestDaemonDies(t *testing.T) {
	folder, err := os.MkdirTemp("", "bk")
	must(t, err)
	d, err := buildkittest.Launch(t.Context(), folder, new(logBuffer))
	must(t, err)
	defer buildkittest.Remove(folder)
	b := newBench(t, tinyImage(t))
	job := b.job(b.recipe("echo started; sleep 5"), nil)
	var once sync.Once
	job.Log = writerFunc(func(p []byte) {
		if strings.Contains(string(p), "   started") {
			once.Do(d.Kill)
		}
	})
	_, err = newEngine(t, d).Build(t.Context(), job)
	if err == nil || errors.Is(err, build.ErrFailed) {
		t.Errorf("%v; want an error that is not ErrFailed", err)
	}
}

func TestNew(t *testing.T) {
	for _, addresses := range [][]string{nil, {"/run/buildkitd.sock"}} {
		if _, err := buildkit.New(buildkit.Config{Addresses: addresses}); err == nil {
			t.Errorf("New(%q) is no error", addresses)
		}
	}
	e, err := buildkit.New(buildkit.Config{Addresses: []string{"unix:///x"}})
	must(t, err)
	if e.Name() != "buildkit/30" {
		t.Errorf("name %q", e.Name())
	}
}
