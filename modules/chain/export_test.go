package chain

import (
	"sync"

	"github.com/pyrsia/appliance/modules/ledger"
)

// Overlays is a Backend whose every update is an overlay on the one before: so
// blocks are tried.
type Overlays struct {
	Backend
	mu  sync.RWMutex
	top *overlay
}

func NewOverlays(below Backend) *Overlays {
	return &Overlays{Backend: below, top: newOverlay(nothing{})}
}

func (o *Overlays) View(read func(ledger.Reader) error) error {
	o.mu.RLock()
	defer o.mu.RUnlock()
	return o.Backend.View(func(r ledger.Reader) error { return read(o.over(r)) })
}

func (o *Overlays) Update(write func(ledger.Tx) error) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.Backend.View(func(r ledger.Reader) error {
		top := o.over(r)
		trial := newOverlay(top)
		if err := write(trial); err != nil {
			return err
		}
		trial.commit(top)
		return nil
	})
}

// over puts the changes so far over a transaction.
func (o *Overlays) over(r ledger.Reader) *overlay {
	return &overlay{below: r, changes: o.top.changes}
}
