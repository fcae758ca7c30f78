package storage

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/prometheus/model/exemplar"

	"github.com/starling-tsdb/starling/internal/series"
)

// At the limit new series are refused one by one, and those that are there go on: in the
// same batch, twice in one batch, and after a restart with a lower limit.
func TestMaxSeries(t *testing.T) {
	o := testOptions(t.TempDir())
	o.MaxSeries = 2
	reg := prometheus.NewRegistry()
	o.Registerer = reg
	s := mustOpen(t, o, hooks{})
	refused := mustAppend(t, s, batch(
		floats(name("a"), float64(at(0)), 1),
		floats(name("b"), float64(at(0)), 1),
		floats(name("c"), float64(at(0)), 1, float64(at(time.Second)), 2),
		floats(name("b"), float64(at(time.Second)), 2),
	))
	wantLimit(t, refused, [2]int{2, 0}, [2]int{2, 1})
	if got := testutil.ToFloat64(s.metrics.limit); got != 2 {
		t.Errorf("%v refusals for the limit are counted, want 2", got)
	}
	withExemplar := floats(name("d"), float64(at(0)), 1)
	withExemplar.Exemplars = []exemplar.Exemplar{{Ts: at(0), HasTs: true, Value: 1}}
	refused = mustAppend(t, s, batch(floats(name("a"), float64(at(2*time.Second)), 3), withExemplar))
	if len(refused) != 2 || refused[0].Reason != series.Limit || !refused[1].Exemplar {
		t.Errorf("a new series with an exemplar: %+v, want both refused", refused)
	}
	if got := len(read(t, s)); got != 4 {
		t.Errorf("%d samples are stored, want the 4 of a and b", got)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	o.MaxSeries, o.Registerer = 1, nil
	s = mustOpen(t, o, hooks{})
	refused = mustAppend(t, s, batch(
		floats(name("a"), float64(at(3*time.Second)), 1), floats(name("b"), float64(at(3*time.Second)), 1), floats(name("e"), float64(at(0)), 1)))
	wantLimit(t, refused, [2]int{2, 0})
}

func wantLimit(t *testing.T, refused []series.Refusal, items ...[2]int) {
	t.Helper()
	if len(refused) != len(items) {
		t.Fatalf("refused %+v, want %v", refused, items)
	}
	for i, r := range refused {
		if [2]int{r.Series, r.Item} != items[i] || r.Reason != series.Limit || !strings.Contains(r.Message, "--storage.max-series") {
			t.Errorf("refused %+v, want %v for the limit", r, items[i])
		}
	}
}

// Many senders that all bring new series do not get past the limit, and each series is
// either stored or refused.
func TestMaxSeriesUnderConcurrency(t *testing.T) {
	o := testOptions(t.TempDir())
	o.MaxSeries, o.WALSync = 500, SyncOff
	s := mustOpen(t, o, hooks{})
	var wg sync.WaitGroup
	for sender := range 8 {
		wg.Go(func() {
			for round := range 20 {
				b := batch()
				for i := range 20 {
					b.Series = append(b.Series, floats(name(fmt.Sprint("m_", sender, "_", round, "_", i)), float64(at(0)), 1))
				}
				if _, err := s.Append(context.Background(), b); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if got := s.db.Head().NumSeries(); got != 500 {
		t.Errorf("the head has %d series, want the 500 that it may have", got)
	}
	if stored, refused := len(read(t, s)), testutil.ToFloat64(s.metrics.limit); stored != 500 || refused != 2700 {
		t.Errorf("%d samples are stored and %v refused, want 500 and 2700", stored, refused)
	}
}
