package publish

import (
	"context"
	"fmt"
	"os"

	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/build"
	"github.com/pyrsia/appliance/modules/record"
)

// Tried is one output of a recipe that was tried.
type Tried struct {
	Reference
	File artifact.Descriptor
}

// TryRecipe builds a recipe on this node alone, as an attempt would be built: its
// inputs are found, then it runs with nothing but them. The outputs are in the store;
// nothing is voted on, endorsed or published. The recipe need not be on the chain, its
// builder image must be. log is for people; id names the folders of the work, and what
// the commands left where they failed (Remains).
func (m *Member) TryRecipe(ctx context.Context, recipe *record.Recipe, id string, log *os.File) ([]Tried, error) {
	lock, err := m.ResolveLock(ctx, recipe, id, log)
	if err != nil {
		return nil, err
	}
	folder, err := m.emptyFolder(id + ".try")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(folder)
	job := build.Job{ID: "try-" + id, Recipe: recipe, Lock: lock, Open: m.store.Open, Folder: folder, Log: log, Remains: m.remainsPath(id)}
	if len(lock.Builder) > 0 {
		job.Builder = lock.Builder[0].SHA256
	}
	fmt.Fprintf(log, "building %s with %d locked files and no network\n", recipe.Package, len(lock.Entries))
	files, err := m.engine.Build(ctx, job)
	m.trimRemains()
	if err != nil {
		return nil, m.dropCorrupt(err)
	}
	named := map[artifact.Name]string{}
	for _, o := range recipe.Outputs {
		named[artifact.Name{Package: o.Package, File: o.File}] = o.Reference
	}
	tried := make([]Tried, 0, len(files))
	for _, file := range files {
		t, err := m.try(ctx, file, named[file.Name])
		if err != nil {
			return nil, err
		}
		tried = append(tried, t)
	}
	return tried, nil
}

// try keeps an output and compares it with what upstream released, where it can.
func (m *Member) try(ctx context.Context, file build.File, reference string) (Tried, error) {
	content, err := os.Open(file.Path)
	if err != nil {
		return Tried{}, err
	}
	defer content.Close()
	// It is nobody's but who asked. Other owners of the same bytes keep them.
	d, err := m.store.Lend(ctx, content)
	if err != nil {
		return Tried{}, err
	}
	t := Tried{File: d, Reference: Reference{Name: file.Name, Built: d.SHA256}}
	if file.Name.Package.Type() != "maven" {
		return t, nil
	}
	if compared, err := m.reference(ctx, record.NewSubject(file.Name, file.MediaType, d), reference); err == nil {
		t.Reference = compared
	}
	return t, nil
}
