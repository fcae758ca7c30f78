// Package partial carries a caller's consent to an incomplete answer through the
// context of a read, and back what the answer then lacks.
//
// Without consent a read that cannot prove that it saw every acknowledged write fails.
// With consent it answers from what it reached, and has to say what is missing.
package partial

import (
	"context"
	"slices"
	"sync"
)

type contextKey struct{}

// answer collects what the answer of one request lacks.
type answer struct {
	mu      sync.Mutex
	missing []string
}

// With returns a context in which an incomplete answer is allowed. Notes made in it are
// its own: they do not reach a context that allowed partial answers before.
func With(ctx context.Context) context.Context {
	return context.WithValue(ctx, contextKey{}, &answer{})
}

// Allowed tells whether the caller accepts an incomplete answer.
func Allowed(ctx context.Context) bool {
	_, ok := ctx.Value(contextKey{}).(*answer)
	return ok
}

// Note records something that the answer lacks, once however often it is repeated. It
// is for answers that have no room for warnings: exemplars, remote read, federation.
// Where partial answers are not allowed it does nothing, as the read fails then. It is
// safe for concurrent use.
func Note(ctx context.Context, missing string) {
	a, ok := ctx.Value(contextKey{}).(*answer)
	if !ok {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if !slices.Contains(a.missing, missing) {
		a.missing = append(a.missing, missing)
	}
}

// Missing returns a copy of what was noted so far, in the order of the notes.
func Missing(ctx context.Context) []string {
	a, ok := ctx.Value(contextKey{}).(*answer)
	if !ok {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.missing)
}
