package storage

import (
	"context"
	"errors"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/prometheus/model/labels"
)

// everything matches all series.
func everything() *labels.Matcher {
	return labels.MustNewMatcher(labels.MatchRegexp, "__name__", ".+")
}

func TestCloseWaitsForQueriers(t *testing.T) {
	ctx := context.Background()
	synctest.Test(t, func(t *testing.T) {
		s := mustOpen(t, testOptions(t.TempDir()), hooks{})
		mustAppend(t, s, batch(floats(name("a"), float64(at(0)), 1)))
		samples, err := s.Querier(math.MinInt64, math.MaxInt64)
		if err != nil {
			t.Fatal(err)
		}
		chunks, err := s.ChunkQuerier(math.MinInt64, math.MaxInt64)
		if err != nil {
			t.Fatal(err)
		}
		exemplars, err := s.ExemplarQuerier(ctx)
		if err != nil {
			t.Fatal(err)
		}
		closed := make(chan error, 1)
		go func() { closed <- s.Close() }()
		synctest.Wait()

		if _, err := s.Querier(0, 1); !errors.Is(err, ErrClosed) {
			t.Errorf("Querier: %v", err)
		}
		if _, err := s.ChunkQuerier(0, 1); !errors.Is(err, ErrClosed) {
			t.Errorf("ChunkQuerier: %v", err)
		}
		if _, err := s.ExemplarQuerier(ctx); !errors.Is(err, ErrClosed) {
			t.Errorf("ExemplarQuerier: %v", err)
		}
		if _, err := exemplars.Select(0, 1); !errors.Is(err, ErrClosed) {
			t.Errorf("Select of an exemplar querier: %v", err)
		}
		set := samples.Select(ctx, false, nil, everything())
		if !set.Next() {
			t.Errorf("an open querier finds nothing: %v", set.Err())
		}
		if err := samples.Close(); err != nil {
			t.Error(err)
		}
		_ = samples.Close() // a second time counts no more
		synctest.Wait()
		if len(closed) != 0 {
			t.Error("closed with a querier open")
		}
		if err := chunks.Close(); err != nil {
			t.Error(err)
		}
		if err := <-closed; err != nil {
			t.Error(err)
		}
	})
}

// The TSDB itself would wait for readers of blocks without end, and unmap the head's chunks
// beneath the others.
func TestCloseLeavesTheTSDBToLateQueriers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := testOptions(t.TempDir())
		o.WALSync = SyncInterval
		d := newDisk()
		s := mustOpen(t, o, hooks{fsync: d.fsync})
		mustAppend(t, s, batch(floats(name("a"), float64(at(0)), 1)))
		q, err := s.ChunkQuerier(math.MinInt64, math.MaxInt64)
		if err != nil {
			t.Fatal(err)
		}
		before := time.Now()
		err = s.Close()
		if err == nil || !strings.Contains(err.Error(), "queriers still open after 10s: 1") {
			t.Errorf("close: %v", err)
		}
		if waited := time.Since(before); waited != closeTimeout {
			t.Errorf("waited for %s, want %s", waited, closeTimeout)
		}
		set := q.Select(context.Background(), false, nil, everything())
		if !set.Next() {
			t.Errorf("the late querier finds nothing: %v", set.Err())
		}
		after := mustOpen(t, testOptions(d.image(t, o.Dir)), hooks{})
		if got := read(t, after); len(got) != 1 {
			t.Errorf("the image on disk holds %v", got)
		}
		for _, c := range []interface{ Close() error }{q, after, s.db} {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
	})
}
