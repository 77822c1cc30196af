package buildtest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/pyrsia/appliance/modules/build"
	"github.com/pyrsia/appliance/modules/record"
)

// Contract is the suite that every engine passes. It builds for real: engine is
// called twice, for two that share nothing and that last as long as t.
func Contract(t *testing.T, engine func(t *testing.T) build.Engine) {
	one, two := engine(t), engine(t)
	image, err := TinyImage(t.TempDir(), "test/tiny")
	must(t, err)
	t.Run("equal outputs", func(t *testing.T) { testEqual(t, newBench(t, image), one, two) })
	for _, test := range []struct {
		name string
		run  func(*testing.T, *Bench, build.Engine)
	}{
		{"failures", testFailures},
		{"no network", testNoNetwork},
		{"resolve", testResolve},
		{"locked Maven files", testMavenFiles},
		{"families", testFamily},
		{"limits", testLimits},
		{"cancel", testCancel},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, newBench(t, image), one) })
	}
}

func testEqual(t *testing.T, b *Bench, engines ...build.Engine) {
	r := b.Recipe(
		`mkdir out; { echo "hello $WHO, $TINY"; cat greeting.txt; ls -ln --time-style=+%s greeting.txt; umask; echo $SOURCE_DATE_EPOCH $TZ $LANG $HOME; } > out/tiny.txt`,
		`sha256sum out/tiny.txt > "out/sum of it"`,
		`cat "out/sum of it"`)
	r.Outputs = append(r.Outputs, record.Output{File: "a/sum", Package: tinyPackage, Path: "out/sum of it"})
	const want = "hello world, yes\ngood day\n-rw-r----- 1 0 0 9 1700000000 greeting.txt\n0027\n1700000000 UTC C.UTF-8 /root\n"
	for i, e := range engines {
		log := new(Log)
		files, err := e.Build(t.Context(), b.Job(r, log))
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
		if !strings.Contains(log.String(), sum+"\n") {
			t.Errorf("the log does not have the command's output %q:\n%s", sum, log)
		}
	}
	if one, two := engines[0].Name(), engines[1].Name(); one != two {
		t.Errorf("engines that make equal bytes are called %s and %s", one, two)
	}
}

