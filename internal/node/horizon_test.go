package node

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"math/rand/v2"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/starling-tsdb/starling/internal/config"
	"github.com/starling-tsdb/starling/internal/expiry"
	"github.com/starling-tsdb/starling/internal/handoff"
	"github.com/starling-tsdb/starling/internal/proof"
	"github.com/starling-tsdb/starling/internal/storage"
	"github.com/starling-tsdb/starling/internal/table"
	"github.com/starling-tsdb/starling/internal/transport"
)

// keep is for how long samples are kept in these tests; blocks are of ten minutes then.
const keep = 40 * time.Minute

func shortLived(o *storage.Options) {
	o.MinBlockDuration = 10 * time.Minute
	o.OutOfOrderWindow = 20 * time.Minute
	o.RetentionTime = keep
	o.CompactionDelay = 0 // samples of years ahead would wait for others to come late
}

// times returns when the samples of a metric are that a node answers, and the status.
func (m *member) times(metric string) ([]int64, int) {
	m.flock.Helper()
	a := m.get("/api/v1/query?" + url.Values{"query": {metric + "[300h]"}}.Encode())
	var body struct {
		Data struct{ Result []struct{ Values [][2]any } }
	}
	if a.code != http.StatusOK {
		return nil, a.code
	}
	if err := json.Unmarshal([]byte(a.text), &body); err != nil {
		m.flock.Fatalf("%v in %q", err, a.text)
	}
	var ts []int64
	for _, r := range body.Data.Result {
		for _, v := range r.Values {
			ts = append(ts, time.UnixMilli(int64(v[0].(float64)*1000+0.5)).UnixMilli())
		}
	}
	return ts, a.code
}

func (m *member) horizon() int64 { return m.store.Horizon().At() }

// since returns those of some times that are not before another one.
func since(ts []int64, t int64) []int64 {
	return slices.DeleteFunc(slices.Clone(ts), func(x int64) bool { return x < t })
}

// everyMinute writes a sample a minute through one node, and returns when they are.
func (m *member) everyMinute(n int) (ts []int64) {
	m.flock.Helper()
	for range n {
		at := time.Now()
		if code := m.writeAt("m", at, 1); code != http.StatusNoContent {
			m.flock.Fatalf("write: %d", code)
		}
		ts = append(ts, at.UnixMilli())
		<-time.After(time.Minute)
	}
	return ts
}

// wantOneHorizon waits until all nodes have the same horizon, and wants all of them to answer
// with the samples that are not before it.
func (f *flock) wantOneHorizon(written []int64) int64 {
	f.Helper()
	var horizon int64
	f.eventually(time.Minute, "one horizon", func() error {
		all := map[int64]bool{}
		for _, m := range f.nodes {
			horizon = m.horizon()
			all[horizon] = true
		}
		if len(all) > 1 {
			return fmt.Errorf("%v", all)
		}
		return nil
	})
	for _, m := range f.nodes {
		got, code := m.times("m")
		// Others may be there that nobody was told are stored.
		lacks := slices.DeleteFunc(since(written, horizon), func(t int64) bool { return slices.Contains(got, t) })
		if code != http.StatusOK || len(lacks) > 0 || len(since(got, horizon)) < len(got) {
			f.Errorf("%s answers %d with %d samples, lacks %d of %d, horizon %d", m.name, code, len(got), len(lacks), len(written), horizon)
		}
	}
	return horizon
}

// A node that was away with samples that expired meanwhile is not asked for them, asks nobody
// for them, and hands them to nobody: not in its first answer, nor in a hand-off, nor in a
// transition.
func TestExpiredSamplesDoNotComeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		f.tune = shortLived
		m := f.fresh("a", "b", "c")
		written := m[0].everyMinute(15)
		m[2].crash()
		written = append(written, m[0].everyMinute(100)...)
		if h := m[0].horizon(); len(since(written[:15], h)) > 0 || len(since(written, h)) > 60 {
			t.Fatalf("the horizon is %d: the test is about samples that are expired", h)
		}
		c := f.start("c", ip(3), join(3))
		if got := c.horizon(); got >= m[0].horizon() {
			t.Fatalf("the horizon of the node that was away is %d already", got)
		}
		f.eventually(time.Minute, "c answers", func() error {
			got, code := c.times("m")
			if code != http.StatusOK {
				return fmt.Errorf("%d", code)
			}
			if want := since(written, m[0].horizon()); !slices.Equal(got, want) {
				f.Fatalf("the first answer has %d samples, want %d", len(got), len(want))
			}
			return nil
		})
		f.caughtUp(time.Minute)
		f.wantOneHorizon(written)
		d := f.start("d", ip(4), func(c *config.Cluster) { c.Join = seeds(1) })
		f.settled(4)
		horizon := f.wantOneHorizon(written)
		for _, m := range f.nodes {
			held, err := m.store.Holding()
			if err != nil || held.Oldest < horizon {
				t.Errorf("%s holds samples from %d on, %v", m.name, held.Oldest, err)
			}
		}
		if p := d.mover.Progress(); !p.Ready || p.Samples > int64(len(since(written, horizon))) {
			t.Errorf("the new node has copied %+v", p)
		}
	})
}

