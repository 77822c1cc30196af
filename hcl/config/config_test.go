package config

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/record"
)

var update = flag.Bool("update", false, "write goldens and docs/configuration.md anew")

// TestWrong shows every kind of mistake to the reader: NAME.hcl beside what a
// person is told about it, NAME.txt.
func TestWrong(t *testing.T) {
	t.Setenv("PYRSIA_TEST_WORD", "many")
	credentials := t.TempDir()
	t.Setenv("CREDENTIALS_DIRECTORY", credentials)
	if err := os.WriteFile(filepath.Join(credentials, "wrong-url"), []byte("user:secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("testdata/wrong/*.hcl")
	if err != nil || len(files) < 25 {
		t.Fatalf("%d wrong files, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".hcl"), func(t *testing.T) {
			source, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			config, diags := Parse(source, "pyrsia.hcl")
			if (config == nil) != diags.HasErrors() {
				t.Errorf("config %v with errors %v", config, diags.HasErrors())
			}
			if len(diags) == 0 {
				t.Error("nothing was found wrong")
			}
			var out bytes.Buffer
			if err := diags.Write(&out, false); err != nil {
				t.Fatal(err)
			}
			if diags.HasErrors() {
				out.WriteString("\nIn one sentence: " + diags.Err().Error() + "\n")
			}
			golden(t, strings.TrimSuffix(file, ".hcl")+".txt", out.Bytes())
		})
	}
}

func golden(t *testing.T, file string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs; got\n%s\nwant\n%s", file, got, want)
	}
}

func TestMarkdown(t *testing.T) { golden(t, "../../docs/configuration.md", Markdown()) }

const pin = "0000000000000000000000000000000000000000000000000000000000000001"

func identity(seed byte) record.Identity { return identities[seed] }

// PeerIDs of the keys with the seeds 1, 2 and 3, each followed by zeros.
var identities = []record.Identity{
	"12D3KooWPjceQrSwdWXPyLLeABRXmuqt69Rg3sBYbU1Nft9HyQ6X",
	"12D3KooWH3uVF6wv47WnArKHk5p6cvgCJEb74UTmxztmQDc298L3",
	"12D3KooWQYhTNQdmr3ArTeUHRYzFg94BKyTkoWBDWez9kSCVe2Xo",
}

func TestWholeFile(t *testing.T) {
	source, err := os.ReadFile("testdata/whole.hcl")
	if err != nil {
		t.Fatal(err)
	}
	config, diags := Parse(source, "whole.hcl")
	if len(diags) != 0 {
		var out bytes.Buffer
		diags.Write(&out, false)
		t.Fatal(out.String())
	}
	genesis, _ := record.ParseHash(pin)
	want := Config{
		File: "whole.hcl", Role: RoleBuild,
		Deny: []Denied{{Package: "pkg:maven/org.example/bad"}, {Digest: artifact.SHA256(genesis)}},
		Network: Network{
			Genesis: genesis, GenesisFile: "/etc/pyrsia/genesis.json", Name: "acme",
			Listen: []string{"/ip4/0.0.0.0/tcp/4002"}, MaxAge: 2 * time.Hour,
			Checkpoint: &record.Checkpoint{Origin: "acme/" + pin, Size: 42, Root: record.Hash{}},
		},
		TrustedBuildPeers: []BuildPeer{
			{Label: "beta", ID: identity(0), Addresses: []string{"/dns4/beta.example/tcp/4001", "/ip6/2001:db8::1/udp/4001/quic-v1/p2p/" + string(identity(0))}},
			{Label: "gamma", ID: identity(1), Addresses: []string{}},
		},
		Mirrors: []Mirror{
			{Kind: MirrorDocker, Upstream: "https://registry.example", Unverified: Pass, Packages: []Pattern{
				{Text: "library/debian:13-slim", Package: "pkg:docker/library/debian@13-slim"},
				{Text: "acme/*", Package: artifact.DockerPURL("acme/*", ""), All: AllNames},
			}},
			{Kind: MirrorMaven, Unverified: Refuse, Packages: []Pattern{
				{Text: "org.codehaus.plexus:plexus-archiver:4.10.2", Package: "pkg:maven/org.codehaus.plexus/plexus-archiver@4.10.2"},
			}},
		},
		Distribution: Distribution{Share: true, Quota: 50 << 30, Upload: 20 << 20},
		Build:        BuildLimits{Declared: true, Recipes: "/etc/pyrsia/recipes.d", Workers: []string{"tcp://worker.example:1234"}, Parallel: 2, Memory: 4 << 30, Disk: 10 << 30, CPUs: 2, Processes: 1000, Cache: 20 << 30, Keep: 7 * 24 * time.Hour, Timeout: 36 * time.Hour},
		Registry:     Registry{Listen: []string{"0.0.0.0:7888", "[::1]:7888"}},
		Storage:      Storage{Data: "/var/lib/pyrsia"},
		Admin:        Admin{Socket: "/run/pyrsia/control.sock"},
		Metrics:      Metrics{Listen: []string{"127.0.0.1:9100"}},
		Log:          Log{Level: "debug", Format: "json"},
	}
	config.source, config.origins, config.secrets = nil, nil, nil
	if !reflect.DeepEqual(*config, want) {
		t.Errorf("got  %+v\nwant %+v", *config, want)
	}
}

func TestDefaults(t *testing.T) {
	config, diags := Parse([]byte(`network { genesis = "sha256:`+pin+`" }`), "small.hcl")
	if len(diags) != 0 {
		t.Fatal(diags)
	}
	if config.Role != RoleUnset || config.Network.GenesisFile != "/var/lib/pyrsia/genesis.json" || config.Distribution.Quota != 50<<30 ||
		!config.Distribution.Share || config.Build.Declared || config.Build.Timeout != 2*time.Hour || config.Network.MaxAge != time.Hour ||
		config.Admin.Socket != "/run/pyrsia/control.sock" || len(config.Network.Listen) != 2 || config.Registry.Listen[0] != "127.0.0.1:7888" {
		t.Errorf("%+v", config)
	}
	for _, v := range config.Effective() {
		if set := v.Path == "network.genesis"; (v.Range != nil) != set {
			t.Errorf("%s: range %v", v.Path, v.Range)
		}
	}
}

// TestTable holds the table together: every default is a good value, every
// setting is in a known block, and what is shown can be read again.
func TestTable(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range Settings() {
		if seen[s.Path] {
			t.Errorf("%s stands twice", s.Path)
		}
		seen[s.Path] = true
		if _, ok := findBlock(s.block()); s.block() != "" && !ok {
			t.Errorf("%s is in no block", s.Path)
		}
		if s.Default != "" {
			s.defaultValue(MirrorMaven) // panics on a bad one
		}
		if s.Doc == "" || s.Reload == "" || s.Type == "" || s.DefaultText() == "" {
			t.Errorf("%s lacks a doc, a reload class, a type or a default", s.Path)
		}
	}
	for _, b := range Blocks() {
		if b.Doc == "" || len(settingsOf(b.Name)) == 0 {
			t.Errorf("block %s lacks a doc or settings", b.Name)
		}
	}
}

// TestEffective reads what Effective shows again and gets the same Config.
func TestEffective(t *testing.T) {
	source, err := os.ReadFile("testdata/whole.hcl")
	if err != nil {
		t.Fatal(err)
	}
	first, _ := Parse(source, "f")
	var b strings.Builder
	open := ""
	for _, v := range first.Effective() {
		cut := strings.LastIndex(v.Path, ".")
		block, name := "", v.Path
		if cut >= 0 {
			block, name = v.Path[:cut], v.Path[cut+1:]
		}
		if block != open {
			if open != "" {
				b.WriteString("}\n")
			}
			if block != "" {
				kind, label, has := strings.Cut(block, ".")
				b.WriteString(kind)
				if has {
					b.WriteString(" \"" + label + "\"")
				}
				b.WriteString(" {\n")
			}
			open = block
		}
		if v.Value != "" {
			b.WriteString(name + " = " + v.Value + "\n")
		}
	}
	b.WriteString("}\n")
	// Settings of labelled blocks are listed by setting and then by block.
	second, diags := Parse([]byte(regroup(b.String())), "f")
	if diags.HasErrors() {
		t.Fatalf("%v\n%s", diags, regroup(b.String()))
	}
	first.source, first.origins, second.source, second.origins = nil, nil, nil, nil
	first.secrets, second.secrets = nil, nil
	if !reflect.DeepEqual(first, second) {
		t.Errorf("got  %+v\nwant %+v", second, first)
	}
}

func regroup(source string) string {
	var order []string
	bodies := map[string]string{}
	header := ""
	for _, line := range strings.SplitAfter(source, "\n") {
		switch {
		case strings.HasSuffix(line, "{\n"):
			if header = line; bodies[header] == "" {
				order = append(order, header)
			}
		case line == "}\n":
			header = ""
		default:
			if header == "" && bodies[""] == "" {
				order = append(order, "")
			}
			bodies[header] += line
		}
	}
	var b strings.Builder
	for _, header := range order {
		b.WriteString(header + bodies[header])
		if header != "" {
			b.WriteString("}\n")
		}
	}
	return b.String()
}

func TestLoad(t *testing.T) {
	folder := t.TempDir()
	huge := filepath.Join(folder, "huge.hcl")
	if err := os.WriteFile(huge, make([]byte, MaxFile+1), 0o600); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{
		filepath.Join(folder, "none.hcl"): "no such file", folder: "not a file", huge: "the limit is",
	} {
		if config, diags := Load(file); config != nil || !strings.Contains(diags.Error(), want) || !strings.Contains(diags.Error(), file) {
			t.Errorf("%s: %v", file, diags)
		}
	}
}

func TestCheckIdentity(t *testing.T) {
	source, err := os.ReadFile("testdata/whole.hcl")
	if err != nil {
		t.Fatal(err)
	}
	config, _ := Parse(source, "whole.hcl")
	if diags := config.CheckIdentity(identity(2)); len(diags) != 0 {
		t.Error(diags)
	}
	diags := config.CheckIdentity(identity(1))
	if len(diags) != 1 || diags.HasErrors() || diags[0].Range.IsZero() {
		t.Error(diags)
	}
}

func FuzzParse(f *testing.F) {
	for _, pattern := range []string{"testdata/*.hcl", "testdata/wrong/*.hcl"} {
		files, _ := filepath.Glob(pattern)
		for _, file := range files {
			source, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(source)
		}
	}
	f.Fuzz(func(t *testing.T, source []byte) {
		config, diags := Parse(source, "f")
		if (config == nil) != diags.HasErrors() {
			t.Fatal("a config with errors, or none without")
		}
		if err := diags.Write(new(bytes.Buffer), true); err != nil {
			t.Fatal(err)
		}
		formatted, problems := Format(source, "f")
		if problems != nil {
			return
		}
		if again, _ := Format(formatted, "f"); !bytes.Equal(again, formatted) {
			t.Fatalf("the layout of the layout is another one: %q", again)
		}
		laid, _ := Parse(formatted, "f")
		if (laid == nil) != (config == nil) {
			t.Fatal("with another layout it is another configuration")
		}
		if config == nil {
			return
		}
		before, after := config.Effective(), laid.Effective()
		for i := range before {
			if before[i].Value != after[i].Value {
				t.Fatalf("%s: %s, and laid out %s", before[i].Path, before[i].Value, after[i].Value)
			}
		}
	})
}

// TestFunctions: values from outside the file, alone, within a text and for settings
// that are no texts. What a credential is part of is never shown.
func TestFunctions(t *testing.T) {
	folder := t.TempDir()
	for name, text := range map[string]string{"genesis": "sha256:" + strings.Repeat("1", 64) + "\n\n", "mirror": "https://cache.example/token/"} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("CREDENTIALS_DIRECTORY", folder)
	t.Setenv("PYRSIA_TEST_FOLDER", folder)
	t.Setenv("PYRSIA_TEST_PARALLEL", "3")
	t.Setenv("PYRSIA_TEST_SHARE", "false")
	source := `
network { genesis = file("${env("PYRSIA_TEST_FOLDER")}/genesis") }
mirror "maven" { upstream = "${credential("mirror")}maven" }
build { parallel = env("PYRSIA_TEST_PARALLEL") }
distribution { share = env("PYRSIA_TEST_SHARE") }
storage { data = "/var/lib/${hostname()}" }
`
	c, diags := Parse([]byte(source), "pyrsia.hcl")
	if c == nil {
		t.Fatal(diags)
	}
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	if c.Network.Genesis.String() != strings.Repeat("1", 64) || c.Mirrors[0].Upstream != "https://cache.example/token/maven" ||
		c.Build.Parallel != 3 || c.Distribution.Share || c.Storage.Data != "/var/lib/"+host {
		t.Errorf("%+v", c)
	}
	for _, v := range c.Effective() {
		if strings.Contains(v.Value, "token") {
			t.Errorf("%s shows a credential: %s", v.Path, v.Value)
		}
		if v.Path == "mirror.maven.upstream" && v.Value != `"${credential("mirror")}maven"` {
			t.Errorf("%s is shown as %s", v.Path, v.Value)
		}
	}
}

// A source that nests without end is refused by everything that parses one.
func TestNestedWithoutEnd(t *testing.T) {
	source := []byte("deny = " + strings.Repeat("[", 150_000))
	path := filepath.Join(t.TempDir(), "pyrsia.hcl")
	if err := os.WriteFile(path, source, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, diags := Load(path); !diags.HasErrors() {
		t.Error("loaded")
	}
	if _, diags := Format(source, path); !diags.HasErrors() {
		t.Error("laid out")
	}
	if _, diags, err := Apply(source, path, SetRole(RoleBuild)); err == nil && !diags.HasErrors() {
		t.Error("edited")
	}
	if PeekRole(path) != RoleUnset {
		t.Error("a role of it")
	}
	Peek(path)
}

// What has no end is no file, whatever the kernel calls it.
func TestFileWithoutEnd(t *testing.T) {
	if _, err := readAtOnce("/dev/zero", 1000); err == nil {
		t.Error("read /dev/zero")
	}
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	defer writer.Close()
	if _, err := readAtOnce(fmt.Sprintf("/proc/self/fd/%d", reader.Fd()), 1000); err == nil {
		t.Error("read a pipe that says nothing")
	}
}

func TestReads(t *testing.T) {
	path := filepath.Join(t.TempDir(), "url")
	if err := os.WriteFile(path, []byte("https://registry.example/\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	source := "network { genesis = \"sha256:" + strings.Repeat("ab", 32) + "\" }\nmirror \"maven\" { upstream = \"${file(\"" + path + "\")}maven2\" }\n"
	c, diags := Parse([]byte(source), "pyrsia.hcl")
	if diags.HasErrors() || !reflect.DeepEqual(c.Reads(), []string{path}) || c.Mirrors[0].Upstream != "https://registry.example/maven2" {
		t.Errorf("%v, %v", c, diags)
	}
}
