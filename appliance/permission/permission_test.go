package permission

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestCheck(t *testing.T) {
	const me, mine, stranger = 1000, 1000, 1001
	owner := Owner{UID: me, Groups: []int{mine}}
	for _, c := range []struct {
		name     string
		mode     os.FileMode
		uid, gid int
		folder   bool
		secret   bool
		want     string // part of the problem
		fatal    bool
	}{
		{name: "my own", mode: 0o644, uid: me, gid: mine},
		{name: "root's", mode: 0o640, gid: mine},
		{name: "my group may change it", mode: 0o664, uid: me, gid: mine},
		{name: "root's group may change it", mode: 0o660, uid: me},
		{name: "a secret", mode: 0o600, uid: me, gid: stranger, secret: true},
		{name: "a secret of a group's", mode: 0o640, uid: me, gid: mine, secret: true, want: "secret", fatal: true},
		{name: "a secret of everybody's", mode: 0o604, uid: me, gid: mine, secret: true, want: "secret", fatal: true},
		{name: "everybody's", mode: 0o646, uid: me, gid: mine, want: "everybody", fatal: true},
		{name: "everybody's folder", mode: 0o777, folder: true, want: "everybody", fatal: true},
		{name: "a folder such as /tmp", mode: 0o777 | os.ModeSticky, folder: true},
		{name: "a stranger's", mode: 0o600, uid: stranger, gid: mine, want: "belongs to the user 1001"},
		{name: "a stranger's group", mode: 0o660, uid: me, gid: stranger, want: "the group 1001"},
	} {
		if c.folder {
			c.mode |= os.ModeDir
		}
		problem, is := owner.problem(File{"f", c.secret}, info{c.mode, c.uid, c.gid})
		if is != (c.want != "") || !strings.Contains(problem.What, c.want) || problem.Fatal != c.fatal {
			t.Errorf("%s: %+v, want %q, fatal %v", c.name, problem, c.want, c.fatal)
		}
	}
}

// info is a file of anybody's: tests need not be root.
type info struct {
	mode     os.FileMode
	uid, gid int
}

func (info) Name() string        { return "f" }
func (info) Size() int64         { return 0 }
func (i info) Mode() os.FileMode { return i.mode }
func (info) ModTime() time.Time  { return time.Time{} }
func (i info) IsDir() bool       { return i.mode.IsDir() }
func (i info) Sys() any          { return &syscall.Stat_t{Uid: uint32(i.uid), Gid: uint32(i.gid)} }

// On real files: one of one's own, one that everybody may change, and an absent one.
func TestCheckFiles(t *testing.T) {
	folder := t.TempDir()
	good, open := filepath.Join(folder, "good"), filepath.Join(folder, "open")
	for path, mode := range map[string]os.FileMode{good: 0o600, open: 0o666} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	owner, err := Of(good)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range []Owner{owner, Self()} {
		problems := o.Check(File{good, true}, File{folder + "/absent", true}, File{Path: open})
		if len(problems) != 1 || problems[0].Path != open || problems[0].Do != "chmod o-w "+open {
			t.Errorf("%v", problems)
		}
	}
}

func TestWithin(t *testing.T) {
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "a"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	files, err := Within(folder, true)
	if err != nil || len(files) != 2 || files[1] != (File{folder + "/a", true}) {
		t.Errorf("%v, %v", files, err)
	}
	if files, err := Within(folder+"/absent", true); err != nil || files != nil {
		t.Errorf("%v, %v", files, err)
	}
}
