package config

import (
	"maps"
	"slices"
	"strconv"
	"strings"
)

// didYouMean suggests the known name that is nearest to a mistyped one, or
// nothing if none is near.
func didYouMean(name string, known []string) string {
	best, distance := "", 1+max(1, len(name)/3)
	for _, candidate := range known {
		d := editDistance(strings.ToLower(name), candidate)
		if len(name) > 3 && (strings.HasPrefix(candidate, name+"_") || strings.HasPrefix(name, candidate+"_")) {
			d = 1
		}
		if d < distance {
			best, distance = candidate, d
		}
	}
	if best == "" {
		return ""
	}
	return "did you mean " + strconv.Quote(best) + "?"
}

// editDistance is the number of insertions, deletions, replacements and swaps
// of neighbours between two texts (optimal string alignment).
func editDistance(a, b string) int {
	var before, previous []int
	current := make([]int, len(b)+1)
	for j := range current {
		current[j] = j
	}
	for i := 1; i <= len(a); i++ {
		before, previous, current = previous, current, make([]int, len(b)+1)
		current[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			current[j] = min(previous[j]+1, current[j-1]+1, previous[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				current[j] = min(current[j], before[j-2]+1)
			}
		}
	}
	return current[len(b)]
}

func keys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
