package storage

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/wlog"

	"github.com/starling-tsdb/starling/internal/damage"
	"github.com/starling-tsdb/starling/internal/series"
)

var damageSeeds = flag.Int("damage.seeds", 2, "damaged copies of each kind of file, and way to damage it, in TestDamageIsContained")

// damagedOptions make blocks of a minute, in memory for as short.
func damagedOptions(dir string) Options {
	o := testOptions(dir)
	o.MinBlockDuration = time.Minute
	o.OutOfOrderWindow = 10 * time.Minute
	o.MaxFuture = time.Hour
	return o
}

// specimen is a data directory with something of everything in it, and what was written.
type specimen struct {
	dir    string
	points map[point]string
}

// newSpecimen fills a data directory in three sessions, of which the last ends by a clean
// Close, or as by a kill: the directory is copied while the store is open.
func newSpecimen(t *testing.T, clean bool) *specimen {
	t.Helper()
	sp := &specimen{dir: filepath.Join(t.TempDir(), "data"), points: make(map[point]string)}
	hk := hooks{segmentSize: 32 << 10}
	const rounds, perRound = 4, 60
	for r := range rounds {
		s := mustOpen(t, damagedOptions(sp.dir), hk)
		s.db.DisableCompactions() // but for those below: a copy must not be taken in the midst of one
		for i := range perRound {
			sp.append(t, s, r, time.Duration(r*perRound+i)*2*time.Second)
		}
		if r < 3 { // the rest stays in the head
			if err := errors.Join(s.db.Compact(context.Background()), s.db.CompactOOOHead(context.Background())); err != nil {
				t.Fatal(err)
			}
			if err := s.damage.ScrubOnce(context.Background()); err != nil {
				t.Fatal(err)
			}
		}
		if r == rounds-1 && !clean {
			// Head chunks reach their files when the store is closed, or every minute.
			s.db.ForceHeadMMap()
			to := filepath.Join(t.TempDir(), "data")
			if err := os.CopyFS(to, os.DirFS(sp.dir)); err != nil {
				t.Fatal(err)
			}
			sp.dir = to
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return sp
}

// append writes samples at one time, and late ones, of old series and of one that is new
// now and then, so that the logs hold records of series everywhere.
func (sp *specimen) append(t *testing.T, s *Store, round int, d time.Duration) {
	t.Helper()
	b := &series.Batch{}
	for i := range 6 {
		b.Series = append(b.Series, floats(name(fmt.Sprint("old", i)), float64(at(d)), float64(at(d))*1.7+float64(i)))
	}
	b.Series = append(b.Series,
		floats(name(fmt.Sprint("new", round, "_", int(d/(20*time.Second)))), float64(at(d)), float64(at(d))*1.3),
		floats(name("old0"), float64(at(d-50*time.Second)+1), float64(at(d))*1.1),
		floats(name(fmt.Sprint("late", int(d/(30*time.Second)))), float64(at(d-40*time.Second)+1), float64(at(d))*1.9),
	)
	b.Metadata = []series.Metadata{{Family: "old0", Metadata: metadata.Metadata{Type: model.MetricTypeCounter, Help: fmt.Sprint(d)}}}
	sp.write(t, s, b)
}

func (sp *specimen) write(t *testing.T, s *Store, b *series.Batch) {
	t.Helper()
	if refused := mustAppend(t, s, b); len(refused) > 0 {
		t.Fatalf("refused: %+v", refused)
	}
	for _, sr := range b.Series {
		for _, p := range sr.Samples {
			sp.points[point{sr.Labels.String(), p.T}] = fmt.Sprint(p.V)
		}
	}
}

// files lists what is to be damaged, by kind.
func (sp *specimen) files(t *testing.T) map[string][]string {
	t.Helper()
	kinds := make(map[string][]string)
	err := filepath.WalkDir(sp.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(sp.dir, path)
		if err != nil {
			return err
		}
		parts := strings.Split(filepath.ToSlash(rel), "/")
		kind := parts[0]
		switch {
		case len(parts[0]) == 26 && len(parts) == 2:
			kind = "block " + parts[1]
		case len(parts[0]) == 26:
			kind = "block chunks"
		case strings.HasPrefix(rel, "wal/checkpoint"):
			kind = "checkpoint"
		case parts[0] == damage.Dir:
			kind = "damage/" + parts[1]
		case parts[0] == "lock":
			return nil
		}
		if info, err := d.Info(); err != nil || info.Size() == 0 {
			return err
		}
		kinds[kind] = append(kinds[kind], rel)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return kinds
}

// harm is a way to damage a file.
type harm struct {
	name  string
	apply func(rnd *rand.Rand, path string, size int) error
}

func harms() []harm {
	edit := func(change func(rnd *rand.Rand, b []byte) []byte) func(*rand.Rand, string, int) error {
		return func(rnd *rand.Rand, path string, _ int) error {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			return os.WriteFile(path, change(rnd, b), 0o666)
		}
	}
	return []harm{
		{"flip", edit(func(rnd *rand.Rand, b []byte) []byte { b[rnd.IntN(len(b))] ^= 1 << rnd.IntN(8); return b })},
		{"zeros", edit(func(rnd *rand.Rand, b []byte) []byte {
			i := rnd.IntN(len(b))
			clear(b[i:min(len(b), i+1+rnd.IntN(600))])
			return b
		})},
		{"garbage", edit(func(rnd *rand.Rand, b []byte) []byte {
			i := rnd.IntN(len(b))
			for j := i; j < min(len(b), i+200); j++ {
				b[j] = byte(rnd.Uint32())
			}
			return b
		})},
		{"cut", func(rnd *rand.Rand, path string, size int) error { return os.Truncate(path, int64(rnd.IntN(size))) }},
		{"nothing", func(*rand.Rand, string, int) error { return nil }},
		{"gone", func(_ *rand.Rand, path string, _ int) error { return os.Remove(path) }},
	}
}

// readRest reads everything that the TSDB has, whatever is out of service, up to the first
// error.
func readRest(s *Store) (map[point]string, error) {
	inner, err := s.merged(math.MinInt64, math.MaxInt64)
	if err != nil {
		return nil, err
	}
	q := s.guard.Querier(inner)
	defer q.Close()
	got := make(map[point]string)
	set := q.Select(context.Background(), false, nil, labels.MustNewMatcher(labels.MatchRegexp, "__name__", ".+"))
	var it chunkenc.Iterator
	for set.Next() {
		it = set.At().Iterator(it)
		for it.Next() != chunkenc.ValNone {
			t, v := it.At()
			got[point{set.At().Labels().String(), t}] = fmt.Sprint(v)
		}
		if err := it.Err(); err != nil {
			return got, err
		}
	}
	return got, set.Err()
}

// check opens the directory, until everything that is in service can be read, and holds
// what it reads against what was written.
func (sp *specimen) check(t *testing.T, dir string) *Store {
	t.Helper()
	var s *Store
	var got map[point]string
	for range 3 {
		o := damagedOptions(dir)
		o.Registerer = prometheus.NewRegistry()
		var err error
		if s, err = open(o, hooks{fsync: (*os.File).Sync, usage: measure, segmentSize: 32 << 10}); err != nil {
			t.Fatalf("the store does not open: %v", err)
		}
		if err := s.damage.ScrubOnce(context.Background()); err != nil {
			t.Fatal(err)
		}
		got, err = readRest(s)
		if err == nil {
			break
		}
		if len(s.Damage()) == 0 {
			t.Fatalf("an error of a read is not noted: %v", err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = nil
	}
	if s == nil {
		t.Fatal("what is damaged stays in service over restarts")
	}
	sp.compare(t, s, got)
	return s
}

func (sp *specimen) compare(t *testing.T, s *Store, got map[point]string) {
	t.Helper()
	missing := 0
	for p, v := range sp.points {
		if got[p] == v {
			continue
		}
		if _, other := got[p]; other {
			t.Errorf("%v is %s, want %s", p, got[p], v)
		}
		missing++
		if !slices.ContainsFunc(s.Damage(), func(r damage.Range) bool { return r.Overlaps(p.t, p.t) }) {
			t.Errorf("%v at %s is missing, and outside of %v", p.series, time.UnixMilli(p.t).UTC().Sub(start), s.Damage())
			return
		}
	}
	for p := range got {
		if _, sent := sp.points[p]; !sent {
			t.Errorf("%v was never written", p)
			return
		}
	}
	q, err := s.Querier(math.MinInt64, math.MaxInt64)
	if err == nil {
		defer q.Close()
	}
	certain := slices.ContainsFunc(s.Damage(), func(r damage.Range) bool { return !r.Suspect })
	if errors.Is(err, ErrDamaged) != certain {
		t.Errorf("a query over all time: %v, with %v", err, s.Damage())
	}
}

// TestDamageIsContained damages one file of a copy of a data directory. The store must open,
// answer nothing that was not written, and lack nothing but in the ranges that it reports,
// also after it has taken new series and was opened again.
func TestDamageIsContained(t *testing.T) {
	for _, clean := range []bool{true, false} {
		sp := newSpecimen(t, clean)
		kinds := sp.files(t)
		for _, kind := range []string{"wal", "wbl", "checkpoint", "chunks_head", "block index", "block chunks", "block meta.json", "block tombstones", "metadata.starling", "damage/verified", "damage/extent"} {
			if len(kinds[kind]) == 0 {
				t.Errorf("the specimen has no %s: %v", kind, slices.Sorted(maps.Keys(kinds)))
				continue
			}
			for _, h := range harms() {
				t.Run(fmt.Sprintf("clean=%v/%s/%s", clean, kind, h.name), func(t *testing.T) {
					t.Parallel()
					for seed := range *damageSeeds {
						sp.trial(t, kinds[kind], h, uint64(seed), clean)
						if t.Failed() {
							t.Fatalf("seed %d", seed)
						}
					}
				})
			}
		}
	}
}

func (sp *specimen) trial(t *testing.T, files []string, h harm, seed uint64, clean bool) {
	t.Helper()
	rnd := rand.New(rand.NewPCG(seed, 7))
	file := files[rnd.IntN(len(files))]
	if !clean && (h.name == "cut" || h.name == "gone") && sp.unnoted(t, file) {
		return // nothing tells that there was more
	}
	dir := filepath.Join(t.TempDir(), "data")
	if err := os.CopyFS(dir, os.DirFS(sp.dir)); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, file)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.apply(rnd, path, int(info.Size())); err != nil {
		t.Fatal(err)
	}
	t.Logf("seed %d: %s in %s of %d bytes", seed, h.name, file, info.Size())
	copied := specimen{dir: dir, points: maps.Clone(sp.points)}
	s := copied.check(t, dir)
	noted := len(s.Damage())
	if h.name == "nothing" && noted > 0 {
		t.Errorf("damage in what is whole: %v", s.Damage())
	}
	for i := range 3 {
		d := 9*time.Minute + time.Duration(i)*time.Second
		b := &series.Batch{}
		for j := range 3 {
			b.Series = append(b.Series, floats(name(fmt.Sprint("fresh", i, "_", j)), float64(at(d)), 1, float64(at(d-time.Minute)), 2))
		}
		copied.write(t, s, b)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = copied.check(t, dir)
	if len(s.Damage()) > noted {
		t.Errorf("a second start finds more: %v", s.Damage())
	}
	if err := errors.Join(s.Close(), os.RemoveAll(filepath.Dir(dir))); err != nil {
		t.Fatal(err)
	}
}

// unnoted tells whether a file grew after the lengths were noted: the newest segments of a
// store that was killed.
func (sp *specimen) unnoted(t *testing.T, file string) bool {
	t.Helper()
	dir := filepath.Dir(file)
	if dir != "wal" && dir != "wbl" {
		return false
	}
	first, last, err := wlog.Segments(filepath.Join(sp.dir, dir))
	if err != nil {
		t.Fatal(err)
	}
	return last > first && filepath.Base(file) >= filepath.Base(wlog.SegmentName("", last-1))
}
