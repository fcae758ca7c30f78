package storage

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb"

	"github.com/starling-tsdb/starling/internal/damage"
)

// keepZone keeps what does not say that it is of another zone.
func keepZone(ls labels.Labels) bool { return ls.Get("zone") != "z1" }

func keptOf(points map[point]string) map[point]string {
	kept := maps.Clone(points)
	maps.DeleteFunc(kept, func(p point, _ string) bool { return strings.Contains(p.series, `zone="z1"`) })
	return kept
}

// blockBytes returns the bytes of the blocks below a directory.
func blockBytes(t testing.TB, dir string) (n int64) {
	t.Helper()
	for _, block := range blockDirs(t, dir) {
		err := filepath.WalkDir(block, func(_ string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			info, err := e.Info()
			n += info.Size()
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return n
}

// pruneable is a store with two blocks of which something is refused, -11 to -8 h, one of
// which nothing is, -7 h, one of which all is, -6 h, and a head with three series, one of
// which is refused.
func pruneable(t testing.TB, o Options, hk hooks) *Store {
	t.Helper()
	if hk.fsync == nil {
		hk.fsync = newDisk().fsync
	}
	from := giver(t, 3*time.Hour)
	s := mustOpen(t, o, hk)
	s.db.DisableCompactions()
	zone := func(z string) labels.Labels { return labels.FromStrings("__name__", "only", "zone", z) }
	mustAppend(t, s, batch(sampleAt(name("live"), at(0)), sampleAt(zone("z0"), at(0)), sampleAt(zone("z1"), at(0))))
	mustImport(t, s, from, at(-11*time.Hour), at(-9*time.Hour))
	mustImport(t, s, from, at(-9*time.Hour), at(-8*time.Hour))
	for i, z := range []string{"z0", "z1"} {
		ts := at(time.Duration(-7+i) * time.Hour)
		if _, err := s.ImportBlock(t.Context(), ts, ts+1000, chunkSetOf(chunkSeries(zone(z), floatChunk(t, 1, ts, ts+500)))); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func mustPrune(t testing.TB, s *Store) PruneResult {
	t.Helper()
	r, err := s.Prune(context.Background(), keepZone)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// ids are those of the blocks in service, by the start of their time.
func ids(t testing.TB, s *Store) map[int64]string {
	t.Helper()
	metas, err := s.BlockMetas()
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[int64]string)
	for _, m := range metas {
		got[m.MinTime] = m.ULID.String()
	}
	return got
}

func TestPrune(t *testing.T) {
	reg := prometheus.NewRegistry()
	o := importOptions(filepath.Join(t.TempDir(), "data"))
	o.Registerer = reg
	s := pruneable(t, o, hooks{})
	before, blocks, size := read(t, s), ids(t, s), blockBytes(t, o.Dir)
	head := point{labels.FromStrings("__name__", "only", "zone", "z1").String(), at(0)}
	want := keptOf(before)
	want[head] = before[head] // until it is in a block

	r := mustPrune(t, s)
	if r.Blocks != 4 || r.Rewritten != 2 || r.Deleted != 1 || r.Series != 2+2+1 || r.HeadSeries != 1 || r.Damaged+r.Full != 0 || r.Clean() {
		t.Errorf("%+v", r)
	}
	if freed := size - blockBytes(t, o.Dir); freed < size/5 || r.Bytes != freed {
		t.Errorf("%d of %d bytes freed, and the result says %d", freed, size, r.Bytes)
	}
	err := testutil.GatherAndCompare(reg, strings.NewReader(`
# HELP starling_storage_prune_blocks_total Blocks looked at for series that this node does not own, by what became of them.
# TYPE starling_storage_prune_blocks_total counter
starling_storage_prune_blocks_total{result="damaged"} 0
starling_storage_prune_blocks_total{result="deleted"} 1
starling_storage_prune_blocks_total{result="disk_full"} 0
starling_storage_prune_blocks_total{result="kept"} 1
starling_storage_prune_blocks_total{result="rewritten"} 2
# HELP starling_storage_pruned_series_total Series dropped from blocks because this node does not own them, once for each block.
# TYPE starling_storage_pruned_series_total counter
starling_storage_pruned_series_total 5
# HELP starling_storage_prune_head_series Series of the head that this node did not own when blocks were last pruned; they are pruned when they are in blocks.
# TYPE starling_storage_prune_head_series gauge
starling_storage_prune_head_series 1
`), "starling_storage_prune_blocks_total", "starling_storage_pruned_series_total", "starling_storage_prune_head_series")
	if err != nil {
		t.Error(err)
	}
	after := ids(t, s)
	if len(after) != 3 || after[at(-7*time.Hour)] != blocks[at(-7*time.Hour)] || after[at(-11*time.Hour)] == blocks[at(-11*time.Hour)] {
		t.Errorf("blocks %v, before %v", after, blocks)
	}
	check := func(when string) {
		t.Helper()
		if got := read(t, s); !maps.Equal(got, want) {
			t.Errorf("%s: %d samples, want %d of %d", when, len(got), len(want), len(before))
		}
		if left := leftovers(t, o.Dir); len(left) > 0 {
			t.Errorf("%s: left %v", when, left)
		}
		if err := s.damage.ScrubOnce(t.Context()); err != nil || len(s.Damage()) > 0 {
			t.Errorf("%s: damage %v, %v", when, s.Damage(), err)
		}
	}
	check("after the first run")
	if r := mustPrune(t, s); r.Blocks != 3 || r.Rewritten+r.Deleted+r.Series != 0 || !maps.Equal(ids(t, s), after) {
		t.Errorf("again: %+v", r)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	o.Registerer = nil
	s = mustOpen(t, o, hooks{fsync: newDisk().fsync})
	check("after a restart")
	for _, m := range s.db.BlockMetas() {
		if m.Compaction.Level != 1 || !m.Compaction.FromOutOfOrder() || len(m.Compaction.Sources) != 1 {
			t.Errorf("%+v", m.Compaction)
		}
	}
	// The refused series of the head goes once it is in a block.
	mustAppend(t, s, batch(sampleAt(name("live"), at(3*time.Hour))))
	want[point{name("live").String(), at(3 * time.Hour)}] = "1"
	if err := s.db.Compact(t.Context()); err != nil {
		t.Fatal(err)
	}
	check("after compaction")
	delete(want, head)
	if r := mustPrune(t, s); r.Rewritten != 1 || !r.Clean() {
		t.Errorf("after compaction: %+v", r)
	}
	check("after the second run")
}

// TestPruneAppliesTombstones prunes blocks with deleted samples, in one of them all that is
// kept.
func TestPruneAppliesTombstones(t *testing.T) {
	o := importOptions(filepath.Join(t.TempDir(), "data"))
	s := pruneable(t, o, hooks{})
	zone := labels.MustNewMatcher(labels.MatchEqual, "zone", "z0")
	for _, mint := range []time.Duration{-10 * time.Hour, -8*time.Hour - time.Minute/2} {
		if err := s.db.Delete(t.Context(), at(mint), at(-7*time.Hour)-1, zone); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.db.Delete(t.Context(), at(-9*time.Hour), at(-8*time.Hour)-1, zone); err != nil {
		t.Fatal(err)
	}
	want := keptOf(read(t, s))
	if r := mustPrune(t, s); r.Deleted+r.Rewritten != 3 {
		t.Errorf("%+v", r)
	}
	got := read(t, s)
	delete(got, point{labels.FromStrings("__name__", "only", "zone", "z1").String(), at(0)})
	if !maps.Equal(got, want) {
		t.Errorf("%d samples, want %d", len(got), len(want))
	}
}

// TestInterruptedPrune kills a run at many points, and takes the power away.
func TestInterruptedPrune(t *testing.T) {
	d := newDisk()
	o := importOptions(filepath.Join(t.TempDir(), "data"))
	s := pruneable(t, o, hooks{fsync: d.fsync})
	all := read(t, s)
	kept := keptOf(all)
	var images []string
	kill := func() {
		image := filepath.Join(t.TempDir(), "data")
		if err := os.CopyFS(image, os.DirFS(o.Dir)); err != nil {
			t.Error(err)
		}
		images = append(images, image)
	}
	d.before = func() error {
		kill()
		images = append(images, d.image(t, o.Dir))
		return nil
	}
	replaced := filepath.Join(o.Dir, ids(t, s)[at(-9*time.Hour)])
	old := filepath.Join(t.TempDir(), "old")
	if err := os.CopyFS(old, os.DirFS(replaced)); err != nil {
		t.Fatal(err)
	}
	calls := 0
	_, err := s.Prune(t.Context(), func(ls labels.Labels) bool {
		if calls++; calls%3 == 0 {
			kill()
		}
		return keepZone(ls)
	})
	if err != nil {
		t.Fatal(err)
	}
	d.before = nil
	kill()
	images = append(images, d.image(t, o.Dir))
	// The block is in place, the old one is still there, or half removed.
	for _, files := range []string{"", "index", "chunks"} {
		kill()
		to := filepath.Join(images[len(images)-1], filepath.Base(replaced))
		if files != "" {
			to += deletionSuffix
		}
		if err := os.CopyFS(to, os.DirFS(old)); err != nil {
			t.Fatal(err)
		}
		if files != "" {
			if err := os.RemoveAll(filepath.Join(to, files)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(images) < 40 {
		t.Errorf("%d images", len(images))
	}
	for i, dir := range images {
		after := o
		after.Dir = dir
		s := mustOpen(t, after, hooks{fsync: newDisk().fsync})
		got := read(t, s)
		if !maps.Equal(keptOf(got), kept) {
			t.Errorf("image %d: %d samples, want %d", i, len(keptOf(got)), len(kept))
		}
		for p, v := range got {
			if all[p] != v {
				t.Errorf("image %d: %v is %s, was %s", i, p, v, all[p])
			}
		}
		if left := leftovers(t, dir); len(left) > 0 || len(s.Damage()) > 0 {
			t.Errorf("image %d: left %v, damage %v", i, left, s.Damage())
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestFailedPruneFencesNothing fails each sync of a run, one after the other.
func TestFailedPruneFencesNothing(t *testing.T) {
	failing := errors.New("this disk fails")
	d := newDisk()
	countdown := 0
	d.before = func() error {
		if countdown--; countdown == 0 {
			return failing
		}
		return nil
	}
	o := importOptions(filepath.Join(t.TempDir(), "data"))
	s := pruneable(t, o, hooks{fsync: d.fsync})
	kept := keptOf(read(t, s))
	for n := 1; ; n++ {
		countdown = n
		_, err := s.Prune(t.Context(), keepZone)
		if err == nil {
			break
		}
		if !errors.Is(err, failing) || s.Ready() != nil {
			t.Errorf("sync %d: %v, ready %v", n, err, s.Ready())
		}
		if got := keptOf(read(t, s)); !maps.Equal(got, kept) {
			t.Errorf("sync %d: %d samples, want %d", n, len(got), len(kept))
		}
		if n > 100 {
			t.Fatal("it never ends")
		}
	}
	countdown = 0
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if got := keptOf(read(t, mustOpen(t, o, hooks{}))); !maps.Equal(got, kept) {
		t.Errorf("%d samples after a restart, want %d", len(got), len(kept))
	}
}

// TestPruneEnds cancels a run, and closes the store, in the middle.
func TestPruneEnds(t *testing.T) {
	for name, want := range map[string]error{"cancel": context.Canceled, "close": ErrClosed} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := importOptions(filepath.Join(t.TempDir(), "data"))
				s := pruneable(t, o, hooks{})
				kept := keptOf(read(t, s))
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				end := map[string]func(){"cancel": cancel, "close": func() { go s.Close() }}[name]
				calls := 0
				_, err := s.Prune(ctx, func(ls labels.Labels) bool {
					if calls++; calls == 14 { // of the 12 series in blocks
						end()
						synctest.Wait()
					}
					return keepZone(ls)
				})
				if !errors.Is(err, want) {
					t.Errorf("%v", err)
				}
				if err := s.Close(); err != nil {
					t.Error(err)
				}
				if left := leftovers(t, o.Dir); len(left) > 0 {
					t.Errorf("left %v", left)
				}
				s = mustOpen(t, o, hooks{fsync: newDisk().fsync})
				if got := keptOf(read(t, s)); !maps.Equal(got, kept) {
					t.Errorf("%d samples, want %d", len(got), len(kept))
				}
			})
		})
	}
}

// TestPruneLeavesDamageAlone damages a block, which is noted before or not.
func TestPruneLeavesDamageAlone(t *testing.T) {
	for name, noted := range map[string]bool{"noted before": true, "found by the run": false} {
		t.Run(name, func(t *testing.T) {
			o := importOptions(filepath.Join(t.TempDir(), "data"))
			s := pruneable(t, o, hooks{})
			id := ids(t, s)[at(-9*time.Hour)]
			flipAll(t, glob(t, filepath.Join(o.Dir, id, "chunks", "*"))[0], 8)
			if noted {
				if err := s.damage.ScrubOnce(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			for range 2 {
				r := mustPrune(t, s)
				if r.Damaged != 1 || r.Clean() {
					t.Errorf("%+v", r)
				}
				if rs := s.Damage(); len(rs) != 1 || rs[0].Kind != damage.Block || rs[0].Name != id || ids(t, s)[at(-9*time.Hour)] != id {
					t.Errorf("damage %v, blocks %v", rs, ids(t, s))
				}
			}
			if got := ids(t, s); len(got) != 3 {
				t.Errorf("blocks %v", got)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = mustOpen(t, o, hooks{fsync: newDisk().fsync})
			if rs := s.Damage(); len(rs) != 1 || rs[0].Name != id || len(ids(t, s)) != 2 {
				t.Errorf("after a restart: damage %v, blocks %v", rs, ids(t, s))
			}
		})
	}
}

// TestPruneOfAnExpiredBlock takes a block out of service, as retention does, while it is
// written anew: it must not come back.
func TestPruneOfAnExpiredBlock(t *testing.T) {
	o := importOptions(filepath.Join(t.TempDir(), "data"))
	s := pruneable(t, o, hooks{})
	blocks := ids(t, s)
	dir := filepath.Join(o.Dir, blocks[at(-9*time.Hour)])
	calls := 0
	r, err := s.Prune(t.Context(), func(ls labels.Labels) bool {
		if calls++; calls == 14 { // of the 12 series in blocks; the smaller one goes first
			err := s.compactor.do(t.Context(), s.fence, func([]*tsdb.Block) error {
				return os.Rename(dir, dir+deletionSuffix)
			})
			if err != nil {
				t.Error(err)
			}
		}
		return keepZone(ls)
	})
	if err != nil || r.Rewritten != 1 || r.Deleted != 1 {
		t.Errorf("%+v, %v", r, err)
	}
	after := ids(t, s)
	if len(after) != 2 || after[at(-9*time.Hour)] != "" || after[at(-11*time.Hour)] == blocks[at(-11*time.Hour)] {
		t.Errorf("blocks %v", after)
	}
}

// TestPruneOnAFullDisk has room for deleting only, and then for all.
func TestPruneOnAFullDisk(t *testing.T) {
	var mu sync.Mutex
	u := usage{free: 1 << 40, total: 1 << 41}
	s := pruneable(t, importOptions(filepath.Join(t.TempDir(), "data")), hooks{usage: func(string) (usage, error) {
		mu.Lock()
		defer mu.Unlock()
		return u, nil
	}})
	for _, free := range []uint64{u.pruneReserve() + maxSegment, u.pruneReserve() + maxSegment + 1<<20} {
		mu.Lock()
		u.free = free
		mu.Unlock()
		r, err := s.Prune(t.Context(), keepZone)
		if full := free < u.pruneReserve()+maxSegment+1<<20; full {
			if !errors.Is(err, ErrDiskFull) || r.Full != 2 || r.Deleted != 1 || r.Rewritten != 0 {
				t.Errorf("%+v, %v", r, err)
			}
		} else if err != nil || r.Full != 0 || r.Rewritten != 2 {
			t.Errorf("%+v, %v", r, err)
		}
	}
}

// TestPruneBesideEverything appends, queries, imports and compacts meanwhile: no query lacks
// a kept sample.
func TestPruneBesideEverything(t *testing.T) {
	from := giver(t, 2*time.Hour)
	kept := keptOf(between(read(t, from), at(-11*time.Hour), at(-9*time.Hour)))
	s := mustOpen(t, importOptions(filepath.Join(t.TempDir(), "data")), hooks{fsync: newDisk().fsync})
	mustAppend(t, s, batch(sampleAt(name("live"), at(0))))
	for h := time.Duration(-11); h < -9; h++ {
		mustImport(t, s, from, at(h*time.Hour), at((h+1)*time.Hour))
	}
	done := make(chan struct{})
	var others sync.WaitGroup
	for _, work := range []func(n int){
		func(n int) { mustAppend(t, s, batch(sampleAt(name("live"), at(time.Duration(n)*time.Millisecond)))) },
		func(int) {
			if got := keptOf(between(read(t, s), at(-11*time.Hour), at(-9*time.Hour))); !maps.Equal(got, kept) {
				t.Errorf("a query finds %d samples, want %d", len(got), len(kept))
			}
			if _, err := s.BlockMetas(); err != nil {
				t.Error(err)
			}
		},
		func(n int) { // the same window again: its block is merged with what is there
			h := time.Duration(-11 + n%2)
			mustImport(t, s, from, at(h*time.Hour), at((h+1)*time.Hour))
			if err := s.db.Compact(t.Context()); err != nil {
				t.Error(err)
			}
		},
	} {
		others.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-done:
					return
				default:
				}
				work(n)
			}
		})
	}
	dropped := 0
	for range 3 {
		dropped += mustPrune(t, s).Series
	}
	close(done)
	others.Wait()
	mustPrune(t, s)
	if got := between(read(t, s), at(-11*time.Hour), at(-9*time.Hour)); !maps.Equal(got, kept) || dropped == 0 {
		t.Errorf("%d samples at last, want %d; %d series dropped", len(got), len(kept), dropped)
	}
}
