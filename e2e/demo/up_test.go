package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestMemoryController(t *testing.T) {
	for _, test := range []struct {
		name, controllers, folder string
		good                      bool
	}{
		{name: "cgroup2", controllers: "cpuset cpu io memory pids\n", good: true},
		{name: "cgroup2 of a chroot", controllers: "cpu memory_like\n"},
		{name: "hybrid", folder: "memory", good: true},
		{name: "nothing"},
	} {
		t.Run(test.name, func(t *testing.T) {
			root := t.TempDir()
			if test.controllers != "" {
				if err := os.WriteFile(filepath.Join(root, "cgroup.controllers"), []byte(test.controllers), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if test.folder != "" {
				if err := os.Mkdir(filepath.Join(root, test.folder), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			if err := checkMemoryController(root); (err == nil) != test.good {
				t.Errorf("%v, want good: %t", err, test.good)
			}
		})
	}
}
