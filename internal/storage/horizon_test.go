package storage

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	promstorage "github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunks"

	"github.com/starling-tsdb/starling/internal/expiry"
	"github.com/starling-tsdb/starling/internal/series"
)

// withBlocks makes a data directory with blocks of two hours, one series each, an hour apart,
// that begin so long ago; the series are named after that, in hours.
func withBlocks(t *testing.T, hours ...int) Options {
	t.Helper()
	o := testOptions(t.TempDir())
	for _, h := range hours {
		old := at(-time.Duration(h) * time.Hour)
		ls := labels.FromStrings("__name__", "old", "block", formatTime(old))
		_, err := tsdb.CreateBlock([]promstorage.Series{promstorage.NewListSeries(ls, []chunks.Sample{
			chunks.GenerateSamples(int(old), 1)[0], chunks.GenerateSamples(int(old)+3_600_000, 1)[0],
		})}, o.Dir, 0, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
	}
	return o
}

// times returns when the samples of a store are, in its own answers, in hours before start.
func times(t *testing.T, s *Store) []float64 {
	t.Helper()
	var hours []float64
	for p := range maps.Keys(read(t, s)) {
		hours = append(hours, float64(at(0)-p.t)/3_600_000)
	}
	slices.Sort(hours)
	return hours
}

func wantTimes(t *testing.T, when string, s *Store, want ...float64) {
	t.Helper()
	if got := times(t, s); !slices.Equal(got, want) {
		t.Errorf("%s: there are samples %v hours old, want %v", when, got, want)
	}
}

func mustAdopt(t *testing.T, s *Store, told expiry.Horizon) {
	t.Helper()
	if err := s.AdoptHorizon(context.Background(), told); err != nil {
		t.Fatal(err)
	}
}

// What is behind the horizon is in no answer, though its block is there as long as the TSDB has
// not looked, or because half of it is not expired.
func TestExpiredSamplesAreNotAnswered(t *testing.T) {
	o := withBlocks(t, 100, 50)
	s := mustOpen(t, o, hooks{})
	mustAppend(t, s, batch(series.Series{Labels: name("new"), Samples: []series.Sample{{T: at(0), V: 1}}, Exemplars: []exemplar.Exemplar{
		{Labels: labels.FromStrings("id", "1"), Ts: at(-time.Hour), HasTs: true}, {Labels: labels.FromStrings("id", "2"), Ts: at(0), HasTs: true},
	}}))
	wantTimes(t, "at first", s, 0, 49, 50, 99, 100)
	mustAdopt(t, s, expiry.Horizon{Time: expiry.None, Size: at(-49 * time.Hour)})
	wantTimes(t, "when some are expired", s, 0, 49)
	if metas, err := s.BlockMetas(); err != nil || len(metas) != 2 {
		t.Fatalf("%v, %v: the test is about blocks that are still there", metas, err)
	}
	if h, err := s.Holding(); err != nil || h.Oldest != at(-49*time.Hour) {
		t.Errorf("the oldest sample is said to be of %s, %v", formatTime(h.Oldest), err)
	}
	for _, hints := range []*promstorage.SelectHints{
		nil, {Start: math.MinInt64, End: math.MaxInt64}, {Start: at(-200 * time.Hour), End: at(-49 * time.Hour)},
		{Start: at(-200 * time.Hour), End: at(-49 * time.Hour), DisableTrimming: true}, {Start: at(-200 * time.Hour), End: at(-60 * time.Hour)},
	} {
		for _, p := range chunkPoints(t, s, math.MinInt64, hints) {
			if p < at(-49*time.Hour) {
				t.Errorf("hints %+v: chunks have a sample of %s", hints, formatTime(p))
			}
		}
	}
	if got := chunkPoints(t, s, at(-200*time.Hour), &promstorage.SelectHints{Start: at(-200 * time.Hour), End: at(0)}); len(got) != 2 {
		t.Errorf("chunks have samples of %v, want two", got)
	}
	if got := labelValues(t, s, math.MinInt64, math.MaxInt64); len(got) != 1 {
		t.Errorf("labels of %v, want those of one block", got)
	}
	if got := labelValues(t, s, math.MinInt64, at(-49*time.Hour)-1); len(got) != 0 {
		t.Errorf("labels of %v before the horizon", got)
	}
	mustAdopt(t, s, expiry.Horizon{Time: expiry.None, Size: at(-4 * time.Hour)})
	wantTimes(t, "when all blocks are", s, 0)
	q, err := s.ExemplarQuerier(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	// The exemplar lies after the horizon; a later one hides it.
	for _, want := range []int{2, 1} {
		res, err := q.Select(math.MinInt64, math.MaxInt64, []*labels.Matcher{everything()})
		if err != nil || len(res) != 1 || len(res[0].Exemplars) != want {
			t.Errorf("exemplars %+v, %v, want %d", res, err, want)
		}
		h := s.Horizon()
		h.Time = at(-time.Minute)
		s.horizon.Store(&h)
	}
}

// chunkPoints returns the times of the samples in a store's chunks.
func chunkPoints(t *testing.T, s *Store, mint int64, hints *promstorage.SelectHints) (ts []int64) {
	t.Helper()
	q, err := s.ChunkQuerier(mint, math.MaxInt64)
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	set := q.Select(context.Background(), true, hints, everything())
	for set.Next() {
		for it := set.At().Iterator(nil); it.Next(); {
			for samples := it.At().Chunk.Iterator(nil); samples.Next() != 0; {
				ts = append(ts, samples.AtT())
			}
		}
	}
	if err := set.Err(); err != nil {
		t.Fatal(err)
	}
	return ts
}

func labelValues(t *testing.T, s *Store, mint, maxt int64) []string {
	t.Helper()
	q, err := s.Querier(mint, maxt)
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	values, _, err := q.LabelValues(context.Background(), "block", nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range values {
		values[i] = strings.Clone(values[i])
	}
	return values
}

// An expired sample does not come in again: from a client it is as one that is too old, from
// peers it is left out, and what is left of that is stored.
func TestExpiredSamplesAreNotStored(t *testing.T) {
	from := giver(t, 3*time.Hour) // from -11 h on
	o := importOptions(t.TempDir())
	o.OutOfOrderWindow = 100 * time.Hour
	s := mustOpen(t, o, hooks{})
	mustAppend(t, s, batch(sampleAt(name("live"), at(0))))
	mustAdopt(t, s, expiry.Horizon{Time: expiry.None, Size: at(-9*time.Hour - 30*time.Minute)})
	if n, err := s.ImportBlock(context.Background(), at(-11*time.Hour), at(-10*time.Hour), windowOf(t, from, at(-11*time.Hour), at(-10*time.Hour))); n != 0 || err != nil {
		t.Errorf("an expired block: %d samples, %v", n, err)
	}
	if left := append(leftovers(t, o.Dir), blockDirs(t, o.Dir)...); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if n := mustImport(t, s, from, at(-10*time.Hour), at(-9*time.Hour)); n != 30*5 {
		t.Errorf("a block that is half expired: %d samples, want %d", n, 30*5)
	}
	got := mustAppend(t, s, batch(sampleAt(name("late"), at(-10*time.Hour), at(-9*time.Hour)), sampleAt(name("gone"), at(-10*time.Hour))))
	if len(got) != 2 || got[0].Reason != series.Invalid || !strings.Contains(got[0].Message, "past retention") || got[1].Series != 1 {
		t.Errorf("of late samples %+v were refused", got)
	}
	b := batch(sampleAt(name("handed"), at(-10*time.Hour), at(-9*time.Hour)), sampleAt(name("gone"), at(-10*time.Hour)))
	if err := s.Import(context.Background(), b); err != nil {
		t.Errorf("import: %v", err)
	}
	if got := s.db.Head().NumSeries(); got != 3 {
		t.Errorf("%d series in the head, want those of samples that are not expired", got)
	}
	for p := range read(t, s) {
		if p.t < at(-9*time.Hour-30*time.Minute) {
			t.Errorf("%s has a sample of %s", p.series, formatTime(p.t))
		}
	}
}

// A store expires its samples by itself, when they are as old as the newest one less the
// retention; and the TSDB deletes their blocks.
func TestTimeRaisesTheHorizon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := withBlocks(t, 100, 50)
		o.RetentionTime = 72 * time.Hour
		var ahead atomic.Int64
		o.Now = func() time.Time { return start.Add(time.Duration(ahead.Load())) }
		s := mustOpen(t, o, hooks{})
		wantTimes(t, "while nobody writes", s, 49, 50, 99, 100)
		ahead.Store(int64(1000 * time.Hour))
		<-time.After(3 * time.Minute)
		wantTimes(t, "while nobody writes, a thousand hours on", s, 49, 50, 99, 100)
		ahead.Store(0)
		mustAppend(t, s, batch(sampleAt(name("new"), at(0))))
		<-time.After(3 * time.Minute)
		wantTimes(t, "with new samples", s, 0, 49, 50)
		if metas, err := s.BlockMetas(); err != nil || len(metas) != 1 {
			t.Errorf("%d blocks, %v, want one", len(metas), err)
		}
		if h := s.Horizon(); h != (expiry.Horizon{Time: at(-72 * time.Hour), Size: expiry.None}) {
			t.Errorf("horizon %+v", h)
		}
	})
}

