package buildkit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pyrsia/appliance/modules/build"
)

// TestClaims: the least busy worker comes first, one that failed of late last, and for
// longer each time; a build that ends well makes up for all.
func TestClaims(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, err := New(Config{Limits: Limits{Addresses: []string{"a://", "b://"}}})
		if err != nil {
			t.Fatal(err)
		}
		both := []string{"a://", "b://"}
		claim := func(want string) {
			t.Helper()
			if got, left := e.claim(both); got != want || slices.Contains(left, want) || len(left) != 1 {
				t.Errorf("claimed %s, want %s; left %v", got, want, left)
			}
		}
		claim("a://")
		claim("b://")
		claim("a://")
		e.unclaim("a://", nil)
		e.unclaim("a://", nil)
		e.unclaim("b://", errors.New("broken"))
		claim("a://")
		claim("a://") // busy, and still better than the broken one
		time.Sleep(firstRest)
		claim("b://")
		e.unclaim("b://", errors.New("broken"))
		time.Sleep(firstRest)
		claim("a://") // the second failure takes longer
		time.Sleep(firstRest)
		claim("b://")
		e.unclaim("b://", nil)
		claim("b://")
		if !(&standing{failures: 99, since: time.Now()}).rests(time.Now().Add(longestRest-1)) || (&standing{failures: 99, since: time.Now()}).rests(time.Now().Add(longestRest)) {
			t.Error("the longest rest is not kept")
		}
	})
}

func TestFault(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	broken := fmt.Errorf("%w: broken", errWorker)
	if fault(t.Context(), broken) == nil || fault(t.Context(), fmt.Errorf("BuildKit: %w", status.Error(codes.Unavailable, "gone"))) == nil || fault(t.Context(), errors.New("of the recipe, perhaps")) != nil || fault(t.Context(), nil) != nil || fault(ended, broken) != nil || fault(t.Context(), fmt.Errorf("%w: x", build.ErrFailed)) != nil {
		t.Error("whose fault it is, is not told")
	}
}

func TestPruneNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, err := New(Config{Limits: Limits{Addresses: []string{"a://"}}})
		if err != nil {
			t.Fatal(err)
		}
		if !e.pruneNow("a://") || e.pruneNow("a://") || !e.pruneNow("b://") {
			t.Error("each worker once")
		}
		time.Sleep(pruneEvery)
		if !e.pruneNow("a://") {
			t.Error("and again later")
		}
	})
}
