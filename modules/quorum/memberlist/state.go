package memberlist

import (
	"fmt"
	"unicode"
	"unicode/utf8"

	"github.com/pyrsia/appliance/modules/record"
)

// State is what a member tells the others of itself, for people and for nothing
// else: nobody can check it. Its wire form is canonical JSON of at most MaxState
// bytes.
type State struct {
	Height   int64  `json:"height"`   // of the newest block of its chain
	Limit    int64  `json:"limit"`    // builds that may run at once
	Running  int64  `json:"running"`  // builds that do
	Software string `json:"software"` // the version of the program
	Version  int64  `json:"version"`  // of this form: 1
	Waiting  int64  `json:"waiting"`  // requests for builds that are not done
}

// Bounds of a State.
const (
	MaxState    = 512 // bytes
	maxSoftware = 64  // bytes
	maxBuilds   = 1_000_000
)

const stateVersion = 1

// Encode is the state's wire form.
func (s State) Encode() ([]byte, error) {
	s.Version = stateVersion
	if err := s.check(); err != nil {
		return nil, err
	}
	return record.Marshal(s)
}

// DecodeState reads Encode's form and nothing else. What it returns can be shown
// to people as it is.
func DecodeState(data []byte) (State, error) {
	var s State
	if len(data) > MaxState {
		return s, fmt.Errorf("%w: state of %d bytes, the limit is %d", record.ErrMalformed, len(data), MaxState)
	}
	if err := record.Unmarshal(data, &s); err != nil {
		return State{}, err
	}
	if err := s.check(); err != nil {
		return State{}, err
	}
	return s, nil
}

func (s State) check() error {
	switch {
	case s.Version != stateVersion:
		return fmt.Errorf("%w: state of version %d", record.ErrMalformed, s.Version)
	case s.Height < 0:
		return fmt.Errorf("%w: height %d", record.ErrMalformed, s.Height)
	case !counts(s.Limit, s.Running, s.Waiting):
		return fmt.Errorf("%w: %d of %d builds running, %d waiting", record.ErrMalformed, s.Running, s.Limit, s.Waiting)
	case !printable(s.Software):
		return fmt.Errorf("%w: software %.80q", record.ErrMalformed, s.Software)
	}
	return nil
}

func counts(numbers ...int64) bool {
	for _, n := range numbers {
		if n < 0 || n > maxBuilds {
			return false
		}
	}
	return true
}

func printable(text string) bool {
	if len(text) > maxSoftware || !utf8.ValidString(text) {
		return false
	}
	for _, r := range text {
		if !unicode.IsPrint(r) {
			return false
		}
	}
	return true
}
