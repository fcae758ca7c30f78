package ingest

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/starling-tsdb/starling/internal/series"
	"github.com/starling-tsdb/starling/internal/table"
)

// BenchmarkWrite is what the coordinator alone takes: three owners confirm everything and keep
// nothing.
func BenchmarkWrite(b *testing.B) {
	t := &table.Table{ClusterID: "c", Epoch: 1, KeyVersion: table.KeyVersion, Current: table.Assignment{ReplicationFactor: 3}}
	owners := map[table.NodeID]*Owner{}
	for _, id := range []table.NodeID{"a", "b", "c"} {
		t.Current.Slots = append(t.Current.Slots, table.Slot{Node: id})
		confirm := storeFunc(func(context.Context, *series.Batch) (series.Outcome, error) { return series.Outcome{}, nil })
		owners[id] = NewOwner(confirm, &node{})
		owners[id].Adopt(t)
	}
	c := New(Options{
		Table:   func() (*table.Table, []Placement) { return t, []Placement{nil} },
		Replica: func(id table.NodeID) Replica { return replica{owners[id]} },
		Timeout: time.Second, Grace: time.Second, Logger: slog.New(slog.DiscardHandler),
	})
	defer c.Close()
	batch := &series.Batch{}
	for i := range 2000 {
		batch.Series = append(batch.Series, series.Series{
			Labels: labels.FromStrings("__name__", "m", "i", fmt.Sprint(i)), Samples: []series.Sample{{T: 1}},
		})
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Write(b.Context(), batch); err != nil {
			b.Fatal(err)
		}
	}
}
