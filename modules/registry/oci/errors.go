package oci

import (
	"encoding/json"
	"net/http"

	"github.com/pyrsia/appliance/modules/mirror"
	"github.com/pyrsia/appliance/modules/registry"
)

// Error codes of the OCI Distribution Specification 1.1, "Error codes", and
// UNAVAILABLE, which its registries use where no code fits.
const (
	blobUnknown     = "BLOB_UNKNOWN"
	digestInvalid   = "DIGEST_INVALID"
	manifestInvalid = "MANIFEST_INVALID"
	manifestUnknown = "MANIFEST_UNKNOWN"
	nameInvalid     = "NAME_INVALID"
	nameUnknown     = "NAME_UNKNOWN"
	denied          = "DENIED"
	unsupported     = "UNSUPPORTED"
	tooMany         = "TOOMANYREQUESTS"
	unavailable     = "UNAVAILABLE"
)

// failure is an answer that is not content.
type failure struct {
	registry.Failure
	code string
}

func invalid(code, message string) *failure {
	return &failure{registry.Failure{Status: http.StatusBadRequest, Message: message}, code}
}

func notFound(message string) *failure {
	return &failure{registry.Failure{Status: http.StatusNotFound, Message: message}, unsupported}
}

// unknown is the code for "there is no such thing" of each kind.
func (k kind) unknown() string {
	switch k {
	case manifest:
		return manifestUnknown
	case blob:
		return blobUnknown
	}
	return nameUnknown
}

// explain turns an error of the mirror into the protocol's.
func explain(k kind, err error) *failure {
	f := &failure{registry.Explain(err), unavailable}
	switch f.Status {
	case http.StatusNotFound:
		f.code = k.unknown()
	case http.StatusForbidden:
		f.code = denied
	case http.StatusTooManyRequests:
		f.code = tooMany
	}
	return f
}

type errorBody struct {
	Errors []errorItem `json:"errors"`
}

type errorItem struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

func (f *failure) write(w http.ResponseWriter, r *http.Request) {
	body, err := json.Marshal(errorBody{[]errorItem{{f.code, f.Message}}})
	if err != nil {
		panic(err) // strings always marshal
	}
	f.Header(w.Header())
	registry.Bytes(w, r, mirror.Computed, f.Status, "application/json", body)
}
