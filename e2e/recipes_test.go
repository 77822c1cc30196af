package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/pyrsia/appliance/modules/artifact"
)

// builder is the builder image of the stories: the smallest Debian that builds.
const builder artifact.PURL = "pkg:docker/e2e/tiny@1"

// debianKeys are the fingerprints of the keys that sign Debian's archive.
var debianKeys = []string{
	"04B54C3CDCA79751B16BC6B5225629DF75B188BD", // Debian Archive Automatic Signing Key (13/trixie)
	"41587F7DB8C774BCCF131416762F67A0B2C39DE4", // Debian Stable Release Key (13/trixie)
}

// poisonedImage is an image like it, whose inputs nobody else has.
const poisonedImage artifact.PURL = "pkg:docker/e2e/poisoned@1"

// imageRecipe wants the image's name and the archive's keys.
const imageRecipe = `
recipe %q {
  platform  = "linux/amd64"
  timestamp = "2025-08-09T12:00:00Z"

  debian {
    suite      = "trixie"
    components = ["main"]
    variant    = "apt"
    packages   = ["busybox"]
    bootstrap  = ["mmdebstrap"]
    keys       = ["%s"]
  }

  image {
    command  = ["/bin/sh"]
    work_dir = "/"
  }

  limits {
    memory = "1GiB"
    disk   = "2GiB"
    time   = "10m"
  }
}
`

// plugin and parent are files that some recipes take from the Maven upstream.
const (
	plugin = "e2e/plugin/1/plugin-1.jar"
	parent = "e2e/parent/1/parent-1.pom"
)

// take gets a file as Maven would: from the mirror while inputs are found, and from
// the local repository in the build itself.
func take(name string) string {
	return "busybox wget -q -O taken http://127.0.0.1:7889/" + name + " || cp /m2/" + name + " taken"
}

// story is a story's package.
type story struct {
	resolve  string
	commands []string
	source   string // SHA-256 of the source, "" for the right one
	family   bool   // publishes what is in the folder parts, too
}

// libraries are the packages of the stories, each with its commands. A recipe
// of a few seconds: a source archive, a plug-in, and one output of 1 MiB so
// that the file has many chunks.
var libraries = map[string]story{
	"honest":    {resolve: "maven", commands: []string{take(plugin)}},
	"one-liar":  {},
	"two-liars": {},
	"stopped":   {},
	"poisoned1": poisoned, "poisoned2": poisoned, "poisoned3": poisoned, "poisoned4": poisoned, "poisoned5": poisoned,
	"corrupt":      {},
	"corrupted":    {},
	"other-source": {source: strings.Repeat("7", 64)},
	"many":         {family: true, commands: []string{fmt.Sprintf(makeParts, parts)}},
	"rekeyed":      {},
	"role-one":     {},
	"role-two":     {},
	"apart1":       {}, "apart2": {}, "apart3": {}, "apart4": {},
	"set-back1": {}, "set-back2": {}, "set-back3": {},
	"broken": {commands: []string{"echo this recipe cannot work", "echo half > out.jar; exit 3"}},
	// Different words, or BuildKit would take the second from its cache.
	"kill-build": {commands: []string{"sleep 8; : one killed"}},
	"kill-all":   {commands: []string{"sleep 8; : all killed"}},
	"kill-order": {},
	"kill-vote1": {}, "kill-vote2": {}, "kill-vote3": {}, "kill-vote4": {}, "kill-vote5": {},
}

// poisoned takes files that not all nodes have alike. Each of its stories has a package
// of its own: of one package members look at few locks of the same asker.
var poisoned = story{resolve: "maven", commands: []string{take(plugin), take(parent)}}

// parts is how many files the library with many files has beside its jar.
const parts = 2500

// makeParts makes them.
const makeParts = `mkdir parts; i=0; while [ $i -lt %d ]; do echo part $i > parts/many-1-part$i.txt; i=$((i+1)); done`

func library(name string) artifact.PURL {
	return artifact.PURL("pkg:maven/e2e/" + name + "@1")
}

func jar(name string) string { return name + "-1.jar" }

// mavenPath is where clients find the library's output.
func mavenPath(name string) string { return "/maven2/e2e/" + name + "/1/" + jar(name) }

// makeJar makes a file of 1 MiB that depends on the source and on the name.
const makeJar = `cat message > out.jar; i=0; while [ $i -lt 16 ]; do (echo %s $i; busybox sha256sum message; busybox head -c 65000 /bin/busybox) >> out.jar; i=$((i+1)); done`

// writeRecipes writes all recipes, for a Debian archive that is signed by one of
// the keys, and has their inputs in the upstreams.
func writeRecipes(folder string, u *upstreams, keys []string) error {
	source, err := archive(map[string]string{"src/message": "made from source\n"}, "src/message")
	if err != nil {
		return err
	}
	u.put("e2e/source/1/source-1-src.tar.gz", source)
	u.put(plugin, []byte("a plug-in that every builder gets from its own upstream\n"))
	u.put(parent, []byte("<project><modelVersion>4.0.0</modelVersion></project>\n"))
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	var failures []error
	for name, image := range map[string]artifact.PURL{"tiny.hcl": builder, "poisoned-image.hcl": poisonedImage} {
		text := fmt.Sprintf(imageRecipe, image, strings.Join(keys, `", "`))
		failures = append(failures, os.WriteFile(filepath.Join(folder, name), []byte(text), 0o644))
	}
	for name, l := range libraries {
		if l.source == "" {
			l.source = sha256Hex(source)
		}
		text := fmt.Sprintf(`recipe %q {
  platform  = "linux/amd64"
  builder   = %q
  timestamp = "2025-08-09T12:00:00Z"
`, library(name), builder)
		if l.resolve != "" {
			text += fmt.Sprintf("  resolve   = %q\n", l.resolve)
		}
		text += fmt.Sprintf(`
  source {
    maven  = "e2e:source:1:src:tar.gz"
    sha256 = %q
    strip  = 1
  }

  environment { work_dir = "/work" }

  commands = [
`, l.source)
		for _, c := range append(append([]string{}, l.commands...), fmt.Sprintf(makeJar, name)) {
			text += fmt.Sprintf("    %q,\n", c)
		}
		family := ""
		if l.family {
			family = fmt.Sprintf("  output %q { path = \"parts\" }\n", name+"-1-*")
		}
		text += fmt.Sprintf(`  ]

  output %q { path = "out.jar" }
%s
  limits {
    memory = "1GiB"
    disk   = "1GiB"
    time   = "10m"
  }
}
`, jar(name), family)
		failures = append(failures, os.WriteFile(filepath.Join(folder, name+".hcl"), []byte(text), 0o644))
	}
	return errors.Join(failures...)
}
