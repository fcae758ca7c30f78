// Package history is what `starling import` does: it reads the samples that another database has
// kept, window of time after window, and sends them to a node as any sender would, by Remote Write
// 2.0. So whatever is acknowledged is placed, copied and synced like every other sample, a sample
// that is sent again is a success, and the limits of the nodes hold.
//
// All series of a window are sent before the next one begins, the oldest window first, so that
// an empty store takes all of it in order. How far it is, a file remembers.
package history

import (
	"context"
	"io"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
)

// Source is where the samples are.
type Source interface {
	// Name says what it is, the same each time that it is opened.
	Name() string
	// Span returns the times of its oldest and of its newest sample in milliseconds; false if it
	// does not know them.
	Span() (mint, maxt int64, known bool)
	// Select returns the matching series of a range of time, both ends inclusive, in
	// milliseconds. Samples outside of it may be among them. The caller closes the set.
	Select(ctx context.Context, mint, maxt int64, matchers []*labels.Matcher) (Set, error)
}

// Set is series that are read one after the other.
type Set interface {
	storage.SeriesSet
	io.Closer
}

// Everything matches all series.
func Everything() []*labels.Matcher {
	return []*labels.Matcher{labels.MustNewMatcher(labels.MatchNotEqual, labels.MetricName, "")}
}