// The size that is allowed raises the horizon, and not the part of time.
func TestSizeRaisesTheHorizon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := withBlocks(t, 100, 50, 10)
		s := mustOpen(t, o, hooks{})
		blocks, logs := s.db.Blocks(), s.db.Head().Size()
		size := blocks[0].Size()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		o.RetentionSize = logs + 2*size + size/2
		s = mustOpen(t, o, hooks{})
		wantTimes(t, "with room for two blocks", s, 9, 10, 49, 50)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		o.RetentionSize = 1
		o.RetentionTime = 1000 * time.Hour
		r := prometheus.NewRegistry()
		o.Registerer = r
		s = mustOpen(t, o, hooks{})
		mustAppend(t, s, batch(sampleAt(name("new"), at(0))))
		<-time.After(3 * time.Minute)
		wantTimes(t, "without room", s, 0)
		if metas, err := s.BlockMetas(); err != nil || len(metas) != 0 {
			t.Errorf("%d blocks, %v, want none", len(metas), err)
		}
		if h := s.Horizon(); h.Size != at(-9*time.Hour)+1 {
			t.Errorf("horizon %+v, want the end of the last block", h)
		}
		if err := testutil.GatherAndCompare(r, strings.NewReader(`
# HELP starling_storage_horizon_timestamp_seconds Time before which samples are expired, in seconds since 1970; 0 if none are. It never falls, and is to be the same on all nodes.
# TYPE starling_storage_horizon_timestamp_seconds gauge
starling_storage_horizon_timestamp_seconds `+
			strconv.FormatFloat(float64(at(-9*time.Hour)+1)/1000, 'g', -1, 64)+"\n"), "starling_storage_horizon_timestamp_seconds"); err != nil {
			t.Error(err)
		}
	})
}

