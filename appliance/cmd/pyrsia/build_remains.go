package main

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pyrsia/appliance/appliance/control"
)

// remainsEntry is what `build remains --json` prints of each file.
type remainsEntry struct {
	Path string `json:"path"`
	Size int64  `json:"size"`
	Link string `json:"link,omitempty"` // where a symbolic link leads
}

func buildRemainsCommand(a *app) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "remains ID|PURL",
		Short: "What the commands of a failed build left",
		Long: `What the commands of this node's own build left when they failed: the folders that the
outputs would have been in, with reports of tests and whatever else is there. Printed
as a list, or written as a gzipped tar. It is kept as long as logs are, of the last
failed builds; of a recipe that fails in ` + "`pyrsia recipe test`" + `, which says the id, too. It
came out of a build: look at it, and run nothing of it.`,
		Example: "  pyrsia build remains " + plexus + "\n  pyrsia build remains 7f3a9c21 -o remains.tar.gz\n  pyrsia build remains try-2519847263",
		Args:    exactly("ID|PURL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			client := a.client()
			defer client.Close()
			if output != "" {
				return saveRemains(cmd.Context(), client, args[0], output)
			}
			var entries []remainsEntry
			err := piped(
				func(w io.Writer) error { return client.Remains(cmd.Context(), args[0], w) },
				func(r io.Reader) (err error) { entries, err = listRemains(r); return err },
			)
			if err != nil {
				return err
			}
			return a.show(entries, func(w io.Writer, s style) {
				var rows [][]string
				for _, e := range entries {
					name := strings.Map(printableOrSpace, e.Path)
					if e.Link != "" {
						name += " -> " + strings.Map(printableOrSpace, e.Link)
					}
					rows = append(rows, []string{byteCount(e.Size), name})
				}
				table(w, s, []string{"SIZE", "FILE"}, rows)
			})
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "write the gzipped tar to this `FILE`")
	return cmd
}

// listRemains reads the names in the tar; folders are none.
func listRemains(r io.Reader) ([]remainsEntry, error) {
	entries := []remainsEntry{}
	plain, err := gzip.NewReader(r)
	if errors.Is(err, io.EOF) {
		return entries, nil // nothing came: who sends it says why
	}
	if err != nil {
		return nil, fmt.Errorf("what the build left cannot be read: %w", err)
	}
	for packed := tar.NewReader(plain); ; {
		h, err := packed.Next()
		if errors.Is(err, io.EOF) {
			_, err := io.Copy(io.Discard, r)
			return entries, err
		}
		if err != nil {
			return nil, fmt.Errorf("what the build left cannot be read: %w", err)
		}
		if h.Typeflag != tar.TypeDir {
			entries = append(entries, remainsEntry{Path: h.Name, Size: h.Size, Link: h.Linkname})
		}
	}
}

// saveRemains writes the tar beside the file first, so that what breaks off replaces
// nothing.
func saveRemains(ctx context.Context, client control.Node, ref, output string) error {
	temporary, err := os.CreateTemp(filepath.Dir(output), ".remains-*")
	if err != nil {
		return fileError(output, err)
	}
	defer os.Remove(temporary.Name())
	err = client.Remains(ctx, ref, temporary)
	if err := errors.Join(err, temporary.Close()); err != nil {
		return err
	}
	return os.Rename(temporary.Name(), output)
}
