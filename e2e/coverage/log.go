package main

import (
	"bufio"
	"context"
	"io"
	"regexp"
	"slices"
	"strings"
)

// reading is what the log of a build that failed tells.
type reading struct {
	errors  []string // what Maven says of it, first
	absent  []string // paths that the mirror asked for and that upstream does not have
	wanting []string // the coordinates that Maven could not find
}

var (
	absentPattern = regexp.MustCompile(`^not served: (\S+): upstream has no such file$`)
	goalPattern   = regexp.MustCompile(`^ *\[ERROR\] (Failed to execute goal .*|Plugin .* could not be resolved.*|The build could not read .*)$`)
	findPattern   = regexp.MustCompile(`Could not find artifact ([A-Za-z0-9_.-]+(?::[A-Za-z0-9_.-]+){2,5})`)
)

// maxSaid bounds a line of the table.
const maxSaid = 300

func readLog(log io.Reader) reading {
	var r reading
	lines := bufio.NewScanner(log)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		if match := absentPattern.FindStringSubmatch(line); match != nil {
			r.absent = append(r.absent, match[1])
		}
		if match := goalPattern.FindStringSubmatch(line); match != nil {
			text := match[1][:min(len(match[1]), maxSaid)]
			if !slices.Contains(r.errors, text) {
				r.errors = append(r.errors, text)
			}
		}
		if match := findPattern.FindStringSubmatch(line); match != nil {
			r.wanting = append(r.wanting, match[1])
		}
	}
	return r
}

// missing is a file that the build could not do without and that upstream does not have,
// "" where it failed for another reason.
func (r reading) missing() string {
	for _, coordinates := range r.wanting {
		parts := strings.Split(coordinates, ":")
		folder := strings.ReplaceAll(parts[0], ".", "/") + "/" + parts[1] + "/" + parts[len(parts)-1] + "/"
		for _, path := range r.absent {
			if strings.HasPrefix(path, folder) {
				return path
			}
		}
	}
	return ""
}

// explain adds what the log of a failed build tells, and whether it was for want of an
// input.
func (c *coverage) explain(ctx context.Context, r *result, id string) {
	if r.Outcome != failed || id == "" {
		return
	}
	log, writer := io.Pipe()
	client := c.cluster.Node(0).Client()
	defer client.Close()
	go func() { writer.CloseWithError(client.BuildLogs(ctx, id, false, writer)) }()
	read := readLog(log)
	log.Close() //nolint:errcheck // what writes learns that nobody reads
	r.Causes = append(r.Causes, read.errors[:min(len(read.errors), 2)]...)
	if path := read.missing(); path != "" {
		r.Outcome, r.Causes = unavailable, append(r.Causes, "the Maven repository here has no "+path)
	}
}
