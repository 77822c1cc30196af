package cluster

import (
	"context"
	"encoding/json"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

func sleeper(t *testing.T, script string) *Process {
	t.Helper()
	p := &Process{Name: "p", Folder: t.TempDir(), Args: []string{"/bin/sh", "-c", script}}
	t.Cleanup(func() {
		if err := p.Kill(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// logged waits until a process wrote something.
func logged(t *testing.T, p *Process, text string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := Until(ctx, func() (bool, error) {
		data, err := os.ReadFile(p.Log())
		return strings.Contains(string(data), text), err
	}); err != nil {
		t.Fatalf("%q is not in %s: %v", text, p.Log(), err)
	}
}

func TestProcess(t *testing.T) {
	p := sleeper(t, "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.01; done")
	if p.Running() {
		t.Fatal("runs before it was started")
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	logged(t, p, "up")
	// Another program finds it by its pid file.
	found := &Process{Name: p.Name, Folder: p.Folder, Args: p.Args}
	if !found.Running() || found.PID() != p.PID() {
		t.Fatalf("found pid %d, want %d", found.PID(), p.PID())
	}
	if err := p.Start(); err == nil {
		t.Error("started twice")
	}
	if err := found.Stop(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	logged(t, p, "bye")
	if p.Running() || found.Running() {
		t.Error("runs after it was stopped")
	}
}

func TestProcessThatDoesNotListen(t *testing.T) {
	p := sleeper(t, "trap '' TERM; echo up; while :; do sleep 0.01; done")
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	logged(t, p, "up")
	if err := p.Stop(100 * time.Millisecond); err == nil || !strings.Contains(err.Error(), "was killed") {
		t.Errorf("Stop: %v, want that it was killed", err)
	}
	if p.Running() {
		t.Error("runs after it was killed")
	}
}

// A pid file that speaks of another process than the one with its pid must
// never get that one killed.
func TestProcessIsAnother(t *testing.T) {
	self := os.Getpid()
	began, err := beganAt(self)
	if err != nil {
		t.Fatal(err)
	}
	for name, known := range map[string]pidFile{
		"another program":  {PID: self, Began: began, Boot: bootID(), Args: []string{"/bin/sh", "-c", "x"}},
		"another start":    {PID: self, Began: began + 1, Boot: bootID(), Args: os.Args},
		"another boot":     {PID: self, Began: began, Boot: "x", Args: os.Args},
		"init":             {PID: 1, Boot: bootID()},
		"a process group":  {PID: -self, Began: began, Boot: bootID(), Args: os.Args},
		"nobody":           {PID: 1 << 30, Began: began, Boot: bootID(), Args: os.Args},
		"nothing but zero": {},
	} {
		t.Run(name, func(t *testing.T) {
			p := &Process{Name: "p", Folder: t.TempDir(), Args: []string{"/bin/sh"}}
			data, err := json.Marshal(known)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(p.file(), data, 0o600); err != nil {
				t.Fatal(err)
			}
			if p.Running() {
				t.Errorf("takes pid %d for its own", p.PID())
			}
			if err := p.Kill(); err != nil {
				t.Error(err)
			}
		})
	}
	p := &Process{Name: "p", Folder: t.TempDir()}
	if err := os.WriteFile(p.file(), []byte("{"+strconv.Itoa(self)), 0o600); err != nil {
		t.Fatal(err)
	}
	if p.Running() {
		t.Error("reads a torn pid file")
	}
}

func TestProcessTellsWhyItEnded(t *testing.T) {
	p := sleeper(t, "echo first; echo the disk is full >&2; exit 1")
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	<-p.exited
	if err := p.failed(); err == nil || !strings.Contains(err.Error(), "the disk is full") {
		t.Errorf("%v, want the last line of its log", err)
	}
}
