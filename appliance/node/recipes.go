package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/pyrsia/appliance/hcl/recipe"
	"github.com/pyrsia/appliance/modules/record"
)

// recipeFolder reads the operator's recipes, again only when a file changed. Safe for
// concurrent use.
type recipeFolder struct {
	mu     sync.Mutex // guards what follows
	folder string
	files  map[string]recipeFile // what was read of each file, by path
}

func newRecipeFolder(folder string) *recipeFolder { return &recipeFolder{folder: folder} }

// set makes it another folder from now on.
func (r *recipeFolder) set(folder string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.folder = folder
}

// recipeFile is a file of the recipes folder: a recipe, or what is wrong.
type recipeFile struct {
	Path   string
	Recipe *record.Recipe
	Err    error

	modified time.Time
	size     int64
}

// Files are the files of the folder, sorted by name. A folder that does not
// exist has none.
func (r *recipeFolder) Files() ([]recipeFile, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	entries, err := os.ReadDir(r.folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the recipes: %w", err)
	}
	old := r.files
	r.files = map[string]recipeFile{}
	var files []recipeFile
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil || !isRecipe(entry) {
			continue
		}
		path := filepath.Join(r.folder, entry.Name())
		file, known := old[path]
		if !known || !file.modified.Equal(info.ModTime()) || file.size != info.Size() {
			file = recipeFile{Path: path, modified: info.ModTime(), size: info.Size()}
			file.Recipe, file.Err = recipe.Load(path)
		}
		r.files[path] = file
		files = append(files, file)
	}
	return files, nil
}

// Recipes are the recipes of the folder; an error says what is wrong with the
// other files.
func (r *recipeFolder) Recipes() ([]*record.Recipe, error) {
	files, err := r.Files()
	var recipes []*record.Recipe
	for _, file := range files {
		if file.Err != nil {
			err = errors.Join(err, file.Err)
			continue
		}
		recipes = append(recipes, file.Recipe)
	}
	return recipes, err
}
