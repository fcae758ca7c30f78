package partial_test

import (
	"context"
	"slices"
	"sync"
	"testing"

	"github.com/starling-tsdb/starling/internal/partial"
)

func TestConsent(t *testing.T) {
	ctx := context.Background()
	if partial.Allowed(ctx) {
		t.Error("a plain context allows partial answers")
	}
	partial.Note(ctx, "node a")
	if got := partial.Missing(ctx); got != nil {
		t.Errorf("notes without consent: got %q, want none", got)
	}

	allowed, cancel := context.WithCancel(partial.With(ctx))
	defer cancel()
	if !partial.Allowed(allowed) {
		t.Error("consent does not reach a derived context")
	}
	partial.Note(allowed, "node b")
	partial.Note(allowed, "node a")
	partial.Note(allowed, "node b")
	if got, want := partial.Missing(allowed), []string{"node b", "node a"}; !slices.Equal(got, want) {
		t.Errorf("missing: got %q, want %q", got, want)
	}
	if got := partial.Missing(partial.With(allowed)); got != nil {
		t.Errorf("a second request sees notes of the first: %q", got)
	}
}

func TestConcurrentNotes(t *testing.T) {
	ctx := partial.With(context.Background())
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				partial.Note(ctx, "node a")
				partial.Missing(ctx)
			}
		})
	}
	wg.Wait()
	if got := partial.Missing(ctx); len(got) != 1 {
		t.Errorf("missing: got %q, want one note", got)
	}
}
