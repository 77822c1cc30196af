package buildkit

import (
	"fmt"
	"path"
	"regexp"
	"strings"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/build"
	"github.com/pyrsia/appliance/modules/record"
)

var (
	debianName = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]*$`)
	umaskForm  = regexp.MustCompile(`^0?[0-7]{3}$`)
)

// checkJob refuses what this engine cannot build. The recipe was endorsed by a
// majority, so this is against mistakes rather than attacks; but names go into
// command lines and paths here, and their forms are relied upon.
func checkJob(job build.Job) error {
	r := job.Recipe
	if r == nil || job.Lock == nil || job.Open == nil || job.Log == nil {
		return fmt.Errorf("build job %s is incomplete", job.ID)
	}
	for _, check := range []error{checkPlatform(r), checkEnvironment(r.Environment), checkTarget(job), checkSources(r), checkDebian(r)} {
		if check != nil {
			return fmt.Errorf("%w: recipe of %s: %w", build.ErrFailed, r.Package, check)
		}
	}
	return nil
}

func checkPlatform(r *record.Recipe) error {
	if r.Platform != "linux/amd64" {
		return fmt.Errorf("platform %q: this engine builds for linux/amd64", r.Platform)
	}
	if r.Resolve != "" && r.Resolve != "maven" {
		return fmt.Errorf("resolve %q: this engine knows \"maven\"", r.Resolve)
	}
	return nil
}

func checkEnvironment(e record.Environment) error {
	if e.Umask != "" && !umaskForm.MatchString(e.Umask) {
		return fmt.Errorf("umask %q: want three octal digits", e.Umask)
	}
	if e.WorkDir != "" && !cleanAbsolute(e.WorkDir) {
		return fmt.Errorf("working folder %q: want a clean absolute path", e.WorkDir)
	}
	return checkVariables(e.Variables)
}

func checkVariables(variables []string) error {
	for _, v := range variables {
		name, _, ok := strings.Cut(v, "=")
		if !ok || name == "" || strings.ContainsRune(v, 0) {
			return fmt.Errorf("variable %.100q: want NAME=value", v)
		}
	}
	return nil
}

func cleanAbsolute(p string) bool {
	return path.IsAbs(p) && path.Clean(p) == p && (p == "/" || artifact.CheckFile(p[1:]) == nil)
}

// checkTarget wants either outputs from a builder image or an image from Debian
// packages.
func checkTarget(job build.Job) error {
	r := job.Recipe
	fromImage := r.Builder != ""
	switch {
	case fromImage && job.Builder.IsZero():
		return fmt.Errorf("builder image %s is not at hand", r.Builder)
	case fromImage && (len(r.Debian) > 0 || len(r.Images) > 0 || len(r.Outputs) == 0):
		return fmt.Errorf("with a builder image it has outputs, and neither Debian packages nor an image")
	case !fromImage && (len(r.Debian) != 1 || len(r.Images) != 1 || len(r.Outputs) > 0):
		return fmt.Errorf("without a builder image it has one set of Debian packages, one image and no outputs")
	}
	for _, o := range r.Outputs {
		if err := artifact.CheckFile(o.Path); err != nil || strings.ContainsAny(o.Path, `*?[`) || o.Path[0] == '!' {
			return fmt.Errorf("output path %.200q: want a plain path below the working folder", o.Path)
		}
	}
	for _, i := range r.Images {
		if err := checkVariables(i.Variables); err != nil {
			return err
		}
	}
	return nil
}

func checkSources(r *record.Recipe) error {
	for _, s := range r.Sources {
		if _, err := sourceName(s); err != nil {
			return err
		}
		if s.Into != "" && !cleanAbsolute(s.Into) {
			return fmt.Errorf("source folder %q: want a clean absolute path", s.Into)
		}
	}
	return nil
}

func checkDebian(r *record.Recipe) error {
	for _, d := range r.Debian {
		names := append(append([]string{d.Suite}, d.Packages...), d.BaseOf...)
		if d.Variant != "" {
			names = append(names, d.Variant)
		}
		for _, name := range names {
			if !debianName.MatchString(name) {
				return fmt.Errorf("Debian suite, package or variant %.100q", name)
			}
		}
	}
	return nil
}
