package recipe

import (
	"fmt"

	"github.com/agext/levenshtein"
)

// didYouMean is a sentence with the known word nearest to a given one, "" where
// none is near.
func didYouMean(given string, known []string) string {
	best, distance := "", 3
	for _, word := range known {
		if n := levenshtein.Distance(given, word, nil); word != "" && n < distance {
			best, distance = word, n
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(" Did you mean %q?", best)
}
