package ledger

import (
	"testing"

	"github.com/pyrsia/appliance/modules/artifact"
)

// A tag that could be spelled in two ways would be two packages, and so have
// two live recipes that move it.
func TestImageHasOneSpelling(t *testing.T) {
	for purl, good := range map[artifact.PURL]bool{
		"pkg:docker/acme/tool@1.0":                    true,
		"pkg:docker/tool@1.0":                         true,
		"pkg:docker/a/b/tool@latest":                  true,
		"pkg:maven/org.example/tool@1.0?type=pom":     true,
		"pkg:docker/acme/tool@1.0?a=b":                false,
		"pkg:docker/acme%2Ftool@1.0":                  false,
		"pkg:docker/acme/tool":                        false,
		"pkg:docker/acme/tool@-1":                     false,
		"pkg:docker/acme/tool@sha256%3A" + hex64:      false,
		"pkg:docker/acme/tool@1.0?arch=amd64&os=none": false,
	} {
		if err := checkImage(purl); (err == nil) != good {
			t.Errorf("%s: %v", purl, err)
		}
	}
}

const hex64 = "0000000000000000000000000000000000000000000000000000000000000000"
