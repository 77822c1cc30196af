package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/pyrsia/appliance/appliance/node"
	"github.com/pyrsia/appliance/hcl/config"
	"github.com/pyrsia/appliance/modules/identity"
	"github.com/pyrsia/appliance/modules/record"
	"github.com/spf13/cobra"
)

func idCommand(a *app) *cobra.Command {
	var asRecord bool
	var operator, data string
	var platforms []string
	cmd := &cobra.Command{
		Use:   "id",
		Short: "This node's identity; makes its keys at first use",
		Long: `This node's identity (its libp2p PeerID). The keys are in the folder "keys" below
storage.data; where there are none yet, they are made. The configuration need
not be finished for this.

--record prints the node record that a new network's founder needs of every
build node: the public keys, signed by each of them. It holds nothing secret.`,
		Example: `  pyrsia id
  pyrsia id --record --operator "Acme Corp" > alpha.json
  pyrsia id --data ./alpha`,
		Args: exactly(),
		RunE: func(*cobra.Command, []string) error {
			folder, err := dataFolder(a, data)
			if err != nil {
				return err
			}
			if operator != "" && !asRecord {
				return errors.New("--operator goes into the node record; add --record")
			}
			if err := checkOperator(operator); err != nil {
				return err
			}
			if err := checkPlatforms(platforms); err != nil {
				return err
			}
			keys, err := loadKeys(a, filepath.Join(folder, "keys"))
			if asRecord && err == nil {
				return a.printRecord(keys, operator, platforms)
			}
			var id record.Identity
			switch {
			case err == nil:
				id = keys.Identity()
			case !asRecord && errors.Is(err, identity.ErrSealed):
				id, err = identity.LoadIdentity(filepath.Join(folder, "keys"))
			}
			if err != nil {
				return err
			}
			return a.show(map[string]any{"identity": id}, func(w io.Writer, _ style) { fmt.Fprintln(w, id) })
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&asRecord, "record", false, "print the signed node record that 'pyrsia network init' takes")
	flags.StringVar(&operator, "operator", "", "who runs the node, a `NAME` for the node record")
	flags.StringVar(&data, "data", "", "the node's data `FOLDER` (default: storage.data of the configuration)")
	flags.StringSliceVar(&platforms, "platform", []string{platform()}, "a platform that the node builds for, for the node record")
	return cmd
}

func dataFolder(a *app, flag string) (string, error) {
	if flag == "" {
		data, _ := config.Peek(a.config)
		return data, nil
	}
	folder, err := filepath.Abs(flag)
	if err != nil {
		return "", fmt.Errorf("data folder %s: %w", flag, err)
	}
	return folder, nil
}

func loadKeys(a *app, folder string) (*identity.Keys, error) {
	keys, err := identity.Load(folder)
	if !errors.Is(err, fs.ErrNotExist) {
		return keys, err
	}
	if data, _ := config.Peek(a.config); filepath.Join(data, "keys") == folder {
		if _, err := os.Stat(sealedFile); err == nil {
			return nil, fmt.Errorf("no new keys in %s: %s holds the sealed ones of a node; restore its data folder, or remove that file", folder, sealedFile)
		}
	}
	if keys, err = node.CreateKeys(folder); err != nil {
		if errors.Is(err, fs.ErrPermission) {
			return nil, fmt.Errorf("cannot make keys in %s: permission denied; run this as root, or as the user to whom the folder above belongs, or give --data", folder)
		}
		return nil, err
	}
	fmt.Fprintf(a.err, "made new keys in %s; keep a backup, and never run two nodes with them\n", folder)
	return keys, nil
}

// The limits of what a person may write into a node record.
const maxOperator = 64 // characters

func checkOperator(name string) error {
	if utf8.RuneCountInString(name) > maxOperator || !utf8.ValidString(name) || strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return fmt.Errorf("operator %.80q: want at most %d printable characters", name, maxOperator)
	}
	return nil
}

var platformForm = regexp.MustCompile(`^[a-z0-9]+/[a-z0-9]+(/[a-z0-9]+)?$`)

func checkPlatforms(platforms []string) error {
	for _, p := range platforms {
		if !platformForm.MatchString(p) {
			return fmt.Errorf("platform %q: want system/architecture, such as linux/amd64", p)
		}
	}
	return nil
}

// printRecord prints the canonical JSON itself: founders pass it on unchanged.
func (a *app) printRecord(keys *identity.Keys, operator string, platforms []string) error {
	slices.Sort(platforms)
	node, err := record.SignNode(record.NodeRecord{Operator: operator, Platforms: slices.Compact(platforms), Seq: 1}, keys.Signers())
	if err != nil {
		return fmt.Errorf("node record: %w", err)
	}
	data, err := record.Marshal(node)
	if err != nil {
		return fmt.Errorf("node record: %w", err)
	}
	_, err = a.out.Write(append(data, '\n'))
	return err
}
