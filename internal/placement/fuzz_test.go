package placement

import (
	"testing"

	"github.com/cespare/xxhash/v2"
	"github.com/prometheus/prometheus/model/labels"
)

// FuzzKey: the key is that of the documented bytes, whatever the texts and their lengths,
// and the labels that parts of a histogram differ in do not change it.
func FuzzKey(f *testing.F) {
	f.Add("", "__name__", "up", "job", "api", "0.5", uint16(0))
	f.Add("acme", "a", "\xff\x00", "le", "1", "+Inf", uint16(511))
	f.Add("t", "quantile", "0.9", "z", "", "", uint16(1100))
	f.Fuzz(func(t *testing.T, tenant, name1, value1, name2, value2, le string, repeat uint16) {
		long := value1
		for len(long) < int(repeat)%4096 && value1 != "" {
			long += value1
		}
		ls := labels.FromMap(map[string]string{name1: long, name2: value2}).WithoutEmpty()
		bytes := []string{tenant}
		ls.Range(func(l labels.Label) {
			if l.Name != "le" && l.Name != "quantile" {
				bytes = append(bytes, l.Name, l.Value)
			}
		})
		key := Key(tenant, ls)
		if want := xxhash.Sum64(encodeStrings(bytes...)); key != want {
			t.Fatalf("key of %s is %016x, want %016x", ls, key, want)
		}
		part := labels.NewBuilder(ls).Set("le", le).Set("quantile", le).Labels()
		if got := Key(tenant, part); got != key {
			t.Fatalf("%s has the key %016x, %s has %016x", part, got, ls, key)
		}
	})
}
