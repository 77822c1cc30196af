package main

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pyrsia/appliance/appliance/control"
	"github.com/pyrsia/appliance/hcl/recipe"
	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/record"
)

func recipeTestCommand(a *app) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "test FILE",
		Short: "Build a recipe on this node alone, and compare with what was released",
		Long: `Build a recipe on the running node alone, as it would be built for a vote: its inputs
are found first, then it runs with nothing but them and without a network. Nothing is
endorsed, voted on or published. Its builder image must be on the chain; a source may be
a folder of this machine. Each output is compared with the file that upstream released,
where there is one; if one differs the exit code is 3.`,
		Example: "  pyrsia recipe test plexus-archiver.hcl\n  pyrsia recipe test plexus-archiver.hcl -o built/",
		Args:    exactly("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			client := a.client()
			defer client.Close()
			var tried []control.Tried
			err := a.atWork(cmd.Context(), client, args[0], "building", func(r *record.Recipe, tell func(string) error) (err error) {
				if tried, err = client.TryRecipe(cmd.Context(), r, tell); err != nil && !errors.Is(err, control.ErrRefused) {
					err = fmt.Errorf("%s does not build: %w", args[0], err)
				}
				return err
			})
			if err != nil {
				return err
			}
			if output != "" {
				if err := fetchTried(cmd.Context(), client, tried, output); err != nil {
					return err
				}
			}
			if err := a.show(tried, func(w io.Writer, s style) { writeTried(w, s, tried) }); err != nil {
				return err
			}
			return judgeTried(tried)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "copy the outputs into this `FOLDER`")
	return cmd
}

// atWork has the node work on a recipe file, and shows what it says meanwhile.
func (a *app) atWork(ctx context.Context, client *control.Client, file, what string, work func(r *record.Recipe, tell func(string) error) error) error {
	r, err := a.localRecipe(ctx, client, file)
	if err != nil {
		return err
	}
	reminder := a.remind(what)
	defer reminder.stop()
	return work(r, func(line string) error {
		reminder.print(what, func() { fmt.Fprintln(a.err, strings.Map(printableOrSpace, line)) }) // a build's own words
		return nil
	})
}

func writeTried(w io.Writer, s style, tried []control.Tried) {
	rows := make([][]string, len(tried))
	for i, t := range tried {
		rows[i] = []string{t.Name.File, byteCount(t.File.Size), "sha256:" + t.File.SHA256.String(), s.verdict(t.Reference)}
	}
	table(w, s, []string{"OUTPUT", "SIZE", "DIGEST", "REFERENCE"}, rows)
}

func judgeTried(tried []control.Tried) error {
	unlike := 0
	for _, t := range tried {
		if t.Reference == "different" {
			unlike++
		}
	}
	if unlike > 0 {
		return coded{exitUnformatted, fmt.Errorf("%d of %d files are not as upstream released them", unlike, len(tried))}
	}
	return nil
}

// fetchTried copies outputs into a folder.
func fetchTried(ctx context.Context, client *control.Client, tried []control.Tried, folder string) error {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return fileError(folder, err)
	}
	for _, t := range tried {
		path := filepath.Join(folder, filepath.Base(t.Name.File))
		file, err := os.Create(path)
		if err != nil {
			return fileError(path, err)
		}
		err = client.File(ctx, t.File.SHA256, file)
		if err = errors.Join(err, file.Close()); err != nil {
			return fmt.Errorf("%s is not complete: %w", path, err)
		}
	}
	return nil
}

// localRecipe reads a recipe under development, and brings the folders that it names to
// the node.
func (a *app) localRecipe(ctx context.Context, client *control.Client, file string) (*record.Recipe, error) {
	r, folders, err := recipe.LoadLocal(file)
	if err != nil {
		return nil, a.tellRecipe(file, err)
	}
	for i, s := range r.Sources {
		folder, local := folders.Of(s)
		if !local {
			continue
		}
		d, err := sendFolder(ctx, client, folder)
		if err != nil {
			return nil, fmt.Errorf("source folder %s: %w", folder, err)
		}
		r.Sources[i].SHA256 = d.SHA256
	}
	return r, nil
}

// sendFolder packs a folder into the node's store. What is wrong with the folder comes
// before what the node says of the request that broke off.
func sendFolder(ctx context.Context, client *control.Client, folder string) (artifact.Descriptor, error) {
	reader, writer := io.Pipe()
	packed := make(chan error, 1)
	go func() {
		err := packFolder(folder, writer)
		writer.CloseWithError(err) //nolint:errcheck // it returns nil
		packed <- err
	}()
	d, err := client.PutFile(ctx, reader)
	reader.Close() //nolint:errcheck // ends the packing where the node took no more
	if failed := <-packed; failed != nil && !errors.Is(failed, io.ErrClosedPipe) {
		return d, failed
	}
	return d, err
}

// packFolder writes a folder as a tar: the same bytes for the same files, whoever owns
// them and whenever they were changed. Git's own folder stays out.
func packFolder(folder string, w io.Writer) error {
	archive := tar.NewWriter(w)
	packed := 0
	err := filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == folder {
			return err
		}
		name, err := filepath.Rel(folder, path)
		if err != nil {
			return err
		}
		if entry.IsDir() && entry.Name() == ".git" {
			return fs.SkipDir
		}
		packed++
		return packOne(archive, path, filepath.ToSlash(name), entry)
	})
	if err == nil && packed == 0 {
		err = errors.New("it has no files")
	}
	if err != nil {
		return err
	}
	return archive.Close()
}

func packOne(archive *tar.Writer, path, name string, entry fs.DirEntry) error {
	info, err := entry.Info()
	if err != nil {
		return err
	}
	h := &tar.Header{Name: name, Mode: 0o644, ModTime: time.Unix(0, 0), Format: tar.FormatPAX}
	switch {
	case entry.IsDir():
		h.Typeflag, h.Name, h.Mode = tar.TypeDir, name+"/", 0o755
		return archive.WriteHeader(h)
	case info.Mode()&fs.ModeSymlink != 0:
		h.Typeflag = tar.TypeSymlink
		if h.Linkname, err = os.Readlink(path); err != nil {
			return err
		}
		return archive.WriteHeader(h)
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is neither file, folder nor link", path)
	}
	if info.Mode()&0o111 != 0 {
		h.Mode = 0o755
	}
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close() //nolint:errcheck // only read
	h.Typeflag, h.Size = tar.TypeReg, info.Size()
	if err := archive.WriteHeader(h); err != nil {
		return err
	}
	if _, err := io.Copy(archive, io.LimitReader(file, h.Size)); err != nil {
		return fmt.Errorf("%s changes while it is packed: %w", path, err)
	}
	return nil
}
