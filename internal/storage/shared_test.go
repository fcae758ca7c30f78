package storage

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	promstorage "github.com/prometheus/prometheus/storage"

	"github.com/starling-tsdb/starling/internal/series"
)

// grouped returns n series with a sample at a minute, of five jobs but for each seventh, and of zones
// that each have two.
func grouped(n, minute int) (all []series.Series) {
	for i := range n {
		ls := labels.FromStrings("__name__", "up", "instance", fmt.Sprint("i", i), "job", fmt.Sprint("j", i%5), "zone", fmt.Sprint("z", i/2))
		if i%7 == 0 {
			ls = labels.NewBuilder(ls).Del("job").Labels()
		}
		all = append(all, floats(ls, float64(at(time.Duration(minute)*time.Minute)), float64(i*minute)))
	}
	return all
}

// readNamed reads all series in several parts, with the labels of some names if they are all that is
// looked at.
func readNamed(t *testing.T, s *Store, names []string) []storedChunks {
	t.Helper()
	hints := &promstorage.SelectHints{Start: at(-24 * time.Hour), End: at(24 * time.Hour), Step: 1, DisableTrimming: true}
	q, err := s.ChunkQuerierOf(hints.Start, hints.End, Want{Keep: infallible(func(uint64) bool { return true }), Labels: names})
	if err != nil {
		t.Fatal(err)
	}
	set := q.Select(t.Context(), false, hints, labels.MustNewMatcher(labels.MatchRegexp, "__name__", ".+"))
	all := readDivided(t, set.(divisible).Divide(3))
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	return all
}

// expectNamed wants series with labels of some names to be those with all labels. It returns how many
// of them have others, too.
func expectNamed(t *testing.T, s *Store, names []string) (more int) {
	t.Helper()
	reduce := func(all []storedChunks) []storedChunks {
		for i := range all {
			all[i].labels = labels.NewBuilder(all[i].labels).Keep(names...).Labels()
		}
		slices.SortFunc(all, func(a, b storedChunks) int {
			if c := labels.Compare(a.labels, b.labels); c != 0 {
				return c
			}
			return slices.Compare(a.chunks, b.chunks)
		})
		return all
	}
	got := readNamed(t, s, names)
	for _, c := range got {
		if labels.NewBuilder(c.labels).Keep(names...).Labels().Len() < c.labels.Len() {
			more++
		}
	}
	want := reduce(readNamed(t, s, nil))
	if len(want) == 0 || !slices.EqualFunc(reduce(got), want, equalStored) {
		t.Errorf("labels of %q: %d series, want %d, or others", names, len(got), len(want))
	}
	return more
}

// TestLabelsThatAreLookedAt: series have them, of more sets of names than are remembered, when they
// are asked for first as later, with series that have come meanwhile.
func TestLabelsThatAreLookedAt(t *testing.T) {
	s := mustOpen(t, testOptions(t.TempDir()), hooks{})
	sets := [][]string{{}, {"job"}, {"__name__"}, {"__name__", "job"}, {"zone"}, {"job", "zone"}, {"instance"}, {"absent"}, {"absent", "job"}, {"instance", "job"}}
	for round, n := range []int{3 * leastDivided, 4 * leastDivided, 4 * leastDivided} {
		mustAppend(t, s, batch(grouped(n, round)...))
		for _, names := range sets {
			for range 2 {
				if more := expectNamed(t, s, names); more > 0 {
					t.Errorf("%d series have more labels than those of %q", more, names)
				}
			}
		}
	}
}

// TestLabelsWithoutRoom: what is too much to be remembered has all its labels.
func TestLabelsWithoutRoom(t *testing.T) {
	s := mustOpen(t, testOptions(t.TempDir()), hooks{})
	const n = 4 * leastDivided
	var all []series.Series
	for i := range n {
		long := fmt.Sprintf("%04d%s", i, strings.Repeat("x", mostSharedBytes/n))
		all = append(all, floats(labels.FromStrings("__name__", "up", "instance", long, "zone", fmt.Sprint(i%5)), float64(at(0)), float64(i)))
	}
	mustAppend(t, s, batch(all...))
	for range 2 {
		// Each is remembered as a key and as labels.
		if more := expectNamed(t, s, []string{"instance"}); more <= n/2 || more > n*3/5 {
			t.Errorf("%d of %d series have more labels than their instance, want a few more than half", more, n)
		}
	}
	if more := expectNamed(t, s, []string{"zone"}); more > 0 {
		t.Errorf("%d series have more labels than their zone", more)
	}
}

// TestLabelsOfBlocks: where series come from blocks too, each has what is looked at.
func TestLabelsOfBlocks(t *testing.T) {
	const n = 4 * leastDivided
	s := layers(t, n, nil)
	for range 2 {
		if more := expectNamed(t, s, []string{"job"}); more < n/6 || more > n/5 {
			t.Errorf("%d series have their name though it is not looked at, want those that are not in the head, a fifth of %d", more, n)
		}
	}
	if more := expectNamed(t, s, []string{"__name__"}); more > 0 {
		t.Errorf("%d series have more labels than their name", more)
	}
}

// TestSharedLabelsAreForgotten: those that were asked for least recently are when others come, and all
// of them together with the keys of series that have gone.
func TestSharedLabelsAreForgotten(t *testing.T) {
	var k seriesKeys
	first := k.shared.of([]string{"first"})
	for i := range mostShared - 1 {
		k.shared.of([]string{fmt.Sprint(i)})
	}
	if k.shared.of([]string{"first"}) != first {
		t.Fatal("labels were forgotten while there was room")
	}
	second := k.shared.of([]string{"0"})
	for i := range mostShared - 2 {
		k.shared.of([]string{fmt.Sprint("other", i)})
	}
	if k.shared.of([]string{"first"}) != first || k.shared.of([]string{"0"}) != second || len(k.shared.sets) != mostShared {
		t.Errorf("labels were forgotten that had been asked for last, %d are remembered", len(k.shared.sets))
	}
	for number := range uint64(spare + 2) {
		k.page(number, 0)
	}
	if k.shared.of([]string{"first"}) == first {
		t.Error("labels are remembered, keys are not")
	}
}
