package node

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/pyrsia/appliance/appliance/control"
	"github.com/pyrsia/appliance/hcl/config"
	"github.com/pyrsia/appliance/modules/chain"
	chainbolt "github.com/pyrsia/appliance/modules/chain/bolt"
	"github.com/pyrsia/appliance/modules/identity"
	votesbolt "github.com/pyrsia/appliance/modules/quorum/bolt"
	"github.com/pyrsia/appliance/modules/quorum/order/votes"
)

// Check implements control.Inspector. The vote file of a running node was
// checked whole when it was opened.
func (n *Node) Check(ctx context.Context, progress func(control.Progress) error) (control.CheckReport, error) {
	report, err := checkChain(ctx, n.chain, progress)
	b := n.builder.Load()
	if err != nil || b == nil {
		return report, err
	}
	report.Voted, err = lastVote(b.votes)
	return report, err
}

// CheckFiles verifies the files of a node that does not run: the log by every
// signature and rule, the keys, and the vote file.
func CheckFiles(ctx context.Context, cfg *config.Config, progress func(control.Progress) error) (report control.CheckReport, err error) {
	genesis, _, diagnostics := cfg.Genesis()
	if err := diagnostics.Err(); err != nil {
		return report, err
	}
	path := filepath.Join(cfg.Storage.Data, "chain.db")
	if _, err := os.Stat(path); err != nil {
		return report, fmt.Errorf("there is no log to check: %w; is storage.data right, and did the node ever run?", err)
	}
	backend, err := chainbolt.Open(path)
	if err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, backend.Close()) }()
	c, err := chain.New(backend, genesis)
	if err != nil {
		return report, err
	}
	if report, err = checkChain(ctx, c, progress); err != nil {
		return report, err
	}
	report.Voted, err = checkVotes(filepath.Join(cfg.Storage.Data, "keys"))
	return report, err
}

// checkVotes verifies the key folder. One without a vote file that also has no
// keys is that of a node that was never started.
func checkVotes(folder string) (voted string, err error) {
	keys, err := identity.Load(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	sealed := errors.Is(err, identity.ErrSealed)
	if err != nil && !sealed {
		return "", err
	}
	file, err := votesbolt.Open(folder)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if sealed {
		return lastVote(file) // whose it is, the node itself checks at its start
	}
	if err := file.Bind(keys.Signers().Vote.Public()); err != nil {
		return "", err
	}
	return lastVote(file)
}

func lastVote(file votes.File) (string, error) {
	highest, err := file.Highest()
	if err != nil || highest == (votes.Position{}) {
		return "", err
	}
	if highest.Kind == votes.Cosign {
		return fmt.Sprintf("cosign of height %d", highest.Height), nil
	}
	return fmt.Sprintf("%s of height %d, round %d", highest.Kind, highest.Height, highest.Round), nil
}

// progressEvery is how many blocks are checked between two words about it.
const progressEvery = 100

func checkChain(ctx context.Context, c *chain.Chain, progress func(control.Progress) error) (control.CheckReport, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	err := c.Check(ctx, func(done, all int64) {
		if done%progressEvery != 0 {
			return
		}
		if err := progress(control.Progress{Done: done, All: all}); err != nil {
			cancel(err)
		}
	})
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	frontier := c.Frontier()
	root := frontier.Root()
	return control.CheckReport{
		Network: c.Network().Name, Genesis: c.Network().Genesis, Height: c.Height(), Size: frontier.Size,
		Root: base64.StdEncoding.EncodeToString(root[:]), Members: c.Set().Size(),
	}, err
}
