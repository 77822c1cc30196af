package cluster

import (
	"archive/zip"
	"bufio"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// Upstreams are the addresses of the ordinary registries that a cluster's nodes
// use, "" for none. They stand nowhere in this tree: FindUpstreams reads them
// from the machine's own tools.
type Upstreams struct {
	Maven  string
	Debian string
}

// FindUpstreams are the upstreams that this machine's Maven and apt use.
func FindUpstreams() (Upstreams, error) {
	maven, err := mavenUpstream()
	if err != nil {
		return Upstreams{}, err
	}
	debian, err := debianUpstream("/etc/apt")
	return Upstreams{Maven: maven, Debian: debian}, err
}

// settings is what we read of Maven's settings.xml.
type settings struct {
	Mirrors []struct {
		Of  string `xml:"mirrorOf"`
		URL string `xml:"url"`
	} `xml:"mirrors>mirror"`
}

// pom is what we read of Maven's super POM.
type pom struct {
	Repositories []struct {
		ID  string `xml:"id"`
		URL string `xml:"url"`
	} `xml:"repositories>repository"`
}

// mavenUpstream is where Maven fetches from: a mirror of all in the user's or
// the machine's settings, else the repository of the super POM, which is a file
// in one of Maven's own jars.
func mavenUpstream() (string, error) {
	program, err := exec.LookPath("mvn")
	if err != nil {
		return "", errors.New("mvn is not installed; run: apt-get install maven")
	}
	program, err = filepath.EvalSymlinks(program)
	if err != nil {
		return "", err
	}
	home := filepath.Dir(filepath.Dir(program))
	candidates := []string{filepath.Join(home, "conf", "settings.xml")}
	if user, err := os.UserHomeDir(); err == nil {
		candidates = append([]string{filepath.Join(user, ".m2", "settings.xml")}, candidates...)
	}
	for _, path := range candidates {
		if mirror := mavenMirror(path); mirror != "" {
			return mirror, nil
		}
	}
	return superPOM(filepath.Join(home, "lib"))
}

func mavenMirror(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	var s settings
	if xml.Unmarshal(data, &s) != nil {
		return ""
	}
	for _, m := range s.Mirrors {
		of := strings.Split(m.Of, ",")
		if slices.Contains(of, "*") || slices.Contains(of, "central") || slices.Contains(of, "external:*") {
			return strings.TrimSpace(m.URL)
		}
	}
	return ""
}

func superPOM(lib string) (string, error) {
	jars, err := filepath.Glob(filepath.Join(lib, "maven-model-builder*.jar"))
	if err != nil || len(jars) == 0 {
		return "", fmt.Errorf("%s has no maven-model-builder jar, so where Maven fetches from is unknown; name a mirror of * in ~/.m2/settings.xml", lib)
	}
	archive, err := zip.OpenReader(jars[0])
	if err != nil {
		return "", fmt.Errorf("%s: %w", jars[0], err)
	}
	defer archive.Close()
	file, err := archive.Open("org/apache/maven/model/pom-4.0.0.xml")
	if err != nil {
		return "", fmt.Errorf("%s: %w", jars[0], err)
	}
	defer file.Close()
	var p pom
	if err := xml.NewDecoder(io.LimitReader(file, 1<<20)).Decode(&p); err != nil {
		return "", fmt.Errorf("%s: super POM: %w", jars[0], err)
	}
	for _, r := range p.Repositories {
		if r.ID == "central" {
			return r.URL, nil
		}
	}
	return "", fmt.Errorf("%s: the super POM names no repository", jars[0])
}

// debianUpstream is the archive that apt uses for Debian's own suites: the
// first one in apt's sources that has main and is no security or backports
// archive.
func debianUpstream(folder string) (string, error) {
	files := []string{filepath.Join(folder, "sources.list")}
	for _, pattern := range []string{"*.list", "*.sources"} {
		more, err := filepath.Glob(filepath.Join(folder, "sources.list.d", pattern))
		if err != nil {
			return "", err
		}
		files = append(files, more...)
	}
	for _, path := range files {
		data, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		read := oneLine
		if strings.HasSuffix(path, ".sources") {
			read = deb822
		}
		for _, s := range read(string(data)) {
			if address, ok := s.debian(); ok {
				return address, nil
			}
		}
	}
	return "", fmt.Errorf("%s names no Debian archive; `apt-get update` needs one, too", filepath.Join(folder, "sources.list.d"))
}

// source is one entry of apt's sources, sources.list(5).
type source struct {
	address    string
	suites     []string
	components []string
}

// debian tells whether the entry is Debian's own archive, and its address.
func (s source) debian() (string, bool) {
	suite := ""
	if len(s.suites) > 0 {
		suite = s.suites[0]
	}
	known := []string{"stable", "testing", "oldstable", "bookworm", "trixie", "forky", "duke"}
	if !slices.Contains(s.components, "main") || !slices.Contains(known, suite) {
		return "", false
	}
	address := s.address
	if list, ok := strings.CutPrefix(address, "mirror+file:"); ok {
		data, err := os.ReadFile(list)
		if err != nil {
			return "", false
		}
		fields := strings.Fields(string(data))
		if len(fields) == 0 {
			return "", false
		}
		address = fields[0]
	}
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" {
		return "", false
	}
	return strings.TrimSuffix(address, "/"), true
}

func oneLine(text string) []source {
	var found []source
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] != "deb" {
			continue
		}
		fields = fields[1:]
		if len(fields) > 0 && strings.HasPrefix(fields[0], "[") {
			for len(fields) > 0 && !strings.HasSuffix(fields[0], "]") {
				fields = fields[1:]
			}
			fields = fields[min(1, len(fields)):]
		}
		if len(fields) >= 3 {
			found = append(found, source{address: fields[0], suites: fields[1:2], components: fields[2:]})
		}
	}
	return found
}

func deb822(text string) []source {
	var found []source
	fields, last := map[string]string{}, ""
	end := func() {
		if fields["enabled"] != "no" && slices.Contains(strings.Fields(fields["types"]), "deb") {
			for _, address := range strings.Fields(fields["uris"]) {
				found = append(found, source{address: address, suites: strings.Fields(fields["suites"]), components: strings.Fields(fields["components"])})
			}
		}
		fields, last = map[string]string{}, ""
	}
	lines := bufio.NewScanner(strings.NewReader(text))
	for lines.Scan() {
		line := lines.Text()
		switch {
		case strings.HasPrefix(line, "#"):
		case strings.TrimSpace(line) == "":
			end()
		case line[0] == ' ' || line[0] == '\t':
			fields[last] += line
		default:
			name, value, _ := strings.Cut(line, ":")
			last = strings.ToLower(name)
			fields[last] = strings.TrimSpace(value)
		}
	}
	end()
	return found
}
