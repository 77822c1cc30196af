package main

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/pyrsia/appliance/appliance/node"
	"github.com/pyrsia/appliance/hcl/config"
	"github.com/spf13/cobra"
)

func nodeCommand(a *app) *cobra.Command {
	return group("node", "This node's keys", "  pyrsia node rekey", nodeRekeyCommand(a), nodeSealCommand(a), nodeUnsealCommand(a))
}

func nodeRekeyCommand(a *app) *cobra.Command {
	var data string
	var force bool
	cmd := &cobra.Command{
		Use:   "rekey",
		Short: "New keys for a node that lost its vote state, or doubts it",
		Long: `Replace the vote, cosigner and log keys of a build node, together with its vote
file; its identity stays. This is what to do when the vote file was lost, is
damaged, or was set back by a backup or a snapshot: the node could contradict what
it signed, and keys without a past cannot.

The node must not run. When it is started again, the other members put the new
keys on the chain, which needs an order quorum of them; then it votes again. It
takes no part in attempts that are older than its keys. The second change of keys
waits for an hour after the first, and each later one twice as long.

Where no order quorum is left without this node, no block could be made any more,
not even the one that names the new keys: the network would stop for good. This is
refused, as are new keys while earlier ones wait to be put on the chain, and new
keys of a node without a log by which to tell. --force does it all the same.`,
		Example: `  systemctl stop pyrsia && pyrsia node rekey && systemctl start pyrsia`,
		Args:    exactly(),
		RunE: func(*cobra.Command, []string) error {
			if a.socket != "" {
				return errors.New("new keys are made in a folder, of a node that does not run; give --config or --data instead of --socket")
			}
			if c, diagnostics := config.Load(a.config); data == "" && diagnostics.Err() == nil && c.Role == config.RoleRegular {
				return fmt.Errorf("%s is of a regular node, whose keys vote for nothing; nothing was changed", a.config)
			}
			above, err := dataFolder(a, data)
			if err != nil {
				return err
			}
			folder := filepath.Join(above, "keys")
			has, err := node.HasKeys(folder)
			if err != nil {
				return err
			}
			if !has {
				return fmt.Errorf("there are no keys in %s; give the node's data folder by --config or --data", folder)
			}
			keys, err := node.Rekey(folder, func() error {
				if force {
					return nil
				}
				if err := node.RekeyHarm(above); err != nil {
					return fmt.Errorf("%w; nothing was changed, and --force makes new keys all the same", err)
				}
				return nil
			})
			if err != nil {
				return err
			}
			signers := keys.Signers()
			answer := map[string]any{"identity": keys.Identity(), "voteKey": signers.Vote.Public(), "cosignerKey": signers.Cosigner.Public(), "logKey": signers.Log.Public()}
			return a.show(answer, func(w io.Writer, _ style) {
				fmt.Fprintf(w, "%s has new keys in %s; start it, and the other members put them on the chain\n", keys.Identity(), folder)
			})
		},
	}
	cmd.Flags().StringVar(&data, "data", "", "the node's data `FOLDER` (default: storage.data of the configuration)")
	cmd.Flags().BoolVar(&force, "force", false, "make new keys also where the network may stop by it")
	return cmd
}
