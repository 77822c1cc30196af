package buildspec

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/pyrsia/appliance/modules/archive"
	"github.com/pyrsia/appliance/modules/record"
)

// jarModes takes the umask from a jar of the release where the buildspec has none and the
// build wrote files that its group may write. It is better evidence than the source
// archive: that one's descriptor may set the modes, as Apache's newer ones do.
func (m *making) jarModes() error {
	said, err := m.spec.Get("umask")
	jar := m.aJar()
	if err != nil || said != "" || jar == "" {
		return err
	}
	file, _, err := m.download(jar)
	if errors.Is(err, ErrAbsent) {
		return nil
	}
	if err != nil {
		return err
	}
	defer discard(file)
	// What cannot be read as a jar is no evidence, and is told when it is compared.
	if mode, found := writtenMode(file); found && mode&0o020 != 0 {
		m.recipe.Environment.Umask = defaultUmask
	}
	return nil
}

// aJar is the path of a jar of the release, "" for none: one of sources is smaller.
func (m *making) aJar() string {
	var best record.Output
	for _, o := range m.recipe.Outputs {
		sources := strings.HasSuffix(o.File, "-sources.jar")
		plain := o.File == o.Package.Name()+"-"+o.Package.Version()+".jar"
		if sources || plain && best.File == "" {
			best = o
		}
		if sources {
			break
		}
	}
	if best.File == "" {
		return ""
	}
	p := best.Package
	return path.Join(strings.ReplaceAll(p.Namespace(), ".", "/"), p.Name(), p.Version(), best.File)
}

// maxJar bounds a jar that is looked into, bytes.
const maxJar = 64 << 20

// writtenMode is the mode that a jar has of the file which the build itself writes: the
// coordinates that Maven puts into each.
func writtenMode(file *os.File) (mode fs.FileMode, found bool) {
	info, err := file.Stat()
	if err != nil || info.Size() > maxJar {
		return 0, false
	}
	opened, _, err := archive.OpenZip(file, info.Size(), archive.Bound{Records: maxFiles, Bytes: maxJar})
	if err != nil {
		return 0, false
	}
	for _, entry := range opened.File {
		is, err := path.Match("META-INF/maven/*/*/pom.properties", entry.Name)
		if err == nil && is && entry.CreatorVersion>>8 == unixSystem {
			return entry.Mode().Perm(), true
		}
	}
	return 0, false
}
