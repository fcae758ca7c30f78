package ingest

import (
	"context"
	"errors"
	"math"
	"testing"

	"github.com/starling-tsdb/starling/internal/proof"
	"github.com/starling-tsdb/starling/internal/series"
	"github.com/starling-tsdb/starling/internal/table"
)

// noGaps notes nothing.
type noGaps struct{ noted int }

func (*noGaps) Offered() []proof.Gap { return nil }

func (g *noGaps) Note(context.Context, table.NodeID, int64) error {
	g.noted++
	return nil
}

func (g *noGaps) NoteLate(ctx context.Context, peer table.NodeID, since int64) (uint64, error) {
	return 1, g.Note(ctx, peer, since)
}

func (*noGaps) Withdraw(table.NodeID, uint64) {}

// An owner that may have forgotten a later epoch confirms and notes nothing before one that it
// cannot have been at.
func TestRefuseUntil(t *testing.T) {
	stored, gaps := 0, &noGaps{}
	o := NewOwner(storeFunc(func(context.Context, *series.Batch) (series.Outcome, error) {
		stored++
		return series.Outcome{}, nil
	}), gaps)
	at := func(epoch uint64) *table.Table {
		return &table.Table{ClusterID: "c", Epoch: epoch, Current: table.Assignment{ReplicationFactor: 1, Slots: []table.Slot{{Node: "a"}, {Node: "b"}}}}
	}
	for _, c := range []struct {
		epoch, until uint64
		refused      bool
	}{{3, 0, false}, {3, math.MaxUint64, true}, {4, math.MaxUint64, true}, {4, 4, true}, {5, 4, false}} {
		o.RefuseUntil(c.until)
		o.Adopt(at(c.epoch))
		stored, gaps.noted = 0, 0
		_, err := o.Append(t.Context(), c.epoch, &series.Batch{})
		noted := o.Note(t.Context(), c.epoch, "b", 1)
		_, late := o.NoteLate(t.Context(), c.epoch, "b", 1)
		for _, err := range []error{err, noted, late} {
			if errors.Is(err, errForgetful) != c.refused {
				t.Errorf("epoch %d, refused until %d: %v", c.epoch, c.until, err)
			}
		}
		if (stored == 0) != c.refused || (gaps.noted == 0) != c.refused {
			t.Errorf("epoch %d, refused until %d: stored %d, noted %d", c.epoch, c.until, stored, gaps.noted)
		}
	}
}
