package input

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/build"
	"github.com/pyrsia/appliance/modules/build/input/git/gittest"
	"github.com/pyrsia/appliance/modules/record"
)

// commitWorld is a recipe whose source is a commit that a tag names.
func commitWorld(t *testing.T) (*world, *record.Recipe, build.Engine, *gittest.Repository, *httptest.Server) {
	w, recipe, engine := mavenWorld(t)
	repository := gittest.New(t)
	commit := repository.Commit(repository.Tree(map[string]gittest.File{"pom.xml": {Content: "<project/>"}, "src/a.txt": {Content: "a\n"}}))
	repository.Point("refs/tags/v1", commit)
	server := httptest.NewServer(repository)
	t.Cleanup(server.Close)
	var packed bytes.Buffer
	found, err := (Commits{}).Pack(t.Context(), server.URL+"/thing.git", "v1", &packed)
	if err != nil || found != commit {
		t.Fatalf("commit %s, %v; want %s", found, err, commit)
	}
	recipe.Sources = []record.Source{{Git: server.URL + "/thing.git", Tag: "v1", Commit: commit, SHA256: artifact.SHA256(sha256.Sum256(packed.Bytes()))}}
	return w, recipe, engine, repository, server
}

func TestResolveCommit(t *testing.T) {
	w, recipe, engine, _, _ := commitWorld(t)
	lock := resolve(t, w.asker, recipe, engine)
	source := entriesOf(lock, kindSource)
	want := recipe.Sources[0].SHA256.String() + "/" + recipe.Sources[0].Commit + ".tar"
	if len(source) != 1 || source[0].Path != want || source[0].Proof != record.ProofSource {
		t.Fatalf("source entries %v, want one at %s", source, want)
	}
	if err := w.voter.keeper.Hold(t.Context(), recipe, lock, nil); err != nil {
		t.Fatal(err)
	}
	file, err := w.voter.store.Open(source[0].File.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var names []string
	for r := tar.NewReader(file); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
	}
	if got := strings.Join(names, " "); !strings.Contains(got, "pom.xml") || !strings.Contains(got, "src/a.txt") {
		t.Errorf("the tar has %s", got)
	}
	if left, err := filepath.Glob(filepath.Join(w.voter.keeper.config.Folder, commitScratch+"*")); len(left) > 0 || err != nil {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestCommitPoisoned: a digest that is not the tree's is final, whoever made it up.
func TestCommitPoisoned(t *testing.T) {
	w, recipe, engine, _, _ := commitWorld(t)
	right := recipe.Sources[0].SHA256
	recipe.Sources[0].SHA256[0]++
	_, err := w.asker.keeper.Resolve(t.Context(), recipe, engine, build.Job{Log: io.Discard}, nil)
	wantPoisoned(t, err, recipe.Sources[0].Commit+".tar")
	if _, found := w.asker.store.Stat(right); found {
		t.Error("what was refused is in the store")
	}
}

// TestCommitGone: what the repository no longer has, peers may; without them it is not
// known, and no vote is spoilt.
func TestCommitGone(t *testing.T) {
	w, recipe, engine, _, server := commitWorld(t)
	lock := resolve(t, w.asker, recipe, engine)
	server.Close()
	w.voter.peer.from = nil
	if err := w.voter.keeper.Hold(t.Context(), recipe, lock, nil); !errors.Is(err, ErrUnavailable) || errors.Is(err, ErrPoisoned) {
		t.Errorf("%v; want ErrUnavailable", err)
	}
	w.voter.peer.from = w.asker.store
	if err := w.voter.keeper.Hold(t.Context(), recipe, lock, nil); err != nil {
		t.Error(err)
	}
}

func TestCommitWithSubmodule(t *testing.T) {
	w, recipe, engine, repository, _ := commitWorld(t)
	evil := repository.Commit(repository.RawTree(gittest.Entry{Mode: "160000", Name: "lib", Hash: recipe.Sources[0].Commit}))
	repository.Point("refs/tags/v1", evil)
	recipe.Sources[0].Commit = evil
	_, err := w.asker.keeper.Resolve(t.Context(), recipe, engine, build.Job{Log: io.Discard}, nil)
	wantPoisoned(t, err, evil+".tar")
	if !strings.Contains(err.Error(), "submodule") {
		t.Errorf("%v does not say why", err)
	}
}

func TestNewRemovesScratch(t *testing.T) {
	w, _, _, _, _ := commitWorld(t)
	config := w.voter.keeper.config
	left := filepath.Join(config.Folder, commitScratch+"left")
	if err := errors.Join(w.voter.keeper.Close(), os.Mkdir(left, 0o700)); err != nil {
		t.Fatal(err)
	}
	k, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what a crash left is still there: %v", err)
	}
}

func TestCommitsAbsent(t *testing.T) {
	_, recipe, _, _, server := commitWorld(t)
	if _, err := (Commits{}).Pack(t.Context(), recipe.Sources[0].Git, "v2", io.Discard); !errors.Is(err, ErrAbsent) {
		t.Errorf("a tag that is not there: %v", err)
	}
	server.Close()
	if _, err := (Commits{}).Pack(t.Context(), recipe.Sources[0].Git, "v1", io.Discard); !errors.Is(err, ErrAbsent) {
		t.Errorf("a repository that is not there: %v", err)
	}
}
