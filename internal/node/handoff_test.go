package node

import (
	"fmt"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/starling-tsdb/starling/internal/config"
	"github.com/starling-tsdb/starling/internal/table"
)

// holds returns the samples in a node's own store, by metric, label i, time and value.
func (m *member) holds() map[string]bool {
	m.flock.Helper()
	q, err := m.store.Querier(math.MinInt64, math.MaxInt64)
	if err != nil {
		m.flock.Fatal(err)
	}
	defer q.Close()
	held := map[string]bool{}
	set := q.Select(m.flock.Context(), true, nil, labels.MustNewMatcher(labels.MatchNotEqual, labels.MetricName, ""))
	for set.Next() {
		ls := set.At().Labels()
		it := set.At().Iterator(nil)
		for it.Next() != chunkenc.ValNone {
			t, v := it.At()
			held[held1(ls.Get(labels.MetricName), ls.Get("i"), t, v)] = true
		}
	}
	if err := set.Err(); err != nil {
		m.flock.Fatal(err)
	}
	return held
}

func held1(metric, i string, t int64, v float64) string {
	return fmt.Sprintf("%s{%s} %d %v", metric, i, t, v)
}

// caughtUp waits until nobody notes a gap.
func (f *flock) caughtUp(within time.Duration) {
	f.Helper()
	for _, m := range f.nodes {
		f.eventually(within, "nobody misses anything", func() error {
			if open := m.gaps.Noted(); len(open) != 0 {
				return fmt.Errorf("%s notes %v", m.name, open)
			}
			return nil
		})
	}
}

func join(n int) func(*config.Cluster) {
	return func(c *config.Cluster) { c.Join, c.BootstrapExpect = seeds(n), n }
}

// A node that was down for hours holds, soon after it is back, all that was written
// meanwhile, of series that it knew and of new ones, recent and late.
func TestMissedWritesAreHandedOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		m := f.fresh("a", "b", "c")
		written := map[string]bool{}
		write := func(m *member, metric string, at time.Time, v float64) {
			t.Helper()
			if code := m.writeAt(metric, at, v); code != http.StatusNoContent {
				t.Fatalf("write of %s: %d", metric, code)
			}
			written[held1(metric, "0", at.UnixMilli(), v)] = true
		}
		write(m[0], "known", time.Now(), 1)
		m[2].crash()
		for i := range 12 {
			write(m[i%2], "known", time.Now(), float64(i))
			write(m[i%2], fmt.Sprintf("new%d", i%5), time.Now(), float64(i))
			write(m[i%2], "late", time.Now().Add(-50*time.Minute), float64(i))
			<-time.After(15 * time.Minute)
		}
		for _, up := range m[:2] {
			if open := up.gaps.Open(); len(open) != 1 || open[0].Peer != m[2].cluster.Self() {
				t.Fatalf("%s notes %v", up.name, open)
			}
		}
		status := m[0].get("/api/v1/cluster").text
		if !strings.Contains(status, `"samplesLeft":3`) || !strings.Contains(status, `"peer":"`+string(m[2].cluster.Self())) {
			t.Errorf("status %s", status)
		}
		c := f.start("c", ip(3), join(3))
		f.ready(c)
		write(c, "known", time.Now(), 1000)
		f.caughtUp(time.Minute)
		for _, member := range f.nodes {
			held := member.holds()
			for sample := range written {
				if !held[sample] {
					t.Errorf("%s lacks %s", member.name, sample)
				}
			}
			if len(held) != len(written) {
				t.Errorf("%s holds %d samples, want %d", member.name, len(held), len(written))
			}
		}
	})
}

// Peers of a node that stops in order note its gap before they miss it.
func TestPlannedAbsenceIsNoted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		m := f.fresh("a", "b", "c")
		m[0].write("m", 1)
		f.caughtUp(time.Minute) // one may have been behind when the table was marked
		self := m[2].cluster.Self()
		m[2].halt()
		for _, up := range m[:2] {
			if open := up.gaps.Offered(); len(open) != 1 || open[0].Peer != self {
				t.Errorf("%s offers %v", up.name, open)
			}
		}
		start := time.Now()
		if code := m[0].write("m", 2); code != http.StatusNoContent {
			t.Fatalf("write: %d", code)
		}
		if took := time.Since(start); took >= writeGrace {
			t.Errorf("the write took %s: it waited for a node that said it would be away", took)
		}
		f.start("c", ip(3), join(3))
		f.caughtUp(time.Minute)
	})
}

