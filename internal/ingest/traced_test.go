package ingest

import (
	"testing"

	"github.com/starling-tsdb/starling/internal/series"
	"github.com/starling-tsdb/starling/internal/table"
)

// TestUntracedCostsNothing: what a write says to spans allocates nothing where it has none,
// whatever came of it.
func TestUntracedCostsNothing(t *testing.T) {
	p := &part{node: "a", batch: batch("s")}
	confirmed, failed := answer{part: p}, answer{part: p, err: &table.MismatchError{}}
	r := request{by: &holder{part: p}, node: "b"}
	var res series.Result
	allocated := testing.AllocsPerRun(100, func() {
		ctx, span := startWrite(t.Context(), p.batch)
		ctx, sent := startAppend(ctx, p)
		endAppend(sent, &confirmed)
		endAppend(sent, &failed)
		_, asked := askHolder(ctx, "note gap", r)
		asked.End(failed.err)
		endWrite(span, &res, failed.err)
	})
	if allocated > 0 {
		t.Errorf("%v allocations", allocated)
	}
}