// What one node's disk has no room for is expired everywhere, but for the last hours.
func TestSizeOfOneNodeExpiresEverywhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		f.tune = func(o *storage.Options) {
			shortLived(o)
			o.RetentionTime = 1000 * time.Hour
			if filepath.Base(o.Dir) == "b" {
				o.RetentionSize = 1
			}
		}
		m := f.fresh("a", "b", "c")
		written := m[0].everyMinute(90)
		horizon := f.wantOneHorizon(written)
		if n := len(since(written, horizon)); n == len(written) || n < 19 {
			t.Errorf("%d of %d samples are not expired", n, len(written))
		}
		for _, m := range f.nodes {
			f.eventually(2*time.Minute, "expired blocks are deleted", func() error {
				metas, err := m.store.BlockMetas()
				if err != nil || len(metas) > 0 && metas[0].MaxTime <= horizon {
					return errors.Join(err, fmt.Errorf("%s: %d blocks", m.name, len(metas)))
				}
				return nil
			})
		}
	})
}

// A node with a wrong clock, or a retention that is too short, expires nothing on others, whose
// answers stay whole.
func TestMistakenNodeExpiresNothingOnOthers(t *testing.T) {
	for name, mistake := range map[string]func(*storage.Options){
		// Not more: where samples come late while the TSDB compacts, it steps through that time by blocks.
		"its clock is a week ahead": func(o *storage.Options) {
			o.Now = func() time.Time { return time.Now().Add(7 * 24 * time.Hour) }
			o.OutOfOrderWindow = 2 * 7 * 24 * time.Hour
		},
		"its clock is a year behind": func(o *storage.Options) {
			o.Now = func() time.Time { return time.Now().Add(-365 * 24 * time.Hour) }
		},
		"its retention is short": func(o *storage.Options) { o.RetentionTime = time.Minute },
		"its retention is long":  func(o *storage.Options) { o.RetentionTime = 100 * time.Hour },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFlock(t)
				f.tune = func(o *storage.Options) {
					shortLived(o)
					if filepath.Base(o.Dir) == "b" {
						mistake(o)
					}
				}
				m := f.fresh("a", "b", "c")
				written := m[0].everyMinute(50)
				// By its clock, too, one node takes it; then its horizon is days ahead as well.
				if code := m[0].writeAt("far", time.Now().Add(6*24*time.Hour), 1); code != http.StatusBadRequest {
					t.Errorf("write of a sample six days ahead: %d", code)
				}
				written = append(written, m[0].everyMinute(23)...) // to just after the horizon's last step
				oldest := time.Now().Add(-keep).UnixMilli() + expiry.Slack
				if ahead := m[1].horizon() > time.Now().UnixMilli(); ahead != strings.HasSuffix(name, "ahead") {
					t.Fatalf("the horizon of the mistaken node is %d", m[1].horizon())
				}
				for _, sane := range []*member{m[0], m[2]} {
					got, code := sane.times("m")
					if code != http.StatusOK || len(got) == len(written) || !slices.Equal(since(got, oldest), since(written, oldest)) {
						t.Errorf("%s answers %d with %d samples, of which %d are not to be expired; want %d",
							sane.name, code, len(got), len(since(got, oldest)), len(since(written, oldest)))
					}
				}
			})
		})
	}
}

// A node that has expired more than the one which asks is a missing node for what reaches that
// far back, and for nothing else.
func TestNodeThatExpiresMoreIsMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		f.tune = func(o *storage.Options) {
			shortLived(o)
			o.RetentionTime = 20 * time.Hour
			if filepath.Base(o.Dir) == "b" {
				o.RetentionTime = time.Minute
			}
		}
		m := f.fresh("a", "b", "c")
		written := m[0].everyMinute(60)
		m[2].crash()
		if got, code := m[0].times("m"); code != http.StatusServiceUnavailable {
			t.Errorf("of %d samples, some of which one node holds alone: %d, %d", len(written), code, len(got))
		}
		if got := m[0].query("count_over_time(m[10m])"); got.values["0"] != "9" {
			t.Errorf("of the last ten minutes: %+v", got)
		}
		c := f.start("c", ip(3), join(3))
		f.ready(c)
		f.caughtUp(time.Minute)
		if got, code := c.times("m"); code != http.StatusOK || !slices.Equal(got, written) {
			t.Errorf("with another one: %d, %d samples, want %d", code, len(got), len(written))
		}
	})
}

// A node whose horizon has risen since it said what it holds does not answer as if it held that.
func TestHorizonRisesBetweenTheRounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		m := f.start("a", ip(1), nil)
		f.ready(m)
		at := time.Now().Add(-10 * time.Hour).UnixMilli()
		sel := transport.Selection{
			Epoch: m.placed.Load().table.Epoch, Mint: at, Maxt: math.MaxInt64, Matchers: handoff.Everything(),
			Proof: &proof.Proof{Quorum: 1, Nodes: []proof.Node{{Slot: 0, Session: m.reader().State().Session}}},
		}
		read := func() error {
			set, err := m.reader().Select(t.Context(), sel)
			if err != nil {
				return err
			}
			return errors.Join(set.Err(), set.Close())
		}
		for _, tc := range []struct {
			horizon int64
			want    error
		}{{at, nil}, {at + 1, errExpired}} {
			if err := m.store.AdoptHorizon(t.Context(), expiry.Horizon{Time: expiry.None, Size: tc.horizon}); err != nil {
				t.Fatal(err)
			}
			if err := read(); !errors.Is(err, tc.want) {
				t.Errorf("horizon %d, from %d on: %v, want %v", tc.horizon, at, err, tc.want)
			}
		}
	})
}

