package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/pyrsia/appliance/hcl/config"
	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/record"
	"github.com/pyrsia/appliance/modules/store"
	"github.com/spf13/cobra"
)

func verifyCommand(a *app) *cobra.Command {
	var proof, genesis, maxAge string
	cmd := &cobra.Command{
		Use:   "verify FILE",
		Short: "Check offline that a file is what a majority built",
		Long: `Check offline that a file is what a majority of the network's members built, and
that its publication is in the network's log. It needs the file, its proof and
the network's genesis hash, and neither a node nor a network.`,
		Example: `  pyrsia verify plexus-archiver-4.10.2.jar --genesis sha256:0f3c…
  pyrsia verify app.jar --proof app.proof --max-age 7d`,
		Args: exactly("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			pin, err := a.pin(genesis)
			if err != nil {
				return err
			}
			limit, err := parseAge(maxAge)
			if err != nil {
				return err
			}
			if proof == "" {
				proof = args[0] + ".proof"
			}
			bundle, err := readSmall(proof, record.MaxBundle)
			if err != nil {
				return fmt.Errorf("%w; make the proof by `pyrsia log prove`, or give --proof", err)
			}
			file, err := describe(args[0])
			if err != nil {
				return err
			}
			verdict, err := record.VerifyBundle(bundle, pin, file)
			if err != nil {
				return fmt.Errorf("%s is NOT proven by %s: %w", args[0], proof, err)
			}
			return a.verified(args[0], file, verdict, limit, time.Now())
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&proof, "proof", "", "the proof `FILE` (default: the file's name with .proof)")
	flags.StringVar(&genesis, "genesis", "", "the network's genesis hash, sha256:`HEX` (default: network.genesis of the configuration)")
	flags.StringVar(&maxAge, "max-age", "", "how old the proof's checkpoint may be, such as 7d (default: any)")
	return cmd
}

func (a *app) pin(genesis string) (record.Hash, error) {
	if genesis != "" {
		pin, err := record.ParseHash(genesis)
		if err != nil || !strings.HasPrefix(genesis, "sha256:") {
			return pin, fmt.Errorf("--genesis %q: want \"sha256:\" and 64 lower-case hexadecimal digits", genesis)
		}
		return pin, nil
	}
	c, err := a.load()
	if err != nil {
		return record.Hash{}, fmt.Errorf("which network is unknown, give --genesis sha256:…, or a good configuration: %w", err)
	}
	return c.Network.Genesis, nil
}

func parseAge(text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	limit, err := config.ParseDuration(text)
	if err != nil {
		return 0, fmt.Errorf("--max-age: %w", err)
	}
	return limit, nil
}

// describe hashes a file both ways.
func describe(path string) (artifact.Descriptor, error) {
	file, err := os.Open(path)
	if err != nil {
		return artifact.Descriptor{}, fileError(path, err)
	}
	defer file.Close() //nolint:errcheck // only read
	hasher := store.NewHasher()
	if _, err := io.Copy(hasher, file); err != nil {
		return artifact.Descriptor{}, fileError(path, err)
	}
	descriptor, _ := hasher.Finish()
	return descriptor, nil
}

// proven is what `verify --json` prints.
type proven struct {
	File      string              `json:"file"`
	Name      artifact.Name       `json:"name"`
	Digest    artifact.Descriptor `json:"digest"`
	Network   string              `json:"network"`
	Height    int64               `json:"height"`
	Published time.Time           `json:"published"`
	Signers   []record.Identity   `json:"signers"`
	Members   int                 `json:"members"`
	AsOf      time.Time           `json:"asOf"`
	Size      int64               `json:"logSize"`
}

func (a *app) verified(path string, file artifact.Descriptor, v *record.Verdict, limit time.Duration, now time.Time) error {
	p := proven{
		File: path, Name: v.Subject.FileName(), Digest: file, Network: v.Network, Height: v.Height,
		Published: time.UnixMilli(v.Time).UTC(), Signers: v.Signers, Members: v.Members, AsOf: time.Unix(v.AsOf, 0).UTC(), Size: v.Size,
	}
	if age := now.Sub(p.AsOf); limit > 0 && age > limit {
		return fmt.Errorf("%s was published, but the proof is of %s, older than %s; make a new one by `pyrsia log prove`",
			path, p.AsOf.Format(time.DateTime), config.FormatDuration(limit))
	}
	if len(p.Signers) == 0 {
		return errors.New("the proof has no signers") // record.VerifyBundle never says so
	}
	return a.show(p, func(w io.Writer, s style) {
		fmt.Fprintf(w, "%s %s is published by %d of %d members of %s in block %d (%s)\n", s.green("verified:"), path,
			len(p.Signers), p.Members, p.Network, p.Height, p.Published.Format(time.DateTime)+" UTC")
		fields(w, s, "  name", p.Name.String(), "  sha256", file.SHA256.String(), "  blake3", file.BLAKE3.String(),
			"  as of", p.AsOf.Format(time.DateTime)+" UTC", "  signed by", strings.Join(shorts(p.Signers), " "))
	})
}

func shorts(ids []record.Identity) []string {
	all := make([]string, len(ids))
	for i, id := range ids {
		all[i] = who("", id)
	}
	return all
}