// All nodes restart, one after the other, while clients write through all of them: each
// write that one node does not take another one does, and every node holds all of them.
func TestRollingRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		f.fresh("a", "b", "c")
		written := map[string]bool{}
		value := 0.0
		burst := func() {
			for range 20 {
				value++
				at := time.Now()
				for try := 0; ; try++ {
					name := string(rune('a' + (int(value)+try)%3))
					if m := f.nodes[name]; m != nil && m.writeAt("m", at, value) == http.StatusNoContent {
						break
					}
					if try == 100 {
						t.Fatalf("nobody takes sample %v", value)
					}
					<-time.After(100 * time.Millisecond)
				}
				written[held1("m", "0", at.UnixMilli(), value)] = true
				<-time.After(200 * time.Millisecond)
			}
		}
		for i, name := range []string{"a", "b", "c"} {
			burst()
			f.nodes[name].halt()
			burst()
			f.ready(f.start(name, ip(i+1), join(3)))
			f.caughtUp(time.Minute)
		}
		burst()
		for _, m := range f.nodes {
			held := m.holds()
			for sample := range written {
				if !held[sample] {
					t.Errorf("%s lacks %s", m.name, sample)
				}
			}
			if len(held) != len(written) {
				t.Errorf("%s holds %d samples, want %d", m.name, len(held), len(written))
			}
		}
	})
}

// A node whose directory was put back from an old copy lacks what it confirmed since, and
// nobody noted that. It must not answer for it, whoever coordinates.
func TestOldCopyOfADirectoryServesNothing(t *testing.T) {
	for _, starts := range []int{1, 3} {
		t.Run(fmt.Sprintf("of %d starts ago", starts), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { oldCopy(t, starts) })
		})
	}
}

func oldCopy(t *testing.T, starts int) {
	t.Helper()
	f := newFlock(t)
	m := f.fresh("a", "b", "c")
	m[0].write("m", 1)
	<-time.After(time.Second)
	m[2].halt()
	old := filepath.Join(f.dir, "old")
	if err := os.CopyFS(old, os.DirFS(filepath.Join(f.dir, "c"))); err != nil {
		t.Fatal(err)
	}
	for range starts {
		c := f.start("c", ip(3), join(3))
		f.ready(c)
		f.caughtUp(time.Minute)
		if code := c.write("m", float64(len(f.nodes))); code != http.StatusNoContent {
			t.Fatalf("write: %d", code)
		}
		<-time.After(time.Second)
		c.halt()
	}
	m[0].propose(table.Command{Kind: table.Pause}) // a table that the copy does not know
	m[0].write("m", 7)
	epoch := m[0].placed.Load().table.Epoch
	if err := os.RemoveAll(filepath.Join(f.dir, "c")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(old, filepath.Join(f.dir, "c")); err != nil {
		t.Fatal(err)
	}
	c := f.start("c", ip(3), join(3))
	want := func(when string, others bool) {
		t.Helper()
		for _, up := range f.nodes {
			got := up.query("max_over_time(m[1h])")
			if got.code == http.StatusOK && got.values["0"] != "7" {
				t.Errorf("%s: %s answers %v", when, up.name, got.values)
			}
			if others && got.code != http.StatusOK {
				t.Errorf("%s: %s: %+v", when, up.name, got)
			}
		}
	}
	want("at once", false)
	<-time.After(30 * time.Second)
	want("after a while", true)
	f.eventually(3*time.Minute, "the old copy is made good", c.whole)
	f.caughtUp(time.Minute)
	want("made good", true)
	// It may have confirmed at the epoch that the others were at.
	if now := c.placed.Load().table.Epoch; now <= epoch {
		t.Errorf("made good at epoch %d, where the others were at %d before", now, epoch)
	}
	m[0].crash()
	want("with one node less", true)
	// What is new counts from now on.
	c.halt()
	c = f.start("c", ip(3), join(3))
	f.ready(c)
	f.caughtUp(time.Minute)
	if err := c.whole(); err != nil {
		t.Errorf("after another start: %v", err)
	}
	want("after another start", true)
}
