package storage

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/starling-tsdb/starling/internal/series"
)

// start is the fixed clock of tests.
var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func testOptions(dir string) Options {
	return Options{
		Dir:              dir,
		Key:              labels.Labels.Hash,
		OutOfOrderWindow: 2 * time.Hour,
		Now:              func() time.Time { return start },
	}
}

// mustOpen opens a store that is closed with the test.
func mustOpen(t testing.TB, o Options, hk hooks) *Store {
	t.Helper()
	if hk.fsync == nil {
		hk.fsync = (*os.File).Sync
	}
	s, err := open(o, hk)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func mustAppend(t testing.TB, s *Store, b *series.Batch) []series.Refusal {
	t.Helper()
	out, err := s.Append(context.Background(), b)
	if err != nil {
		t.Fatal(err)
	}
	return out.Refusals
}

func name(n string) labels.Labels { return labels.FromStrings("__name__", n) }

func at(d time.Duration) int64 { return start.Add(d).UnixMilli() }

func floats(ls labels.Labels, tv ...float64) series.Series {
	sr := series.Series{Labels: ls}
	for i := 0; i < len(tv); i += 2 {
		sr.Samples = append(sr.Samples, series.Sample{T: int64(tv[i]), V: tv[i+1]})
	}
	return sr
}

func batch(srs ...series.Series) *series.Batch { return &series.Batch{Series: srs} }

// point is one stored sample.
type point struct {
	series string
	t      int64
}

// read returns the values of all stored samples, histograms by their print.
func read(t testing.TB, s *Store) map[point]string {
	t.Helper()
	q, err := s.Querier(math.MinInt64, math.MaxInt64)
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	got := make(map[point]string)
	set := q.Select(context.Background(), false, nil, labels.MustNewMatcher(labels.MatchRegexp, "__name__", ".+"))
	for set.Next() {
		it := set.At().Iterator(nil)
		for vt := it.Next(); vt != chunkenc.ValNone; vt = it.Next() {
			p := point{series: set.At().Labels().String(), t: it.AtT()}
			if _, twice := got[p]; twice {
				t.Errorf("%v is returned twice", p)
			}
			switch vt {
			case chunkenc.ValFloat:
				_, v := it.At()
				got[p] = fmt.Sprint(v)
			case chunkenc.ValHistogram:
				_, h := it.AtHistogram(nil)
				got[p] = h.String()
			case chunkenc.ValFloatHistogram:
				_, fh := it.AtFloatHistogram(nil)
				got[p] = fh.String()
			}
		}
		if err := it.Err(); err != nil {
			t.Fatal(err)
		}
	}
	if err := set.Err(); err != nil {
		t.Fatal(err)
	}
	return got
}

func TestOptionsNameTheFlagAtFault(t *testing.T) {
	for _, tc := range []struct {
		flag   string
		change func(*Options)
	}{
		{"--storage.tsdb.path", func(o *Options) { o.Dir = "" }},
		{"--storage.tsdb.path", func(o *Options) { o.Dir = "/dev/null/x" }},
		{"--storage.tsdb.retention.time", func(o *Options) { o.RetentionTime = -1 }},
		{"--storage.tsdb.retention.size", func(o *Options) { o.RetentionSize = -1 }},
		{"--storage.tsdb.out-of-order-time-window", func(o *Options) { o.OutOfOrderWindow = 0 }},
		{"--storage.tsdb.out-of-order-time-window", func(o *Options) { o.OutOfOrderWindow = time.Hour - 1 }},
		{"--storage.wal-sync", func(o *Options) { o.WALSync = "never" }},
		{"--enable-feature=search-api", func(o *Options) { o.Features = []string{"search-api"} }},
		{"--storage.tsdb.delayed-compaction.max-percent=101", func(o *Options) { o.CompactionDelay = 101 }},
		{"MaxExemplars=-1", func(o *Options) { o.MaxExemplars = -1 }},
		{"MaxFuture=-1ns", func(o *Options) { o.MaxFuture = -1 }},
		{"MinBlockDuration=1ns", func(o *Options) { o.MinBlockDuration = 1 }},
	} {
		o := testOptions(t.TempDir())
		tc.change(&o)
		s, err := Open(o)
		if err == nil {
			s.Close()
			t.Errorf("%s: no error", tc.flag)
			continue
		}
		if !strings.HasPrefix(err.Error(), tc.flag) || strings.Contains(err.Error(), "\n") {
			t.Errorf("want one line that begins with %s, got %q", tc.flag, err)
		}
	}
}

func TestOpenTwiceNamesTheFlag(t *testing.T) {
	o := testOptions(t.TempDir())
	mustOpen(t, o, hooks{})
	_, err := Open(o)
	if err == nil || !strings.HasPrefix(err.Error(), "--storage.tsdb.path="+o.Dir) || strings.Contains(err.Error(), "\n") {
		t.Fatalf("want one line naming the flag, got %v", err)
	}
}

func TestFeaturesReachTheTSDB(t *testing.T) {
	o := testOptions(t.TempDir())
	for _, f := range featureNames() {
		if f != "use-uncached-io" {
			o.Features = append(o.Features, f)
		}
	}
	if err := o.complete(); err != nil {
		t.Fatal(err)
	}
	got := o.tsdbOptions()
	if !got.EnableSTAsZeroSample || !got.EnableHistogramSTEncoding ||
		!got.EnableMemorySnapshotOnShutdown || !got.EnableMetadataWALRecords || !got.EnableSTStorage ||
		got.FloatChunkEncoding != chunkenc.EncXOR2 || !got.EnableExemplarStorage {
		t.Errorf("a feature is lost: %+v", got)
	}
	if SupportsFeature("promql-per-step-stats") {
		t.Error("promql-per-step-stats is no feature of the storage")
	}
	o.Features = append(o.Features, "xor2-encoding")
	s := mustOpen(t, o, hooks{})
	mustAppend(t, s, batch(floats(name("a"), float64(at(0)), 1)))
}

// A log is compressed if that is asked for, and read again whether it is or not.
func TestWALCompression(t *testing.T) {
	o := testOptions(t.TempDir())
	sizes := map[bool]int64{}
	var want map[point]string
	for i, compressed := range []bool{false, true, false} {
		o.WALCompression = compressed
		s := mustOpen(t, o, hooks{})
		if got := read(t, s); len(want) > 0 && !maps.Equal(got, want) {
			t.Errorf("read again: %d samples, want %d", len(got), len(want))
		}
		before := logSize(t, o.Dir)
		b := &series.Batch{}
		for n := range 500 {
			b.Series = append(b.Series, floats(name(fmt.Sprint(i, n)), float64(at(time.Duration(i)*time.Second)), 1))
		}
		mustAppend(t, s, b)
		sizes[compressed] = logSize(t, o.Dir) - before
		want = read(t, s)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if sizes[true] > sizes[false]*3/4 {
		t.Errorf("compressed %d bytes, not compressed %d", sizes[true], sizes[false])
	}
}

// logSize is the size of the log in a directory.
func logSize(t *testing.T, dir string) (size int64) {
	t.Helper()
	segments, err := filepath.Glob(filepath.Join(dir, "wal", "0*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, segment := range segments {
		info, err := os.Stat(segment)
		if err != nil {
			t.Fatal(err)
		}
		size += info.Size()
	}
	return size
}

func TestReopenKeepsEverything(t *testing.T) {
	o := testOptions(t.TempDir())
	s := mustOpen(t, o, hooks{})
	mustAppend(t, s, batch(floats(name("a"), float64(at(0)), 1, float64(at(time.Second)), 2)))
	mustAppend(t, s, batch(floats(name("a"), float64(at(-time.Minute)), 3)))
	want := read(t, s)
	if len(want) != 3 {
		t.Fatalf("want 3 samples, got %v", want)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	if _, err := s.Append(context.Background(), batch()); !errors.Is(err, ErrClosed) {
		t.Errorf("append to a closed store: %v", err)
	}
	if err := s.Ready(); !errors.Is(err, ErrClosed) {
		t.Errorf("a closed store is ready: %v", err)
	}
	s = mustOpen(t, o, hooks{})
	if got := read(t, s); !maps.Equal(got, want) {
		t.Errorf("after reopening: %v, want %v", got, want)
	}
	if err := s.Ready(); err != nil {
		t.Error(err)
	}
	if st, err := s.Stats("__name__", 10); err != nil || st.NumSeries != 1 {
		t.Errorf("stats: %+v, %v", st, err)
	}
	if w, err := s.WALReplayStatus(); err != nil || w.Max < 1 {
		t.Errorf("replay status: max %d, %v", w.Max, err)
	}
	if bs, err := s.BlockMetas(); err != nil || len(bs) != 0 {
		t.Errorf("blocks: %v, %v", bs, err)
	}
}
