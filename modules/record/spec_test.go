package record_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const specification = "../../docs/protocol.md"

var (
	goldenBlock = regexp.MustCompile("(?s)```golden=([a-z-]+)\n(.*?)```\n")
	goldenName  = regexp.MustCompile("golden:([a-z-]+)|\\| `((?:sign|part)-[a-z-]+)`")
)

// TestSpecification holds the examples in docs/protocol.md to the goldens.
func TestSpecification(t *testing.T) {
	text, err := os.ReadFile(specification)
	if err != nil {
		t.Fatal(err)
	}
	golden := func(name string) string {
		data, err := os.ReadFile(filepath.Join("testdata", name+".golden"))
		if err != nil {
			t.Error(err)
		}
		return strings.TrimSuffix(string(data), "\n") + "\n"
	}
	if *update {
		again := goldenBlock.ReplaceAllStringFunc(string(text), func(block string) string {
			name := goldenBlock.FindStringSubmatch(block)[1]
			return "```golden=" + name + "\n" + golden(name) + "```\n"
		})
		if err := os.WriteFile(specification, []byte(again), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	examples := goldenBlock.FindAllStringSubmatch(string(text), -1)
	if len(examples) == 0 {
		t.Error("the specification has no examples")
	}
	for _, example := range examples {
		if example[2] != golden(example[1]) {
			t.Errorf("the example %s is not its golden; run go test -update", example[1])
		}
	}
	for _, name := range goldenName.FindAllStringSubmatch(string(text), -1) {
		golden(name[1] + name[2])
	}
}
