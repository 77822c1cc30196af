package node

import (
	"github.com/pyrsia/appliance/modules/artifact"
	"github.com/pyrsia/appliance/modules/publish"
	"github.com/pyrsia/appliance/modules/record"
)

// references are the outputs of this node in an attempt, compared with upstream's.
func (n *Node) references(attempt record.Hash) map[artifact.Name]string {
	byName := map[artifact.Name]string{}
	b := n.builder.Load()
	if b == nil {
		return byName
	}
	references, err := b.member.References(attempt)
	if err != nil {
		n.log.Warn("cannot read what was compared with upstream", "attempt", attempt, "error", err)
	}
	for _, r := range references {
		byName[r.Name] = string(r.Verdict)
	}
	return byName
}

// summed is one word for all outputs: the worst that was seen.
func summed(references map[artifact.Name]string) string {
	all := map[string]bool{}
	for _, r := range references {
		all[r] = true
	}
	for _, verdict := range []publish.Verdict{publish.ReferenceDifferent, publish.ReferenceEqual, publish.ReferenceAbsent} {
		if all[string(verdict)] {
			return string(verdict)
		}
	}
	return ""
}
