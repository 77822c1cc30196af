package buildspec

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/pyrsia/appliance/modules/artifact"
)

// Expected is what came out when somebody else rebuilt the release.
type Expected struct {
	Outputs   []Output
	JDK       string   // version of the one that rebuilt it; "" where it is not known
	System    string   // that the release was made on, such as "Unix" or "Windows"; "" where it is not known
	Different []string // files that did not come out as released, by a .buildcompare
}

// Output is one file of it.
type Output struct {
	Group  string
	File   string
	SHA512 string // hexadecimal
}

// maxOutputs bounds what one release may consist of.
const maxOutputs = 10_000

// ParseBuildinfo reads the outputs of a .buildinfo (JVM repository rebuild's format,
// version 1.0): lines "outputs.<n>.<key>=<value>", for one module also
// "outputs.<module>.<n>.<key>".
func ParseBuildinfo(data []byte, name string) (*Expected, error) {
	e := new(Expected)
	outputs, order := map[string]*Output{}, []string{}
	lines := bufio.NewScanner(bytes.NewReader(data))
	for number := 1; lines.Scan(); number++ {
		key, text, ok := strings.Cut(strings.TrimSpace(lines.Text()), "=")
		switch key {
		case "os.name":
			e.System = text
		case "java.version":
			e.JDK = text
		}
		rest, is := strings.CutPrefix(key, "outputs.")
		if !ok || !is {
			continue
		}
		where, what, found := cutOutput(rest)
		if !found {
			continue
		}
		o := outputs[where]
		if o == nil {
			if len(order) >= maxOutputs {
				return nil, fmt.Errorf("%s:%d: more than %d outputs", name, number, maxOutputs)
			}
			o = new(Output)
			outputs[where], order = o, append(order, where)
		}
		if err := o.set(what, text); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", name, number, err)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	for _, where := range order {
		if o := outputs[where]; o.File != "" && o.SHA512 != "" {
			e.Outputs = append(e.Outputs, *o)
		}
	}
	return e, nil
}

// outputKeys are the keys that are read, by their ends: what stands before them names
// the output.
var outputKeys = []string{"groupId", "filename", "checksums.sha512"}

func cutOutput(key string) (where, what string, ok bool) {
	for _, end := range outputKeys {
		if before, is := strings.CutSuffix(key, "."+end); is {
			return before, end, true
		}
	}
	return "", "", false
}

func (o *Output) set(what, text string) error {
	switch what {
	case "groupId":
		o.Group = text
	case "filename":
		if artifact.CheckFile(text) != nil || strings.Contains(text, "/") {
			return fmt.Errorf("%.100q is no name of a file", text)
		}
		o.File = text
	default:
		if sum, err := hex.DecodeString(text); err != nil || len(sum) != 64 {
			return fmt.Errorf("%.100q is no SHA-512 digest", text)
		}
		o.SHA512 = strings.ToLower(text)
	}
	return nil
}

// ParseBuildcompare adds what a .buildcompare says: variables of a shell script, of
// which koFiles lists the files that did not come out as released.
func (e *Expected) ParseBuildcompare(data []byte, name string) error {
	s, err := Parse(data, name)
	if err != nil {
		return err
	}
	different, err := s.Get("koFiles")
	if err != nil {
		return err
	}
	e.Different = strings.Fields(different)
	return nil
}

// of are the outputs of a module, by file name.
func (e *Expected) of(m *module) []Output {
	var found []Output
	seen := map[string]bool{} // some releases list a file twice
	for _, o := range e.Outputs {
		rest, is := strings.CutPrefix(o.File, m.artifact+"-"+m.version)
		if is && rest != "" && strings.ContainsAny(rest[:1], ".-") && (o.Group == "" || o.Group == m.group) && !seen[o.File] {
			seen[o.File] = true
			found = append(found, o)
		}
	}
	return found
}
