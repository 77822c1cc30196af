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

// recipeCache is what was read of each file, by path.
type recipeCache struct {
	mu    sync.Mutex
	files map[string]recipeFile
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
	entries, err := os.ReadDir(r.folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the recipes: %w", err)
	}
	r.cache.mu.Lock()
	defer r.cache.mu.Unlock()
	old := r.cache.files
	r.cache.files = map[string]recipeFile{}
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
		r.cache.files[path] = file
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
