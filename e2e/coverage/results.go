package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/pyrsia/appliance/appliance/control"
	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/record"
)

// outcome is how a package came out.
type outcome string

const (
	reproduced  outcome = "reproduced"   // published, and every file as released
	differs     outcome = "differs"      // published, and a file is not as released
	disagreed   outcome = "disagreed"    // the two build nodes got different bytes
	failed      outcome = "failed"       // no result
	unavailable outcome = "unavailable"  // no result, for the Maven repository has not all that it is built with
	notImported outcome = "not imported" // no recipe
)

// result is one row of the table.
type result struct {
	Name    string        `json:"name"` // of the buildspec's file
	Package artifact.PURL `json:"package"`
	JDK     string        `json:"jdk"`
	Maven   string        `json:"maven"`
	Umask   string        `json:"umask"`
	Newline string        `json:"newline"`
	Modules int           `json:"modules"`
	Files   int           `json:"files"`
	Equal   int           `json:"equal"`  // files that are as released
	Inputs  int           `json:"inputs"` // locked files
	Seconds int64         `json:"seconds"`
	Outcome outcome       `json:"outcome"`
	Reason  string        `json:"reason,omitempty"`
	Causes  []string      `json:"causes,omitempty"` // by the node's reports of differences
	Date    string        `json:"date"`
	Clocks  bool          `json:"clocks"` // the two machines differed in time, too
}

// old is the Debian suite of builder images in which time cannot be varied (vary).
const old = "bullseye"

// describe takes what the recipe says.
func (r *result) describe(made *record.Recipe) {
	r.JDK = made.Builder.Repository() + ":" + made.Builder.Version()
	r.Clocks = made.Builder.Version() != old
	r.Umask, r.Newline, r.Files = made.Environment.Umask, made.Environment.Newline, len(made.Outputs)
	modules := map[artifact.PURL]bool{}
	for _, o := range made.Outputs {
		modules[o.Package] = true
	}
	r.Modules = len(modules)
	for _, s := range made.Sources {
		if rest, is := strings.CutPrefix(s.Maven, "org.apache.maven:apache-maven:"); is {
			r.Maven, _, _ = strings.Cut(rest, ":")
		}
	}
}

// judge is the outcome of a build.
func (r *result) judge(b control.BuildDetail, err error) {
	r.Inputs = b.Inputs
	var unlike []string
	for _, o := range b.Outputs {
		if o.Reference == "equal" {
			r.Equal++
		} else if o.Reference != "" {
			unlike = append(unlike, o.Name.File+" "+o.Reference)
		}
	}
	switch {
	case err != nil:
		r.Outcome, r.Reason = failed, err.Error()
	case b.State == control.Disagreed:
		r.Outcome, r.Reason = disagreed, strings.Join(unequal(b), ", ")
	case b.State != control.Published:
		r.Outcome, r.Reason = failed, b.Reason
	case len(unlike) > 0:
		r.Outcome, r.Reason = differs, strings.Join(unlike, ", ")
	default:
		r.Outcome = reproduced
	}
}

// unequal are the files of which the build nodes have different ones.
func unequal(b control.BuildDetail) []string {
	var files []string
	for _, o := range b.Outputs {
		if slices.ContainsFunc(o.Members, func(v control.OutputVote) bool { return !v.Equal }) {
			files = append(files, o.Name.File)
		}
	}
	return files
}

// results are the rows so far, in a file that is written after each.
type results struct {
	mu   sync.Mutex
	path string
	rows []result
}

func readResults(path string) (*results, error) {
	r := &results{path: path}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &r.rows)
	}
	if err != nil {
		return nil, fmt.Errorf("results of earlier runs: %s: %w", path, err)
	}
	return r, nil
}

// has tells whether a package is done. What failed is tried again in the next run.
func (r *results) has(name string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(r.rows, func(row result) bool { return row.Name == name && row.Outcome != failed && row.Outcome != unavailable })
}

func (r *results) add(row result) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rows = slices.DeleteFunc(r.rows, func(old result) bool { return old.Name == row.Name })
	r.rows = append(r.rows, row)
	slices.SortFunc(r.rows, func(a, b result) int { return strings.Compare(string(a.Package)+a.Name, string(b.Package)+b.Name) })
	data, err := json.MarshalIndent(r.rows, "", " ")
	if err != nil {
		return err
	}
	temporary := filepath.Join(filepath.Dir(r.path), "."+filepath.Base(r.path))
	if err := os.WriteFile(temporary, append(data, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(temporary, r.path)
}