// The horizon is where it was after a restart, a power loss, a reopening, with a longer
// retention, and with a clock that was set back.
func TestHorizonNeverFalls(t *testing.T) { synctest.Test(t, testHorizonNeverFalls) }

func testHorizonNeverFalls(t *testing.T) {
	o := withBlocks(t, 100, 50)
	o.RetentionTime = 72 * time.Hour
	d := newDisk()
	s := mustOpen(t, o, hooks{fsync: d.fsync})
	mustAppend(t, s, batch(sampleAt(name("new"), at(0))))
	s.expire()
	mustAdopt(t, s, expiry.Horizon{Time: expiry.None, Size: at(-49 * time.Hour)})
	want := expiry.Horizon{Time: at(-72 * time.Hour), Size: at(-49 * time.Hour)}
	mustAdopt(t, s, expiry.Horizon{Time: at(-90 * time.Hour), Size: at(-90 * time.Hour)})
	mustAdopt(t, s, expiry.Horizon{Time: at(0), Size: at(0)}) // not to be believed
	if got := s.Horizon(); got != want {
		t.Fatalf("horizon %+v, want %+v", got, want)
	}
	power := d.image(t, o.Dir)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	blocks, err := filepath.Glob(filepath.Join(power, "0*"))
	if err != nil || len(blocks) == 0 {
		t.Fatal(blocks, err)
	}
	for _, b := range blocks { // nobody has synced them
		if err := os.RemoveAll(b); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{o.Dir, power} {
		o.Dir, o.RetentionTime = dir, 1000*time.Hour
		o.Now = func() time.Time { return start.Add(-30 * time.Hour) }
		s := mustOpen(t, o, hooks{})
		if got := s.Horizon(); got != want {
			t.Errorf("horizon %+v after a restart, want %+v", got, want)
		}
		_ = s.fence.raise(errors.New("test"))
		<-time.After(2 * firstPause)
		if err := s.Ready(); err != nil {
			t.Fatal(err)
		}
		if got := s.Horizon(); got != want {
			t.Errorf("horizon %+v after a reopening, want %+v", got, want)
		}
		if got := times(t, s); slices.Max(got) > 49 {
			t.Errorf("there are samples %v hours old", got)
		}
	}
}

// A horizon that cannot be written down is not used.
func TestHorizonIsWrittenDownFirst(t *testing.T) {
	o := withBlocks(t, 100)
	failing := errors.New("no space left on device")
	var fail error
	s := mustOpen(t, o, hooks{fsync: func(f *os.File) error {
		if strings.Contains(f.Name(), horizonFile) {
			return fail
		}
		return f.Sync()
	}})
	fail = failing
	told := expiry.Horizon{Time: expiry.None, Size: at(-49 * time.Hour)}
	if err := s.AdoptHorizon(context.Background(), told); !errors.Is(err, failing) {
		t.Errorf("adopted without being written down: %v", err)
	}
	if gone := s.expired(s.db.Blocks()); len(gone) != 0 {
		t.Errorf("%v would be deleted", gone)
	}
	wantTimes(t, "before it is written down", s, 99, 100)
	fail = nil
	mustAdopt(t, s, told)
	wantTimes(t, "then", s)
	if gone := s.expired(s.db.Blocks()); len(gone) != 1 {
		t.Errorf("%v would be deleted, want the block", gone)
	}
}

// A damaged file costs what it said, not the start.
func TestDamagedHorizon(t *testing.T) {
	o := withBlocks(t, 100, 50)
	path := filepath.Join(o.Dir, horizonFile)
	var log strings.Builder
	o.Logger = slog.New(slog.NewTextHandler(io.Writer(&log), nil))
	s := mustOpen(t, o, hooks{})
	mustAdopt(t, s, expiry.Horizon{Time: expiry.None, Size: at(-49 * time.Hour)})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range whole {
		flipped := slices.Clone(whole)
		flipped[i] ^= 1 << (i % 8)
		if err := os.WriteFile(path, flipped, 0o600); err != nil {
			t.Fatal(err)
		}
		s := &Store{opts: o}
		if err := s.loadHorizon(); err != nil || s.Horizon() != expiry.Never() {
			t.Fatalf("byte %d: %+v, %v", i, s.Horizon(), err)
		}
	}
	s = mustOpen(t, o, hooks{})
	mustAppend(t, s, batch(sampleAt(name("new"), at(0))))
	s.expire()
	if got := s.Horizon(); got != (expiry.Horizon{Time: at(-360 * time.Hour), Size: expiry.None}) {
		t.Errorf("horizon %+v, want that of the clock", got)
	}
	if err := s.Close(); err != nil { // it logs until then
		t.Fatal(err)
	}
	if _, err := os.Stat(path + ".damaged"); err != nil || !strings.Contains(log.String(), "damaged; it is set aside") {
		t.Errorf("%v, log %s", err, &log)
	}
}
