package merge

import (
	"testing"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/starling-tsdb/starling/internal/series"
)

func digestOf(ls labels.Labels, samples ...series.Sample) uint64 {
	var d Digest
	d.Reset(labels.FromStrings("another", "series"))
	d.Add(&series.Sample{V: 7})
	d.Reset(ls)
	for i := range samples {
		d.Add(&samples[i])
	}
	return d.Sum()
}

// Digests are the same exactly where Compare finds nothing to choose.
func TestDigest(t *testing.T) {
	ls := labels.FromStrings("__name__", "m")
	list := ascending()
	for i := range list {
		for j := range list {
			want := i == j || Stale(&list[i]) && Stale(&list[j])
			if same := digestOf(ls, list[i]) == digestOf(ls, list[j]); same != want {
				t.Errorf("values %d and %d: the same digest %v", i, j, same)
			}
		}
		later := list[i]
		later.T++
		switch one := digestOf(ls, list[i]); one {
		case digestOf(labels.FromStrings("__name__", "n"), list[i]):
			t.Errorf("value %d: the digest disregards labels", i)
		case digestOf(ls, later):
			t.Errorf("value %d: the digest disregards time", i)
		case digestOf(ls, list[i], later):
			t.Errorf("value %d: the digest disregards a second sample", i)
		}
	}
	if sum := digestOf(ls); sum != 0 {
		t.Errorf("no samples: %d", sum)
	}
	// Many samples are hashed in parts.
	var all []series.Sample
	for i := range 100 {
		all = append(all, series.Sample{T: int64(i), V: float64(i)})
	}
	whole := digestOf(ls, all...)
	all[3].V++
	if digestOf(ls, all...) == whole || digestOf(ls, all[:99]...) == whole {
		t.Error("one value of many, or the last of them, makes no difference")
	}
}
