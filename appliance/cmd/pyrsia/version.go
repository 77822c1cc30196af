package main

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// buildVersion is set by the linker: -ldflags "-X main.buildVersion=0.1.0".
var buildVersion = ""

// version is the release, or what the build information knows, and the
// revision of the source.
func version() string {
	name, revision := buildVersion, ""
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return name + " (unknown source)"
	}
	if name == "" {
		name = info.Main.Version
	}
	if name == "" {
		name = "(devel)"
	}
	modified := false
	for _, setting := range info.Settings {
		switch setting.Key {
		case "vcs.revision":
			revision = setting.Value
		case "vcs.modified":
			modified = setting.Value == "true"
		}
	}
	if revision == "" {
		return name
	}
	if len(revision) > 12 {
		revision = revision[:12]
	}
	if modified {
		revision += ", changed"
	}
	return fmt.Sprintf("%s (%s)", name, revision)
}

func versionCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Which program this is",
		Example: "  pyrsia version\n  pyrsia version --json",
		Args:    exactly(),
		RunE: func(*cobra.Command, []string) error {
			about := map[string]string{"version": version(), "go": runtime.Version(), "platform": platform()}
			return a.show(about, func(w io.Writer, _ style) {
				fmt.Fprintf(w, "pyrsia %s, %s, %s\n", about["version"], about["go"], about["platform"])
			})
		},
	}
}

func platform() string { return runtime.GOOS + "/" + runtime.GOARCH }
