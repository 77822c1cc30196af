package buildspec

import (
	"testing"

	"github.com/pyrsia/appliance/modules/artifact"
)

func TestParseJDK(t *testing.T) {
	for text, want := range map[string]string{
		"8": "8", "1.8": "8", "1.8.0_392": "8.0.392", "8u504-ga": "8", "11": "11", "17.0.13": "17.0.13",
		"21.0.5+11": "21.0.5", "25.0.4.1": "25.0.4.1", "25-ea": "25",
	} {
		got, err := parseJDK(text)
		if err != nil || got.String() != want {
			t.Errorf("parseJDK(%q) = %v, %v; want %s", text, got, err, want)
		}
	}
	for _, text := range []string{"", "x", "17.", ".17", "17.x", "17.0.13.1.2.3", "99999", "17 "} {
		if got, err := parseJDK(text); err == nil {
			t.Errorf("parseJDK(%q) = %v; want an error", text, got)
		}
	}
}

func TestChooseBuilder(t *testing.T) {
	all := Builders{
		{JDK: "17", Image: "newest"}, {JDK: "17", Image: "before 14", Before: "17.0.14"}, {JDK: "17", Image: "before 5", Before: "17.0.5"},
		{JDK: "17.0.9", Image: "very"}, {JDK: "11", Image: "eleven"},
	}
	for _, reversed := range []bool{false, true} {
		for wanted, want := range map[string]struct {
			image artifact.PURL
			exact bool
		}{
			"17": {"newest", false}, "17.0.14": {"newest", false}, "17.0.19": {"newest", false}, "17.0.13": {"before 14", false},
			"17.0.5": {"before 14", false}, "17.0.4.1": {"before 5", false}, "17.0.9": {"very", true}, "11.0.2": {"eleven", false}, "21": {"", false},
		} {
			version, err := parseJDK(wanted)
			if err != nil {
				t.Fatal(err)
			}
			if image, exact := all.choose(version); image != want.image || exact != want.exact {
				t.Errorf("reversed %v: JDK %s: %q, %v; want %q, %v", reversed, wanted, image, exact, want.image, want.exact)
			}
		}
		for i, j := 0, len(all)-1; i < j; i, j = i+1, j-1 {
			all[i], all[j] = all[j], all[i]
		}
	}
}
