package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const smallest = `network { genesis = "sha256:` + pin + `" }
`

func parsed(t *testing.T, source string) *Config {
	t.Helper()
	c, diags := Parse([]byte(source), "pyrsia.hcl")
	if err := diags.Err(); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestChanges(t *testing.T) {
	peer := func(name string, seed byte, rest string) string {
		return "trusted_build_peer \"" + name + "\" {\n  id = \"" + string(identity(seed)) + "\"\n" + rest + "}\n"
	}
	for name, test := range map[string]struct{ from, to, want string }{
		"nothing":             {smallest, "# a comment\n" + smallest, ""},
		"the default written": {smallest, smallest + `distribution { quota = "51200MiB" }`, ""},
		"a scalar": {smallest, smallest + "distribution {\n  quota = \"80GiB\"\n  share = false\n}",
			`distribution.share true → false live 4; distribution.quota "50GiB" → "80GiB" live 3`},
		"back to the default": {smallest + `log { level = "debug" }`, smallest, `log.level "debug" → "info" live`},
		"a list":              {smallest, smallest + `registry { listen = ["127.0.0.1:1", "127.0.0.1:2"] }`, `registry.listen ["127.0.0.1:7888"] → ["127.0.0.1:1", "127.0.0.1:2"] live 2`},
		"a role":              {smallest, "role = \"regular\"\n" + smallest, `role  → "regular" role 1`},
		"a block comes": {smallest, smallest + "mirror \"maven\" {\n  unverified = \"pass\"\n  upstream = \"https://repo.example/\"\n}",
			`mirror.maven.packages  → [] live; mirror.maven.upstream  → "https://repo.example/" live 4; mirror.maven.unverified  → "pass" live 3`},
		"a block goes": {smallest + peer("beta", 1, ""), smallest,
			`trusted_build_peer.beta.id "` + string(identity(1)) + `" →  live; trusted_build_peer.beta.addresses [] →  live`},
		"a block of two":        {smallest + peer("beta", 1, "") + peer("gamma", 2, ""), smallest + peer("gamma", 2, "") + peer("beta", 1, ""), ""},
		"one of another label":  {smallest + peer("beta", 1, ""), smallest + peer("beta", 2, ""), `trusted_build_peer.beta.id "` + string(identity(1)) + `" → "` + string(identity(2)) + `" live 3`},
		"what may never change": {smallest, strings.ReplaceAll(smallest, "01\"", "02\""), `network.genesis "sha256:` + pin + `" → "sha256:` + pin[:63] + `2" fixed 1`},
	} {
		t.Run(name, func(t *testing.T) {
			var lines []string
			for _, c := range Changes(parsed(t, test.from), parsed(t, test.to)) {
				line := c.Path + " " + c.Old + " → " + c.New + " " + string(c.Reload)
				if c.Range != nil {
					line += " " + string(rune('0'+c.Range.Line))
				}
				lines = append(lines, line)
			}
			if got := strings.Join(lines, "; "); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

// A value behind a credential that was exchanged is a change, and is not shown.
func TestChangesOfACredential(t *testing.T) {
	folder := t.TempDir()
	t.Setenv("CREDENTIALS_DIRECTORY", folder)
	source := smallest + `mirror "maven" { upstream = "https://repo.example/${credential("login")}/" }`
	var versions [3]*Config
	for i, login := range []string{"first", "first", "second"} {
		if err := os.WriteFile(filepath.Join(folder, "login"), []byte(login), 0o600); err != nil {
			t.Fatal(err)
		}
		versions[i] = parsed(t, source)
	}
	if same := Changes(versions[0], versions[1]); len(same) != 0 {
		t.Errorf("%+v", same)
	}
	changes := Changes(versions[1], versions[2])
	if len(changes) != 1 || strings.Contains(changes[0].Old+changes[0].New, "first") || changes[0].New != changes[0].Old+" (another value)" {
		t.Errorf("%+v", changes)
	}
}
