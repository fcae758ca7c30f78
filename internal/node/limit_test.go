package node

import (
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/starling-tsdb/starling/internal/storage"
)

// At the limit of series a sender hears 400 for what is new, which it does not repeat, and
// what is there goes on, through any node.
func TestSeriesLimitIs400(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		f.tune = func(o *storage.Options) { o.MaxSeries = 3 }
		m := f.fresh("a", "b", "c")
		if code := m[0].write("old", 1, 2, 3); code != http.StatusNoContent {
			t.Fatal(code)
		}
		if code := m[1].write("old", 4, 5, 6, 7); code != http.StatusBadRequest {
			t.Errorf("a write with one series too many: %d, want 400", code)
		}
		if code := m[2].write("new", 1); code != http.StatusBadRequest {
			t.Errorf("a write of a new series: %d, want 400", code)
		}
		if got := m[0].query("sum(old)"); got.values[""] != "15" {
			t.Errorf("sum of what is there: %+v, want the 15 that came with the series too many", got)
		}
		if got := m[0].query("count(new)"); len(got.values) != 0 {
			t.Errorf("the refused series: %+v", got)
		}
		if got := m[1].metric(t, "starling_storage_refusals_total", "limit"); got != 2 {
			t.Errorf("%v refusals for the limit are counted, want 2", got)
		}
		metrics := m[1].get("/metrics").text
		for _, want := range []string{"starling_storage_max_series 3", "prometheus_tsdb_head_series 3"} {
			if !strings.Contains(metrics, "\n"+want+"\n") {
				t.Errorf("/metrics does not say %q", want)
			}
		}
	})
}

// A node that is full while others are not loses copies, and no writes.
func TestOneFullNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		f.tune = func(o *storage.Options) {
			if filepath.Base(o.Dir) == "c" {
				o.MaxSeries = 1
			}
		}
		m := f.fresh("a", "b", "c")
		if code := m[0].write("m", 1, 2, 3); code != http.StatusNoContent {
			t.Errorf("write with one of three owners full: %d", code)
		}
		if got := m[2].query("sum(m)"); got.values[""] != "6" {
			t.Errorf("the full node answers %+v, want 6", got)
		}
	})
}
