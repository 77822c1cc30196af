// Command vary is runc on another machine than this: what a build step sees of host name,
// user name and time is not this machine's. It stands between a buildkitd and runc, for
// `make coverage` alone, and varies only steps in a root that has a JDK: builder images
// are bootstrapped as they are.
//
// Time is libfaketime's, in VARY_TIME, from the library in VARY_LIBRARY; in a root of
// Debian 11 or older it is not varied.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

func main() {
	if bundle, runs := bundleOf(os.Args[1:]); runs {
		if err := change(bundle); err != nil {
			fmt.Fprintf(os.Stderr, "runc run failed: vary the machine: %v\n", err)
			os.Exit(1)
		}
	}
	program, err := exec.LookPath("runc")
	if err == nil {
		err = syscall.Exec(program, append([]string{program}, os.Args[1:]...), os.Environ())
	}
	fmt.Fprintf(os.Stderr, "runc run failed: %v\n", err)
	os.Exit(1)
}

// bundleOf is the folder of the container that is run.
func bundleOf(args []string) (string, bool) {
	if !slices.Contains(args, "run") && !slices.Contains(args, "create") {
		return "", false
	}
	if at := slices.Index(args, "--bundle"); at >= 0 && at+1 < len(args) {
		return args[at+1], true
	}
	return ".", true
}

// Where the varied files are in a step's root: a folder that no image keeps.
const (
	library = "/run/vary/time.so"
	user    = "someone"
	host    = "elsewhere"
)

// loads tells whether a root's C library can load this machine's libfaketime, which is
// linked with a glibc of 2.34 or later. Where it cannot, time is not varied.
func loads(root string) bool {
	library, err := os.ReadFile(filepath.Join(root, "lib/x86_64-linux-gnu/libc.so.6"))
	return err == nil && bytes.Contains(library, []byte("GLIBC_2.34\x00"))
}

func change(bundle string) error {
	path := filepath.Join(bundle, "config.json")
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var config map[string]any
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	if err := decoder.Decode(&config); err != nil {
		return err
	}
	root, _ := config["root"].(map[string]any)["path"].(string)
	if !filepath.IsAbs(root) {
		root = filepath.Join(bundle, root)
	}
	if _, err := os.Stat(filepath.Join(root, "usr/lib/jvm")); err != nil {
		return nil
	}
	config["hostname"] = host
	process := config["process"].(map[string]any)
	variables, _ := process["env"].([]any)
	variables = append(variables, "USER="+user, "LOGNAME="+user)
	mounts, _ := config["mounts"].([]any)
	if from := os.Getenv("VARY_LIBRARY"); from != "" && loads(root) {
		mounts = append(mounts, bind(from, library))
		variables = append(variables, "LD_PRELOAD="+library, "FAKETIME="+os.Getenv("VARY_TIME"),
			// Clocks that only go on, and the times of files, are this machine's: what
			// waits would wait for ever, and what is new would be old.
			"DONT_FAKE_MONOTONIC=1", "FAKETIME_DONT_FAKE_MONOTONIC=1", "NO_FAKE_STAT=1",
			// What is meant for an older glibc ends every timed wait of a JVM at once, so
			// that its own threads take most of the only processor.
			"FAKETIME_FORCE_MONOTONIC_FIX=0")
	}
	passwd, err := users(root, bundle)
	if err != nil {
		return err
	}
	config["mounts"], process["env"] = append(mounts, bind(passwd, "/etc/passwd")), variables
	out, err := json.Marshal(config)
	if err != nil {
		return err
	}
	return os.WriteFile(path, out, 0o600)
}

func bind(from, to string) map[string]any {
	return map[string]any{"destination": to, "source": from, "type": "bind", "options": []string{"bind", "ro"}}
}

// users is a copy of the root's users in which root has another name.
func users(root, bundle string) (string, error) {
	text, err := os.ReadFile(filepath.Join(root, "etc/passwd"))
	if err != nil {
		return "", err
	}
	path := filepath.Join(bundle, "passwd")
	return path, os.WriteFile(path, []byte(strings.Replace(string(text), "root:", user+":", 1)), 0o644)
}
