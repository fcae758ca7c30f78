package repair

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/starling-tsdb/starling/internal/handoff"
	"github.com/starling-tsdb/starling/internal/proof"
)

const (
	// fresh is for how long what was summed up is given to others: all owners compare a
	// window at about the same time.
	fresh = time.Minute
	// keptWindows is of how many windows that is kept.
	keptWindows = 8
)

// sums are those of a window, by the slot of the other owner of the series.
type sums map[int]*proof.Sums

// sumUp reads a window, in milliseconds, both ends inclusive, and sums up what this node
// shares with each other owner.
func sumUp(ctx context.Context, store ComparedStore, window proof.Range, s *Shared) (sums, error) {
	out := sums{}
	var owners []int
	var into []*proof.Sums
	err := handoff.Sum(ctx, store, window, handoff.Everything(), false, func(ls labels.Labels) (key uint64, _ []*proof.Sums) {
		key, owners = s.Owners(ls, owners)
		if !slices.Contains(owners, s.Self) {
			return key, nil // left from before a transition
		}
		into = into[:0]
		for _, o := range owners {
			if o == s.Self {
				continue
			}
			if out[o] == nil {
				out[o] = new(proof.Sums)
			}
			into = append(into, out[o])
		}
		return key, into
	})
	return out, err
}

// of returns the sums for the owner in a slot. The caller does not change them.
func (s sums) of(slot int) *proof.Sums {
	if own := s[slot]; own != nil {
		return own
	}
	return new(proof.Sums)
}

// summary keeps the sums of a few windows for a short while, and has one window be summed up
// at a time.
type summary struct {
	turn chan struct{}
	mu   sync.Mutex
	kept []summed // the oldest first
}

// summed are the sums of a window, as of some minute.
type summed struct {
	epoch  uint64
	window proof.Range
	minute int64
	sums   sums
}

func newSummary() *summary { return &summary{turn: make(chan struct{}, 1)} }

// get returns the sums of a window, and makes them if nobody has just done so.
func (m *summary) get(ctx context.Context, epoch uint64, window proof.Range, sum func() (sums, error)) (sums, error) {
	select {
	case m.turn <- struct{}{}:
		defer func() { <-m.turn }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	now := summed{epoch: epoch, window: window, minute: time.Now().UnixNano() / int64(fresh)}
	if known, ok := m.find(now); ok {
		return known, nil
	}
	var err error
	if now.sums, err = sum(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.kept = append(m.kept, now)
	m.kept = m.kept[max(0, len(m.kept)-keptWindows):]
	return now.sums, nil
}

// find returns sums of the same window, epoch and minute.
func (m *summary) find(like summed) (sums, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, k := range m.kept {
		if k.epoch == like.epoch && k.window == like.window && k.minute == like.minute {
			return k.sums, true
		}
	}
	return nil, false
}

// forget drops the sums of a window that has changed.
func (m *summary) forget(window proof.Range) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.kept = slices.DeleteFunc(m.kept, func(k summed) bool { return k.window == window })
}
