package main

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// report writes the table.
func (c *coverage) report() error {
	c.results.mu.Lock()
	rows := slices.Clone(c.results.rows)
	c.results.mu.Unlock()
	specs, err := filepath.Glob(filepath.Join(c.specs, "*.buildspec"))
	if err != nil {
		return err
	}
	return os.WriteFile(c.options.results+".md", []byte(page(rows, machine(), max(len(specs)-len(rows), 0))), 0o644)
}

// machine is what the numbers were made on.
func machine() string {
	memory := "memory unknown"
	data, err := os.ReadFile("/proc/meminfo")
	if err == nil {
		var kib int64
		if _, err := fmt.Sscanf(string(data), "MemTotal: %d kB", &kib); err == nil {
			memory = fmt.Sprintf("%d GiB", (kib+1<<19)>>20)
		}
	}
	return fmt.Sprintf("%d processors, %s, %s/%s", runtime.NumCPU(), memory, runtime.GOOS, runtime.GOARCH)
}

const intro = `# Coverage: releases rebuilt byte for byte

Written by ` + "`make coverage`" + `, which anybody can run: for each buildspec of
` + "`e2e/coverage/specs`" + ` it makes a recipe by ` + "`pyrsia recipe import`" + `, puts it into the
folders of two build nodes, and has the package built, voted on and published
by them, as an operator would. Nobody touches a recipe in between. The releases were
chosen because others have rebuilt them before; the buildspecs hold the facts of
Reproducible Central's, written out anew.

A release counts as **reproduced** when both nodes made the same bytes, so that it is
published, and every file is byte for byte the one that its project released: by the
digest in the .buildinfo beside the buildspec, or else by the file in the Maven
repository. One file that is not makes it **differs**.

The two nodes have a buildkitd each, and these see their machine differently:

| | first | second |
|---|---|---|
%s
`

// page is the whole table; left is how many buildspecs have no row yet.
func page(rows []result, machine string, left int) string {
	var b strings.Builder
	fmt.Fprintf(&b, intro, variations())
	undone := ""
	if left > 0 {
		undone = fmt.Sprintf(" %d more buildspecs are in the folder and were not built yet.", left)
	}
	fmt.Fprintf(&b, "## Result\n\n%s\n\nMachine: %s. Time is from the request to its end, inputs fetched first, while other packages were under way on the same machine.\n\n", summary(rows)+undone, machine)
	fmt.Fprintf(&b, "| JDK | releases | reproduced |\n|---|---|---|\n%s\n", byJDK(rows))
	b.WriteString("| package | JDK | Maven | umask | modules | files as released | inputs | time | outcome |\n|---|---|---|---|---|---|---|---|---|\n")
	for _, r := range rows {
		b.WriteString(r.row())
	}
	if slices.ContainsFunc(rows, func(r result) bool { return !r.Clocks && r.Outcome == reproduced }) {
		b.WriteString("\n¹ built on two machines that differed as above, but for time: the C library of the builder image is older than what varies it.\n")
	}
	if reasons := unlike(rows); reasons != "" {
		b.WriteString("\n## What did not come out as released, and why\n\n" + reasons)
	}
	return b.String()
}

func summary(rows []result) string {
	counts, projects := map[outcome]int{}, map[string]bool{}
	for _, r := range rows {
		counts[r.Outcome]++
		if r.Outcome != notImported && r.Outcome != unavailable {
			projects[project(r)] = true
		}
	}
	built := len(rows) - counts[notImported] - counts[unavailable]
	text := fmt.Sprintf("**%d of %d releases reproduced (%s)**, of %d projects", counts[reproduced], built, share(counts[reproduced], built), len(projects))
	for _, o := range []outcome{differs, disagreed, failed} {
		if counts[o] > 0 {
			text += fmt.Sprintf("; %s: %d", o, counts[o])
		}
	}
	if n := counts[unavailable]; n > 0 {
		text += fmt.Sprintf(". Not counted: %d of which the Maven repository of this machine has not all inputs", n)
	}
	return text + fmt.Sprintf(". %d of %d buildspecs were imported.", len(rows)-counts[notImported], len(rows))
}

// project is a release's without its version.
func project(r result) string {
	name, _, _ := strings.Cut(string(r.Package), "@")
	return name
}

func share(part, whole int) string {
	if whole == 0 {
		return "–"
	}
	return fmt.Sprintf("%.1f %%", 100*float64(part)/float64(whole))
}

func byJDK(rows []result) string {
	all, good := map[string]int{}, map[string]int{}
	var names []string
	for _, r := range rows {
		if r.Outcome == notImported || r.Outcome == unavailable {
			continue
		}
		if all[r.jdk()]++; all[r.jdk()] == 1 {
			names = append(names, r.jdk())
		}
		if r.Outcome == reproduced {
			good[r.jdk()]++
		}
	}
	slices.SortFunc(names, func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) })
	var b strings.Builder
	for _, name := range names {
		fmt.Fprintf(&b, "| %s | %d | %d |\n", name, all[name], good[name])
	}
	return b.String()
}

// jdk is the major version of the builder image's JDK.
func (r *result) jdk() string {
	name, _, _ := strings.Cut(r.JDK, ":")
	return name[strings.LastIndex(name, "jdk")+len("jdk"):]
}

func (r *result) row() string {
	if r.Outcome == notImported {
		return fmt.Sprintf("| %s | | | | | | | | %s |\n", r.Name, r.Outcome)
	}
	umask := r.Umask
	if r.Newline != "" {
		umask += ", " + r.Newline
	}
	return fmt.Sprintf("| `%s` | %s | %s | %s | %d | %d of %d | %d | %s | %s |\n", strings.TrimPrefix(string(r.Package), "pkg:maven/"),
		r.jdk(), r.Maven, umask, r.Modules, r.Equal, r.Files, r.Inputs, time.Duration(r.Seconds)*time.Second, r.outcome())
}

// outcome is marked where the two machines had the same clock.
func (r *result) outcome() string {
	if r.Clocks || r.Outcome == failed || r.Outcome == unavailable {
		return string(r.Outcome)
	}
	return string(r.Outcome) + " ¹"
}

func unlike(rows []result) string {
	var b strings.Builder
	for _, r := range rows {
		if r.Outcome == reproduced {
			continue
		}
		name := string(r.Package)
		if name == "" {
			name = r.Name
		}
		fmt.Fprintf(&b, "- `%s` %s: %s\n", strings.TrimPrefix(name, "pkg:maven/"), r.Outcome, plain(r.Reason))
		for _, cause := range r.Causes {
			fmt.Fprintf(&b, "  - %s\n", plain(cause))
		}
	}
	return b.String()
}

// plain is a reason on one line, without what only this machine has.
func plain(text string) string {
	return strings.Join(strings.Fields(text), " ")
}

// variations are the rows of the table of machines.
func variations() string {
	var b strings.Builder
	for _, v := range []struct{ what, first, second string }{
		{"time, as a step sees it", "now", ahead},
		{"host name, of the daemon and of a step", "this machine's, and buildkitd's own for steps", varied.Host},
		{"name of the user that a step runs as", "root", "someone"},
		{"processors", fmt.Sprint(runtime.NumCPU()), fmt.Sprint(varied.CPUs)},
		{"umask of the daemon", "022", fmt.Sprintf("%03o", varied.Umask)},
		{"folder of the daemon's root", "its own", "its own, and below it " + varied.Folder},
		{"environment of the daemon", "this machine's", strings.Join(varied.Env, ", ")},
	} {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", v.what, v.first, v.second)
	}
	return b.String()
}
