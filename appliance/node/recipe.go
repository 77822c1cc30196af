package node

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/pyrsia/appliance/appliance/control"
	"github.com/pyrsia/appliance/modules/ledger"
	"github.com/pyrsia/appliance/modules/record"
)

// Recipe implements control.Recipes.
func (n *Node) Recipe(ctx context.Context, ref string) (control.RecipeDetail, error) {
	all, err := n.Recipes(ctx)
	if err != nil {
		return control.RecipeDetail{}, err
	}
	found, err := named(all, strings.TrimPrefix(ref, "sha256:"))
	if err != nil {
		return control.RecipeDetail{}, err
	}
	content, err := n.recipeContent(found.Hash)
	return control.RecipeDetail{Recipe: found, Content: content}, err
}

// named is the recipe that a reference names: of a package the live one, or else the
// one that waits.
func named(all []control.Recipe, ref string) (control.Recipe, error) {
	const shortest = 6 // of a hash's beginning
	var best *control.Recipe
	for i, r := range all {
		switch {
		case r.State == "invalid":
		case len(ref) >= shortest && strings.HasPrefix(r.Hash.String(), ref):
			return r, nil
		case string(r.Package) == ref && (best == nil || r.State == "live" || best.State == "superseded"):
			best = &all[i]
		}
	}
	if best == nil {
		return control.Recipe{}, control.WithHint(fmt.Errorf("%w: no recipe %q here", control.ErrNotFound, ref), "`pyrsia recipe list` shows the recipes")
	}
	return *best, nil
}

func (n *Node) recipeContent(hash record.Hash) (*record.Recipe, error) {
	state, err := n.chain.Recipe(hash)
	if err == nil {
		return record.DecodeRecipe(state.Recipe)
	}
	if !errors.Is(err, ledger.ErrNotFound) {
		return nil, err
	}
	if b := n.builder.Load(); b != nil {
		files, err := b.recipes.Files()
		for _, f := range files {
			if f.Err == nil && f.Recipe.Hash() == hash {
				return f.Recipe, nil
			}
		}
		if err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("%w: recipe %s", control.ErrNotFound, hash)
}

// Explain implements control.Recipes.
func (n *Node) Explain(_ context.Context, lock *record.Lock) ([]control.Input, error) {
	b := n.builder.Load()
	if b == nil {
		return plainInputs(lock), nil
	}
	inputs := make([]control.Input, 0, len(lock.Entries))
	for _, u := range b.inputs.Explain(lock) {
		inputs = append(inputs, control.Input{Kind: u.Kind, Path: u.Path, Role: string(u.Role), By: u.By, Proof: u.Proof, File: u.File})
	}
	return inputs, nil
}

// plainInputs are a lock's files where nothing explains them.
func plainInputs(lock *record.Lock) []control.Input {
	inputs := make([]control.Input, 0, len(lock.Entries))
	for _, e := range lock.Entries {
		inputs = append(inputs, control.Input{Kind: e.Kind, Path: e.Path, Proof: e.Proof, File: e.File})
	}
	return inputs
}

// CancelBuild implements control.Builder.
func (n *Node) CancelBuild(ctx context.Context, ref string) error {
	builder := n.builder.Load()
	if builder == nil {
		return control.WithHint(fmt.Errorf("%w: this is a regular node; it builds nothing", control.ErrRefused), "ask on one of the build nodes")
	}
	b, err := n.find(ctx, ref)
	if err != nil {
		return err
	}
	if b.State.Final() {
		return fmt.Errorf("%w: build %s has ended: it is %s", control.ErrRefused, b.ID, b.State)
	}
	asked := builder.member.CancelRequest(b.ID, b.Package)
	a, err := n.attemptOf(b)
	if err != nil {
		return err
	}
	if a == nil {
		if !asked {
			return fmt.Errorf("%w: this node did not ask for build %s, and it is not on the chain", control.ErrRefused, b.ID)
		}
		return nil
	}
	err = builder.member.CancelAttempt(a)
	switch {
	case err != nil && asked:
		return fmt.Errorf("%w: the request is cancelled, and its attempt %d goes on: %w", control.ErrRefused, a.Attempt.Number, err)
	case err != nil:
		return fmt.Errorf("%w: %w", control.ErrRefused, err)
	}
	return nil
}

// Workers implements control.Builder.
func (n *Node) Workers(ctx context.Context) ([]control.Worker, error) {
	builder := n.builder.Load()
	if builder == nil {
		return nil, control.WithHint(fmt.Errorf("%w: this is a regular node; it builds nothing", control.ErrRefused), "ask on one of the build nodes")
	}
	var workers []control.Worker
	for _, w := range builder.engine.Workers(ctx) {
		c := control.Worker{Address: w.Address, State: "ready", Version: w.Version, Running: w.Running, Cache: w.Cache}
		if w.Err != nil {
			c.Reason = w.Err.Error()
		}
		switch {
		case w.Version == "":
			c.State = "unreachable"
		case w.Rests:
			c.State = "resting"
		}
		workers = append(workers, c)
	}
	return workers, nil
}
