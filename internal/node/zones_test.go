package node

import (
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/starling-tsdb/starling/internal/config"
)

// startIn starts one of n founders in a zone.
func (f *flock) startIn(zone, name string, number, n int) *member {
	f.Helper()
	return f.start(name, ip(number), func(c *config.Cluster) {
		c.Join, c.BootstrapExpect, c.Zone = seeds(n), n, zone
	})
}

// zoned starts as many nodes in each zone as its number says, which found a cluster together.
func (f *flock) zoned(sizes ...int) [][]*member {
	f.Helper()
	n := 0
	for _, size := range sizes {
		n += size
	}
	zones := make([][]*member, len(sizes))
	number := 0
	for i, size := range sizes {
		for j := range size {
			number++
			zones[i] = append(zones[i], f.startIn(zoneName(i), fmt.Sprintf("%s%d", zoneName(i), j), number, n))
		}
	}
	for _, zone := range zones {
		f.ready(zone...)
	}
	return zones
}

func zoneName(i int) string { return string(rune('a' + i)) }

// writer writes to many series and remembers what was acknowledged.
type writer struct {
	*flock
	samples map[string]string
	rounds  int
}

// write sends a sample of each of 60 series, through one node after the other.
func (w *writer) write(through ...*member) {
	w.Helper()
	<-time.After(time.Second)
	w.rounds++
	for i := range 60 {
		metric, at, m := fmt.Sprintf("m%d", i), time.Now(), through[i%len(through)]
		if code := m.writeAt(metric, at, float64(w.rounds)); code != http.StatusNoContent {
			w.Fatalf("write of %s through %s: %d", metric, m.name, code)
		}
		w.samples[held1(metric, "0", at.UnixMilli(), float64(w.rounds))] = metric
	}
}

// check asks nodes for everything.
func (w *writer) check(asked ...*member) {
	w.Helper()
	for _, m := range asked {
		want := fmt.Sprint(60 * w.rounds)
		if got := m.query(`sum(last_over_time({__name__=~"m.+"}[1h]))`); got.values[""] != want || len(got.warnings) > 0 {
			w.Fatalf("%s answers %+v, want %s", m.name, got, want)
		}
		if got := m.get("/api/v1/labels"); got.code != http.StatusOK {
			w.Fatalf("%s answers %+v to a question for labels", m.name, got)
		}
	}
}

// whole waits until every copy is where it should be.
func (w *writer) whole() {
	w.Helper()
	w.caughtUp(2 * time.Minute)
	for _, m := range w.nodes {
		if lacks := m.lacks(w.samples); len(lacks) > 0 {
			w.Errorf("%s lacks %d of the samples that it owns, as %s", m.name, len(lacks), lacks[0])
		}
	}
}

// TestZoneIsLost: all nodes of a zone die at once. Every write is taken and every query
// answered in full, from the first moment on; when the zone is back, it catches up, and the
// next one may be lost.
func TestZoneIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		zones := f.zoned(2, 2, 2)
		w := &writer{flock: f, samples: map[string]string{}}
		w.write(zones[0][0], zones[1][1], zones[2][0])
		w.check(zones[2]...)
		for lost := range zones {
			var left []*member
			for i, zone := range zones {
				if i != lost {
					left = append(left, zone...)
				}
			}
			for _, m := range zones[lost] {
				f.net.Down(m.ip)
			}
			w.write(left...)
			w.check(left...)
			for _, m := range zones[lost] {
				m.crash()
			}
			for range 5 {
				<-time.After(time.Minute)
				w.write(left...)
				w.check(left...)
			}
			for i, m := range zones[lost] {
				zones[lost][i] = f.startIn(zoneName(lost), m.name, 2*lost+i+1, 6)
			}
			w.write(left...)
			w.check(left...)
			f.ready(zones[lost]...)
			w.write(zones[lost]...)
			w.whole()
			w.check(zones[lost]...)
		}
	})
}

// Two nodes of two zones own series together: what is missing then, nobody may hide.
func TestNodesOfTwoZonesAreLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		zones := f.zoned(2, 2, 2)
		w := &writer{flock: f, samples: map[string]string{}}
		w.write(zones[0]...)
		zones[1][0].crash()
		zones[2][0].crash()
		if got := zones[0][0].query("m1"); got.code != http.StatusServiceUnavailable {
			t.Errorf("with a node of each of two zones gone: %+v, want 503", got)
		}
	})
}

// TestNodeChangesZone: a node is started again in another zone. Data moves, while the cluster
// takes writes, as if the node had always been there, and nothing is missing.
func TestNodeChangesZone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		zones := f.zoned(2, 2, 1)
		a, b, lonely := zones[0], zones[1], zones[2][0]
		w := &writer{flock: f, samples: map[string]string{}}
		for range 5 {
			w.write(a...)
		}
		zoneOf := func(m *member) string {
			zone, _ := m.placed.Load().table.ZoneOf(m.cluster.Self())
			return zone
		}
		for _, zone := range []string{"c", "a", "", "b"} {
			b[1].halt()
			w.write(a...)
			b[1] = f.startIn(zone, "b1", 4, 5)
			w.write(a[0], b[0], lonely)
			f.ready(b[1])
			f.eventually(time.Minute, "the table says so", func() error {
				if got := zoneOf(b[1]); got != zone {
					return fmt.Errorf("it is in zone %q", got)
				}
				return nil
			})
			w.write(a[0], b[1])
			f.settled(5)
			w.whole()
			w.check(a[0], b[1], lonely)
		}
		// The zones that there are now can be lost as if they had never been others.
		b[1].crash()
		b[0].crash()
		w.write(a...)
		w.check(a[1], lonely)
	})
}

// TestAcknowledgedIsAnsweredInZones is TestAcknowledgedIsAnswered with six nodes in three
// zones, even or not, that are lost and cut off one by one or as a whole.
func TestAcknowledgedIsAnsweredInZones(t *testing.T) {
	for seed := range faultSeeds(t, 3) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { runZonedHistory(t, uint64(seed)) })
		})
	}
}

func runZonedHistory(t *testing.T, seed uint64) {
	sizes := [][]int{{2, 2, 2}, {3, 2, 1}, {3, 3}, {4, 1, 1}}[seed%4]
	h := emptyHistory(t, seed)
	zones := h.zoned(sizes...)
	number := 0
	for i, zone := range zones {
		for _, m := range zone {
			number++
			h.ips[m.name], h.zones[m.name] = ip(number), zoneName(i)
		}
	}
	for range 150 {
		zone := zones[h.rng.IntN(len(zones))]
		switch p := h.rng.IntN(100); {
		case p < 2:
			for _, m := range zone {
				if up := h.nodes[m.name]; up != nil && len(h.nodes) > 1 {
					up.crash()
				}
			}
		case p < 4:
			h.cutOff(zone)
		default:
			h.step()
		}
		<-time.After(time.Duration(h.rng.IntN(400)) * time.Millisecond)
	}
	h.settle()
}

// cutOff separates nodes from all others.
func (h *history) cutOff(nodes []*member) {
	var inside, outside []string
	for name, ip := range h.ips {
		in := false
		for _, m := range nodes {
			in = in || m.name == name
		}
		if in {
			inside = append(inside, ip)
		} else {
			outside = append(outside, ip)
		}
	}
	h.net.Partition(inside, outside)
}