func testFailures(t *testing.T, b *Bench, e build.Engine) {
	for _, test := range []struct {
		name   string
		change func(*record.Recipe)
		want   []string
	}{
		{"command", func(r *record.Recipe) { r.Commands = []string{"mkdir out", "echo no >&2; exit 7"} }, []string{"command 2 of 2", "echo no", "exit code 7"}},
		{"unset variable", func(r *record.Recipe) { r.Commands = []string{"echo $NOBODY"} }, []string{"command 1 of 1", "exit code 2"}},
		{"command of several lines", func(r *record.Recipe) { r.Commands = []string{"true\nexit 3\n"} }, []string{"command 1 of 1", "exit code 3"}},
		{"missing output", func(r *record.Recipe) { r.Commands = []string{"mkdir out"} }, []string{"left no file out/tiny.txt", "tiny-1.0.txt"}},
		{"family without a file", family("mkdir parts"), []string{"left no file in parts", "tiny-1.0-*"}},
		{"family without a folder", family("true"), []string{"left no file in parts", "tiny-1.0-*"}},
		{"family with another file", family("mkdir parts; echo > parts/tiny-1.0-a; echo > parts/b"), []string{`left "b" in parts`, `"tiny-1.0-"`}},
		{"family behind a link", family("mkdir in; echo > in/tiny-1.0-a; ln -s in parts"), []string{"left no file in parts"}},
		{"missing folder of an output", func(r *record.Recipe) { r.Commands = []string{"true"} }, []string{"left no file out/tiny.txt"}},
		{"folder as output", func(r *record.Recipe) { r.Commands = []string{"mkdir -p out/tiny.txt/x"} }, []string{"left no file out/tiny.txt"}},
		{"output outside", func(r *record.Recipe) { r.Outputs[0].Path = "../../etc/passwd" }, []string{"output path"}},
		{"link as output", func(r *record.Recipe) { r.Commands = []string{"mkdir out; ln -s /bin/sh out/tiny.txt"} }, []string{"left no file out/tiny.txt"}},
		{"output behind a link", func(r *record.Recipe) { r.Commands = []string{"mkdir in; echo > in/tiny.txt; ln -s in out"} }, []string{"left no file out/tiny.txt"}},
		{"other platform", func(r *record.Recipe) { r.Platform = "linux/riscv64" }, []string{"linux/riscv64"}},
		{"source that is no archive", func(r *record.Recipe) { r.Sources[0].SHA256 = b.Put([]byte("no")).SHA256 }, []string{"unpack tiny-1.0.tar.gz"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := b.Recipe("true")
			test.change(r)
			log := new(Log)
			files, err := e.Build(t.Context(), b.Job(r, log))
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

// family changes a recipe into one that publishes a family, with one command.
func family(command string) func(*record.Recipe) {
	return func(r *record.Recipe) {
		r.Commands = []string{command}
		r.Outputs = []record.Output{{File: "tiny-1.0-*", Package: tinyPackage, Path: "parts"}}
	}
}

// testFamily publishes every plain file of a folder, beside a file of its own.
func testFamily(t *testing.T, b *Bench, e build.Engine) {
	r := b.Recipe(`mkdir -p parts/tiny-1.0-folder out; i=0; while test $i -lt 120; do echo $i > parts/tiny-1.0-$i.txt; i=$((i+1)); done; echo > parts/tiny-1.0-.hidden; echo x > parts/tiny-1.0-folder/x; ln -s tiny-1.0-1.txt parts/tiny-1.0-link; echo one > out/tiny.txt`)
	r.Outputs = append(r.Outputs, record.Output{File: "tiny-1.0-*", Package: tinyPackage, Path: "parts"})
	log := new(Log)
	files, err := e.Build(t.Context(), b.Job(r, log))
	if err != nil {
		t.Fatalf("%v\n%s", err, log)
	}
	if len(files) != 122 {
		t.Fatalf("%d files, want 122", len(files))
	}
	for i, f := range files {
		if i > 0 && files[i-1].Name.String() >= f.Name.String() {
			t.Errorf("%s stands before %s", files[i-1].Name, f.Name)
		}
		if f.Name.File != "tiny-1.0-77.txt" {
			continue
		}
		if data, err := os.ReadFile(f.Path); err != nil || string(data) != "77\n" {
			t.Errorf("%s holds %q, %v", f.Name, data, err)
		}
	}
}

// testNoNetwork has a build try to reach a listener of this machine, which
// answers to itself.
func testNoNetwork(t *testing.T, b *Bench, e build.Engine) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer listener.Close()
	address := listener.Addr().(*net.TCPAddr)
	c, err := net.Dial("tcp", address.String())
	must(t, err)
	must(t, c.Close())

	for _, host := range []string{"127.0.0.1", "192.0.2.1"} {
		command := fmt.Sprintf("bash -c 'exec 3<>/dev/tcp/%s/%d'", host, address.Port)
		_, err = e.Build(t.Context(), b.Job(b.Recipe(command), new(Log)))
		if !errors.Is(err, build.ErrFailed) || !strings.Contains(err.Error(), "command 1 of 1") {
			t.Errorf("%s: %v; want the command to fail", host, err)
		}
	}
	log := new(Log)
	files, err := e.Build(t.Context(), b.Job(b.Recipe("mkdir out; ls /sys/class/net > out/tiny.txt"), log))
	if err != nil {
		t.Fatalf("%v\n%s", err, log)
	}
	devices, err := os.ReadFile(files[0].Path)
	must(t, err)
	if !slices.Contains(strings.Fields(string(devices)), "lo") || strings.Contains(string(devices), "eth") {
		t.Errorf("network devices in a build: %q", devices)
	}
}

// get is an HTTP client in bash: it prints the body of an answer that says its
// length, as the mirror's do.
const get = `get() { exec 3<>/dev/tcp/127.0.0.1/7889; printf 'GET %s HTTP/1.1\r\nHost: mirror\r\n\r\n' "$1" >&3; n=0
while IFS= read -r line <&3; do line=${line%$'\r'}; case "$line" in Content-Length:*) n=${line#*: };; "") break;; esac; done
IFS= read -r -N "$n" body <&3; printf %s "$body"; exec 3>&-; }
`

func testResolve(t *testing.T, b *Bench, e build.Engine) {
	outside, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer outside.Close()
	port := outside.Addr().(*net.TCPAddr).Port

	script := get + `test "$(get /org/a/a.pom)" = "<a/>"; test "$(get /org/b/b.jar)" = "` + strings.Repeat("b", 100_000) + `"; cat /root/.m2/settings.xml; ls -A /m2`
	r := b.Recipe("exec bash -euc '"+strings.ReplaceAll(script, "'", `'\''`)+"'",
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
		log := new(Log)
		if err := e.Resolve(t.Context(), b.Job(r, log), mirror); err != nil {
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
	if err := e.Resolve(t.Context(), b.Job(r, new(Log)), http.NotFoundHandler()); !errors.Is(err, build.ErrFailed) || !strings.Contains(err.Error(), "exit code 9") {
		t.Errorf("a failing command: %v", err)
	}
}

func testMavenFiles(t *testing.T, b *Bench, e build.Engine) {
	for path, content := range map[string]string{
		"org/a/a/1/a-1.jar": "jar of a", "org/a/a/1/a-1.pom": "<a/>", "org/a/maven-metadata.xml": "<m/>",
	} {
		b.PutMaven(path, []byte(content))
	}
	r := b.Recipe("mkdir out; cat /m2/org/a/a/1/a-1.jar /m2/org/a/maven-metadata-local.xml > out/tiny.txt; ls -A /m2/org/a; echo x > /m2/written; cat /root/.m2/settings.xml >> out/tiny.txt")
	r.Resolve = "maven"
	log := new(Log)
	files, err := e.Build(t.Context(), b.Job(r, log))
	if err != nil {
		t.Fatalf("%v\n%s", err, log)
	}
	got, err := os.ReadFile(files[0].Path)
	must(t, err)
	if !strings.HasPrefix(string(got), "jar of a<m/>") || !strings.Contains(string(got), "<mirrorOf>*</mirrorOf>") || !strings.Contains(string(got), "<localRepository>/m2</localRepository>") {
		t.Errorf("the build saw %q", got)
	}
}

func testLimits(t *testing.T, b *Bench, e build.Engine) {
	for _, test := range []struct {
		name, command, want string
		limits              record.Limits
	}{
		{"time", "sleep 600", "limit of 1s", record.Limits{Seconds: 1}},
		{"size of a file", "cat /dev/zero > big", "exit code", record.Limits{Disk: 1 << 20, Seconds: 300}},
		{"size of the outputs", "mkdir out; i=0; while test $i -lt 3000; do echo 0123456789 0123456789 0123456789; i=$((i+1)); done > out/tiny.txt; cp out/tiny.txt out/2", "limit of disk space", record.Limits{Disk: 100_000, Seconds: 300}},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := b.Recipe(test.command)
			r.Limits = test.limits
			if test.name == "size of the outputs" {
				r.Outputs = append(r.Outputs, record.Output{File: "2", Package: tinyPackage, Path: "out/2"})
			}
			log := new(Log)
			_, err := e.Build(t.Context(), b.Job(r, log))
			if !errors.Is(err, build.ErrFailed) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v; want ErrFailed with %q\n%s", err, test.want, log)
			}
		})
	}
}

func testCancel(t *testing.T, b *Bench, e build.Engine) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	// The log also has the command itself, in which the word is not whole.
	job := b.Job(b.Recipe(`echo sta""rted; sleep 600`), Watch("started", cancel))
	if _, err := e.Build(ctx, job); !errors.Is(err, context.Canceled) || errors.Is(err, build.ErrFailed) {
		t.Errorf("%v; want the context's error", err)
	}
}
