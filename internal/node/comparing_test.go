package node

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/starling-tsdb/starling/internal/series"
)

// only stores a sample on one node, behind the back of all others.
func (m *member) only(metric string, at time.Time, v float64) {
	m.flock.Helper()
	ls := labels.FromStrings("__name__", metric, "i", "0")
	b := &series.Batch{Series: []series.Series{{Labels: ls, Samples: []series.Sample{{T: at.UnixMilli(), V: v}}}}}
	if err := m.store.Import(m.flock.Context(), b); err != nil {
		m.flock.Fatal(err)
	}
}

// equal tells whether all nodes hold these values of a metric at a time, and nothing else.
func (f *flock) equal(metric string, at time.Time, want float64) error {
	for _, m := range f.nodes {
		if lacks := m.lacks(map[string]string{held1(metric, "0", at.UnixMilli(), want): metric}); len(lacks) > 0 {
			return fmt.Errorf("%s lacks %s", m.name, lacks[0])
		}
	}
	return nil
}

// TestOwnersAreCompared has nodes hold different samples and values of some hours ago, which
// nobody noted. An operator who asks has them be equal soon, and else a day is enough.
func TestOwnersAreCompared(t *testing.T) {
	for _, asked := range []bool{true, false} {
		t.Run(fmt.Sprintf("asked %v", asked), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFlock(t)
				m := f.fresh("a", "b", "c")
				m[0].write("now", 1) // what is older than this can be imported
				before := time.Now().Add(-8 * time.Hour).Truncate(time.Second)
				m[0].only("missing", before, 7)
				m[1].only("differs", before, 1)
				m[2].only("differs", before, 5)
				m[0].only("differs", before, 3)
				within := 26 * time.Hour
				if asked {
					within = 20 * time.Minute
					got := m[1].post("/api/v1/cluster/repair", "")
					if got.code != http.StatusOK || !strings.Contains(got.text, `"nodes":3`) {
						t.Fatalf("repair: %+v", got)
					}
					if status := m[2].get("/api/v1/cluster"); !strings.Contains(status.text, `"comparing":`) {
						t.Errorf("the status does not tell of it: %s", status.text)
					}
				}
				f.eventuallyEvery(time.Minute, within, "all are equal", func() error {
					if err := f.equal("missing", before, 7); err != nil {
						return err
					}
					return f.equal("differs", before, 5)
				})
			})
		})
	}
}

// TestReadRepair has a query read two copies that differ, as one of them is noted to lack
// something: the answer is the union, and the owners become equal without any pass.
func TestReadRepair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		m := f.fresh("a", "b", "c")
		m[0].write("now", 1)
		before := time.Now().Add(-8 * time.Hour).Truncate(time.Second)
		m[0].only("differs", before, 1)
		m[1].only("differs", before, 5)
		m[2].only("differs", before, 3)
		// Everybody is noted by somebody: no owner is clean, and two of them are merged.
		for i, n := range m {
			if err := n.gaps.Note(t.Context(), m[(i+1)%3].cluster.Self(), before.UnixMilli()); err != nil {
				t.Fatal(err)
			}
		}
		got := m[0].query("differs", "time", fmt.Sprint(before.Unix()))
		// Which two of the three are read depends on their slots.
		if v := got.values["0"]; got.code != http.StatusOK || v != "3" && v != "5" {
			t.Errorf("answer %+v, want the greater value of two", got)
		}
		f.eventuallyEvery(time.Minute, time.Hour, "all are equal", func() error { return f.equal("differs", before, 5) })
	})
}
