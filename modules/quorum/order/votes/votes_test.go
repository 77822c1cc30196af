package votes_test

import (
	"testing"

	"github.com/pyrsia/appliance/modules/quorum/order/votes"
	"github.com/pyrsia/appliance/modules/quorum/order/votes/votestest"
)

func TestMemory(t *testing.T) {
	votestest.Conformance(t,
		func(*testing.T) votes.File { return new(votes.Memory) },
		func(_ *testing.T, f votes.File) votes.File { return f.(*votes.Memory).Clone() },
	)
}
