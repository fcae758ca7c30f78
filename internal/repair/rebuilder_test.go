package repair

import (
	"context"
	"log/slog"
	"math"
	"slices"
	"testing"

	"github.com/starling-tsdb/starling/internal/damage"
	"github.com/starling-tsdb/starling/internal/handoff"
	"github.com/starling-tsdb/starling/internal/table"
)

// patient is a node with damage, and what its rebuilder asks of the others.
type patient struct {
	ranges   []damage.Range
	findings uint64
	isolated int

	epoch   uint64 // of the node
	newest  uint64 // of any member
	renewed []uint64
	looked  int // how often the others were to be copied from
}

func (p *patient) Damage() []damage.Range { return p.ranges }
func (p *patient) Findings() uint64       { return p.findings }

func (p *patient) Isolate(context.Context, damage.Range) error {
	p.isolated++
	return nil
}

func (p *patient) Mended(damage.Range, int64, uint64) error { return nil }

func (p *patient) rebuilder() *Rebuilder {
	return NewRebuilder(RebuilderOptions{
		Store: p, Copier: handoff.NewCopier(handoff.CopierOptions{}), Logger: slog.New(slog.DiscardHandler),
		Owners: func() (uint64, handoff.Owners, bool) {
			return p.epoch, handoff.Owners{From: &table.Assignment{Slots: []table.Slot{{Node: "a"}}}, Origins: []handoff.Origin{lookedAt{p: p}}}, true
		},
		Newest: func(context.Context) (uint64, error) {
			p.epoch = p.newest
			return p.newest, nil
		},
		Renew: func(_ context.Context, epoch uint64) error {
			p.renewed = append(p.renewed, epoch)
			return nil
		},
	})
}

// lookedAt is an owner that is asked for nothing but its oldest sample, and does not answer.
type lookedAt struct {
	handoff.Origin
	p *patient
}

func (l lookedAt) Oldest(context.Context) (int64, error) {
	l.p.looked++
	return 0, context.DeadlineExceeded
}

// Nothing is made good before an epoch that began after the damage was found; with an old copy
// of a directory, after the newest one that this node can ever have been at.
func TestRebuiltLater(t *testing.T) {
	for _, c := range []struct {
		name    string
		r       damage.Range
		renewed []uint64
		until   uint64 // the last epoch that is too early
	}{
		{"damage", damage.Range{MinTime: math.MinInt64, MaxTime: math.MaxInt64, Kind: damage.WAL}, []uint64{5, 5, 5}, 5},
		{"old copy", damage.Range{MinTime: math.MinInt64, MaxTime: math.MaxInt64, Kind: damage.OldCopy}, []uint64{7, 7, 7}, 7},
		{"torn end", damage.Range{MinTime: math.MinInt64, MaxTime: math.MaxInt64, Kind: damage.WAL, Suspect: true}, nil, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := &patient{ranges: []damage.Range{c.r}, findings: 1, epoch: 5, newest: 7}
			r := p.rebuilder()
			for range 3 {
				if err := r.step(t.Context()); (err != nil) != (c.until == 0) {
					t.Fatal(err)
				}
			}
			if !slices.Equal(p.renewed, c.renewed) || (p.looked > 0) != (c.until == 0) || p.isolated != 3 {
				t.Errorf("renewed %v, copied %d times, isolated %d times", p.renewed, p.looked, p.isolated)
			}
			if p.epoch = c.until + 1; r.step(t.Context()) == nil || p.looked == 0 {
				t.Errorf("at epoch %d nobody was asked", p.epoch)
			}
			// What is found then needs a later one again.
			p.findings, p.looked, p.renewed, p.newest = 2, 0, nil, p.epoch
			if err := r.step(t.Context()); c.until > 0 && (err != nil || p.looked > 0 || !slices.Equal(p.renewed, []uint64{p.epoch})) {
				t.Errorf("after another finding: %v, renewed %v, copied %d times", err, p.renewed, p.looked)
			}
		})
	}
}