// What is amiss with a member's retention, or its clock, the log says once.
func TestMembersThatDifferAreNamed(t *testing.T) {
	var log bytes.Buffer
	store, err := storage.Open(storage.Options{Dir: t.TempDir(), OutOfOrderWindow: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	h := horizons{&Node{store: store, logger: slog.New(slog.NewTextHandler(&log, nil))}}
	word := store.Word()
	short := word
	short.Limits.Time = time.Hour.Milliseconds()
	short.Horizon.Time = time.Now().Add(-4 * time.Hour).UnixMilli()
	for _, tc := range []struct {
		name                     string
		peer                     table.NodeID
		word                     expiry.Word
		wantDifferent, wantAhead int
	}{
		{"the same", "p", word, 0, 0},
		{"shorter", "p", short, 1, 1},
		{"shorter still", "p", short, 0, 0},
		{"another one, with a wrong clock", "q", expiry.Word{Horizon: short.Horizon, Limits: word.Limits}, 0, 1},
		{"as it was", "p", word, 0, 0},
	} {
		log.Reset()
		h.Heard(t.Context(), tc.peer, tc.word)
		different, ahead := strings.Count(log.String(), "to keep samples for another time"), strings.Count(log.String(), "expired on a member")
		if different != tc.wantDifferent || ahead != tc.wantAhead {
			t.Errorf("%s: log %q", tc.name, log.String())
		}
	}
	if got := store.Horizon(); got != expiry.Never() {
		t.Errorf("horizon %+v", got)
	}
}

// Random crashes, cuts and restarts, for longer than samples are kept: every answer has all that
// is acknowledged from its oldest sample on, and whatever is gone from one is gone from all
// later ones.
func TestExpiredSamplesStayAway(t *testing.T) {
	for seed := range faultSeeds(t, 2) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { runExpiry(t, uint64(seed)) })
		})
	}
}

// expiring is a history of samples that expire.
type expiring struct {
	*history
	acked []int64
	// gone is the newest acknowledged sample that an answer did not have.
	gone    int64
	answers int
}

func runExpiry(t *testing.T, seed uint64) {
	f := newFlock(t)
	f.tune = shortLived
	f.fresh("n0", "n1", "n2")
	h := &expiring{history: &history{
		flock: f, rng: rand.New(rand.NewPCG(seed, 11)), ips: map[string]string{"n0": ip(1), "n1": ip(2), "n2": ip(3)},
	}, gone: expiry.None}
	for range 120 {
		switch p := h.rng.IntN(100); {
		case p < 4 && len(h.nodes) > 1:
			h.any().crash()
		case p < 10:
			h.startAll()
		case p < 12:
			h.cut()
		case p < 16:
			h.net.Heal()
		}
		h.write()
		for _, name := range slices.Sorted(maps.Keys(h.nodes)) {
			h.look(h.nodes[name])
		}
		<-time.After(time.Duration(h.rng.IntN(180)) * time.Second)
	}
	h.net.Heal()
	h.startAll()
	f.ready(slices.Collect(maps.Values(h.nodes))...)
	f.caughtUp(2 * time.Minute)
	h.write()
	<-time.After(2 * time.Minute)
	horizon := f.wantOneHorizon(h.acked)
	if h.gone == expiry.None || h.answers < 100 || horizon < h.gone {
		t.Errorf("%d answers, gone up to %d, horizon %d", h.answers, h.gone, horizon)
	}
	t.Logf("%d writes acknowledged, %d answers", len(h.acked), h.answers)
}

func (h *expiring) write() {
	at := time.Now()
	if h.any().writeAt("m", at, 1) == http.StatusNoContent {
		h.acked = append(h.acked, at.UnixMilli())
	}
}

// look checks one answer.
func (h *expiring) look(m *member) {
	h.Helper()
	got, code := m.times("m")
	if code != http.StatusOK {
		return
	}
	h.answers++
	has := map[int64]bool{}
	for _, t := range got {
		has[t] = true
		if t <= h.gone {
			h.Fatalf("%s answers with a sample of %s, and one of %s was gone before", m.name, time.UnixMilli(t), time.UnixMilli(h.gone))
		}
	}
	oldest := time.Now().Add(-keep).UnixMilli()
	for _, t := range h.acked {
		switch {
		case has[t]:
		case t >= oldest || len(got) > 0 && t > got[0]:
			h.Fatalf("%s lacks the sample of %s; its %d are from %v on", m.name, time.UnixMilli(t), len(got), got[:min(1, len(got))])
		default:
			h.gone = max(h.gone, t)
		}
	}
}
