package nesting

import (
	"strings"
	"testing"
)

func TestCheck(t *testing.T) {
	for name, source := range map[string]string{
		"brackets":  "x = " + strings.Repeat("[", 150_000),
		"parens":    "x = " + strings.Repeat("(", 400_000),
		"minus":     "x = " + strings.Repeat("-", 900_000) + "1",
		"not":       "x = " + strings.Repeat("!", 900_000) + "true",
		"templates": "x = " + strings.Repeat(`"${`, 100_000),
		"blocks":    strings.Repeat("a {\n", 100_000),
		"objects":   "x = " + strings.Repeat("{a=", 100_000),
		"questions": "x = " + strings.Repeat("a ? b : ", 100_000),
		"sums":      "x = 1" + strings.Repeat("+1", 300_000),
	} {
		if problems := Check([]byte(source), "x"); !problems.HasErrors() {
			t.Errorf("%s: taken", name)
		}
	}
	ordinary := strings.Repeat("mirror \"maven\" {\n  packages = [\"a:b\", \"c:d\"]\n}\n", 1000)
	if problems := Check([]byte(ordinary), "x"); problems.HasErrors() {
		t.Errorf("an ordinary file: %v", problems)
	}
}
