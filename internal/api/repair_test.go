package api

import (
	"context"
	"math"
	"net/http"
	"strings"
	"testing"
)

// fakeRepairer remembers the last range.
type fakeRepairer struct{ ranges [][2]int64 }

func (f *fakeRepairer) Repair(_ context.Context, mint, maxt int64) (int, map[string]string) {
	f.ranges = append(f.ranges, [2]int64{mint, maxt})
	return 2, map[string]string{"01BB": "it is gone"}
}

func TestRepair(t *testing.T) {
	repairer := &fakeRepairer{}
	f := newFixture(t, func(o *Options) { o.Repairer = repairer })
	const path = "/api/v1/cluster/repair"
	for _, c := range []struct {
		body       string
		status     int
		mint, maxt int64
	}{
		{``, http.StatusOK, math.MinInt64, math.MaxInt64},
		{`{}`, http.StatusOK, math.MinInt64, math.MaxInt64},
		{`{"from":"1970-01-01T00:00:01Z","to":"1970-01-01T00:00:02.5+00:00"}`, http.StatusOK, 1000, 2500},
		{`{"from":"1970-01-01T00:00:03Z","to":"1970-01-01T00:00:02Z"}`, http.StatusBadRequest, 0, 0},
		{`{"from":"yesterday"}`, http.StatusBadRequest, 0, 0},
		{`{"range":"1h"}`, http.StatusBadRequest, 0, 0},
	} {
		repairer.ranges = nil
		got := f.post(path, c.body, nil)
		if got.status != c.status {
			t.Errorf("%s: %d %s", c.body, got.status, got.body)
		}
		if c.status != http.StatusOK {
			if len(repairer.ranges) > 0 {
				t.Errorf("%s: compared %v", c.body, repairer.ranges)
			}
			continue
		}
		if len(repairer.ranges) != 1 || repairer.ranges[0] != [2]int64{c.mint, c.maxt} {
			t.Errorf("%s: compared %v", c.body, repairer.ranges)
		}
		if !strings.Contains(got.body, `"nodes":2`) || !strings.Contains(got.body, `"01BB":"it is gone"`) {
			t.Errorf("%s: %s", c.body, got.body)
		}
	}
	if got := f.post(path, ``, http.Header{"Sec-Fetch-Site": {"cross-site"}}); got.status != http.StatusForbidden {
		t.Errorf("from another site: %d", got.status)
	}
}
