package node

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/pyrsia/appliance/appliance/supervisor"
	"github.com/pyrsia/appliance/hcl/config"
)

// role is the service that runs the modules of a build node while the node is one.
type role struct {
	node  *Node
	turns chan roleTurn

	end   sync.Once
	ended chan struct{} // closed when no turn is taken any more
}

// close says that no turn is taken any more.
func (r *role) close() { r.end.Do(func() { close(r.ended) }) }

// roleTurn asks for the modules of another role.
type roleTurn struct {
	to   *builder // nil for a regular node
	done chan error
}

// makeRole makes the build modules of a node that begins as a build node.
func (n *Node) makeRole() error {
	n.role = &role{node: n, turns: make(chan roleTurn), ended: make(chan struct{})}
	n.closers = append(n.closers, func() error {
		if b := n.builder.Swap(nil); b != nil {
			return b.close()
		}
		return nil
	})
	if n.conf().Role != config.RoleBuild {
		return nil
	}
	b, err := n.newBuilder(n.conf())
	if err == nil {
		n.builder.Store(b)
	}
	return err
}

// Serve implements supervisor.Service.
func (r *role) Serve(ctx context.Context) error {
	defer r.close()
	for ctx.Err() == nil {
		if err := r.run(ctx, r.node.builder.Load()); err != nil {
			return supervisor.Fatal(err)
		}
	}
	return nil
}

// run runs one role's modules until the context ends, they fail for good, or another
// role's turn has come.
func (r *role) run(ctx context.Context, b *builder) error {
	running, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- b.serve(running) }()
	select {
	case err := <-ended: // also when ctx ends
		return err
	case t := <-r.turns:
		stop()
		err := <-ended
		if err == nil {
			err = r.take(b, t.to)
		}
		t.done <- err
		return err
	}
}

// take puts one role's modules in the place of another's, which have stopped.
func (r *role) take(from, to *builder) error {
	r.node.builder.Store(to)
	if from == nil {
		return nil
	}
	return from.close()
}

// serve runs the modules until the context ends; of a regular node there are none.
func (b *builder) serve(ctx context.Context) error {
	if b == nil {
		<-ctx.Done()
		return nil
	}
	// Whatever line there is was not taken by these modules.
	b.node.host.RenewLines()
	return b.tree.Serve(ctx)
}

// errStopping says that the node stops before a role could be taken.
var errStopping = errors.New("the node is stopping")

// become stops the modules of the present role and starts those of another. An error
// is one after which the process must end: modules did not stop, or not cleanly.
func (n *Node) become(ctx context.Context, to *builder) error {
	t := roleTurn{to: to, done: make(chan error, 1)}
	select {
	case n.role.turns <- t:
		if err := <-t.done; err != nil {
			return fmt.Errorf("change the role: %w", err)
		}
		return nil
	case <-n.role.ended:
		return errStopping
	case <-ctx.Done():
		return errStopping
	}
}
