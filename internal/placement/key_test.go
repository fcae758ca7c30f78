package placement

import (
	"strconv"
	"strings"
	"testing"

	"github.com/cespare/xxhash/v2"
	"github.com/prometheus/prometheus/model/labels"
)

func TestKeyBytes(t *testing.T) {
	long := strings.Repeat("v", 1000)
	tests := []struct {
		name   string
		tenant string
		labels labels.Labels
		bytes  string
	}{
		{"empty", "", labels.EmptyLabels(), "\x00"},
		{"tenant", "acme", labels.EmptyLabels(), "\x04acme"},
		{"labels", "", labels.FromStrings("job", "api", "__name__", "up"), "\x00\x08__name__\x02up\x03job\x03api"},
		{"le", "", labels.FromStrings("__name__", "x_bucket", "le", "0.5", "zone", "a"), "\x00\x08__name__\x08x_bucket\x04zone\x01a"},
		{"quantile", "", labels.FromStrings("__name__", "x", "quantile", "0.9"), "\x00\x08__name__\x01x"},
		{"two-byte length", "", labels.FromStrings("a", strings.Repeat("v", 200)), "\x00\x01a\xc8\x01" + strings.Repeat("v", 200)},
		{"longer than the buffer", "", labels.FromStrings("a", long, "b", "c"), "\x00\x01a\xe8\x07" + long + "\x01b\x01c"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got, want := Key(tt.tenant, tt.labels), xxhash.Sum64String(tt.bytes); got != want {
				t.Errorf("key %016x, want %016x", got, want)
			}
		})
	}
	if got, want := FamilyKey("acme", "up"), xxhash.Sum64String("\x04acme\x02up"); got != want {
		t.Errorf("family key %016x, want %016x", got, want)
	}
}

// The buffer of keyHash must not show: whatever the lengths around its end, the key is
// that of the whole byte string.
func TestKeyBufferIsInvisible(t *testing.T) {
	for length := range 1100 {
		value := strings.Repeat("x", length)
		want := xxhash.Sum64(encodeStrings("t", "a", value, "b", "2"))
		if got := Key("t", labels.FromStrings("a", value, "b", "2")); got != want {
			t.Fatalf("value of %d bytes: key %016x, want %016x", length, got, want)
		}
	}
	var pairs, all []string
	all = append(all, "t")
	for i := range 300 {
		pairs = append(pairs, "label_"+strconv.Itoa(1000+i), "value")
		all = append(all, "label_"+strconv.Itoa(1000+i), "value")
	}
	if got, want := Key("t", labels.FromStrings(pairs...)), xxhash.Sum64(encodeStrings(all...)); got != want {
		t.Fatalf("300 labels: key %016x, want %016x", got, want)
	}
}

// encodeStrings is the byte format once more, without a buffer.
func encodeStrings(all ...string) []byte {
	var b []byte
	for _, s := range all {
		n := uint64(len(s))
		for ; n >= 0x80; n >>= 7 {
			b = append(b, byte(n)|0x80)
		}
		b = append(b, byte(n))
		b = append(b, s...)
	}
	return b
}

func TestKeyTellsApart(t *testing.T) {
	keys := map[string]uint64{
		"tenant a, label b=c":    Key("a", labels.FromStrings("b", "c")),
		"tenant ab, label c=c":   Key("ab", labels.FromStrings("c", "c")),
		"label ab=c":             Key("", labels.FromStrings("ab", "c")),
		"label a=bc":             Key("", labels.FromStrings("a", "bc")),
		"labels a=b, c=d":        Key("", labels.FromStrings("a", "b", "c", "d")),
		"label a=bcd":            Key("", labels.FromStrings("a", "bcd")),
		"a value with separator": Key("", labels.FromStrings("a", "b\xffc\xffd")),
		"family":                 FamilyKey("", "a"),
		"family of a tenant":     FamilyKey("a", ""),
	}
	seen := make(map[uint64]string)
	for name, k := range keys {
		if other, ok := seen[k]; ok {
			t.Errorf("%q and %q share the key %016x", name, other, k)
		}
		seen[k] = name
	}
}

func TestKeyIgnoresBucketAndQuantile(t *testing.T) {
	want := Key("", labels.FromStrings("__name__", "request_seconds_bucket", "job", "api"))
	for _, le := range []string{"0.1", "1", "10", "+Inf"} {
		if got := Key("", labels.FromStrings("__name__", "request_seconds_bucket", "job", "api", "le", le)); got != want {
			t.Errorf("le=%q: key %016x, want %016x", le, got, want)
		}
		if got := Key("", labels.FromStrings("__name__", "request_seconds_bucket", "job", "api", "quantile", le)); got != want {
			t.Errorf("quantile=%q: key %016x, want %016x", le, got, want)
		}
	}
	if got := Key("", labels.FromStrings("__name__", "request_seconds_bucket", "job", "api", "lee", "1")); got == want {
		t.Error("a label whose name begins with le is left out")
	}
}

func TestKeyDoesNotAllocate(t *testing.T) {
	for name, ls := range map[string]labels.Labels{
		"ten labels":             tenLabels(),
		"bucket":                 labels.FromStrings("__name__", "x_bucket", "le", "0.5"),
		"longer than the buffer": labels.FromStrings("a", strings.Repeat("v", 4000), "b", "c"),
	} {
		if n := testing.AllocsPerRun(100, func() { Key("", ls) }); n != 0 {
			t.Errorf("%s: %v allocations, want none", name, n)
		}
	}
	if n := testing.AllocsPerRun(100, func() { FamilyKey("", "node_cpu_seconds_total") }); n != 0 {
		t.Errorf("family: %v allocations, want none", n)
	}
}

func tenLabels() labels.Labels {
	return labels.FromStrings("__name__", "http_request_duration_seconds_bucket", "cluster", "eu-1",
		"container", "api", "handler", "/api/v1/query", "instance", "10.2.3.4:9090", "job", "api",
		"le", "0.25", "method", "get", "namespace", "prod", "pod", "api-7d9f8b-x2x9z")
}

func BenchmarkKey(b *testing.B) {
	ls := tenLabels()
	b.ReportAllocs()
	for b.Loop() {
		Key("", ls)
	}
}
