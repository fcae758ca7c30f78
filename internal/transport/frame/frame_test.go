package frame

import (
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"

	"github.com/starling-tsdb/starling/internal/series"
)

// registry is what a sender remembers: handles by index, some of them forgotten and their
// indexes given to others.
type registry struct {
	handles []*series.Handle
	serial  uint64
}

func (r *registry) handle(rng *rand.Rand) *series.Handle {
	i := rng.IntN(len(r.handles))
	if r.handles[i] == nil || rng.IntN(20) == 0 {
		index := uint32(i)
		if i%10 == 0 {
			index = uint32(i) * 10_000
		}
		r.handles[i] = &series.Handle{Labels: randomLabels(rng), Index: index, Serial: r.serial}
		r.serial++
	}
	return r.handles[i]
}

func randomLabels(rng *rand.Rand) labels.Labels {
	return labels.FromStrings("__name__", "m", "i", fmt.Sprint(rng.Uint64()), "job", string(rune('a'+rng.IntN(5))), "z", "ü")
}

var special = []float64{
	0, math.Copysign(0, -1), 1, -1, math.Inf(1), math.Inf(-1), math.NaN(), math.Float64frombits(value.StaleNaN),
	math.Float64frombits(value.NormalNaN), math.MaxFloat64, math.SmallestNonzeroFloat64, 1 << 53, -1 << 53, 1<<53 - 1, 1 - 1<<53,
	1<<53 + 2, 0.1, -0.1, 0.3, 1e-6, -1e-6, 1e-7, 1.1, 123.456789, 9007199254.5, 9007199253.99, 1700000000.123, 1e15, 1e18, 1.5e300,
}

func randomValue(rng *rand.Rand) float64 {
	switch rng.IntN(5) {
	case 0:
		return special[rng.IntN(len(special))]
	case 1:
		return float64(rng.Int64N(1e12) - 5e11)
	case 2:
		return float64(rng.Int64N(1e9)-5e8) / math.Pow10(rng.IntN(9))
	case 3:
		return math.Float64frombits(rng.Uint64())
	}
	return rng.NormFloat64()
}

func randomSample(rng *rand.Rand) series.Sample {
	s := series.Sample{T: 1_700_000_000_000 + rng.Int64N(3)}
	if rng.IntN(3) == 0 {
		s.T = rng.Int64() - rng.Int64()
	}
	if rng.IntN(3) == 0 {
		s.ST = rng.Int64() - rng.Int64()
	}
	switch rng.IntN(12) {
	case 0:
		s.H = tsdbutil.GenerateTestHistogram(rng.Int64N(9))
	case 1:
		s.FH = tsdbutil.GenerateTestFloatHistogram(rng.Int64N(9))
	case 2:
		s.H = tsdbutil.GenerateTestCustomBucketsHistogram(rng.Int64N(9))
	default:
		s.V = randomValue(rng)
	}
	return s
}

func (r *registry) batch(rng *rand.Rand) *series.Batch {
	b := &series.Batch{}
	for range rng.IntN(30) {
		var s series.Series
		if rng.IntN(10) > 0 {
			s.Handle = r.handle(rng)
			s.Labels = s.Handle.Labels
		} else if rng.IntN(10) > 0 {
			s.Labels = randomLabels(rng)
		}
		n := 1
		if rng.IntN(4) == 0 {
			n = rng.IntN(4)
		}
		for range n {
			s.Samples = append(s.Samples, randomSample(rng))
		}
		for range rng.IntN(10) / 8 {
			s.Exemplars = append(s.Exemplars, exemplar.Exemplar{
				Labels: labels.FromStrings("trace_id", fmt.Sprint(rng.IntN(3))), Value: rng.Float64(), Ts: rng.Int64(), HasTs: rng.IntN(2) == 0,
			})
		}
		b.Series = append(b.Series, s)
	}
	for range rng.IntN(4) / 2 {
		b.Metadata = append(b.Metadata, series.Metadata{
			Family: "m", Metadata: metadata.Metadata{Type: model.MetricTypeCounter, Unit: "s", Help: strings.Repeat("Helps.", rng.IntN(3))},
		})
	}
	return b
}

// carry sends a batch over a stream. It wipes the frames when they are decoded: nothing of a
// batch may lie in them.
func carry(t testing.TB, e *Encoder, d *Decoder, b *series.Batch) (parts []*series.Batch) {
	t.Helper()
	for first := 0; first == 0 || first < Items(b); {
		prefix := []byte("prefix")
		out, next, err := e.Append(prefix, b, first)
		if err != nil {
			t.Fatal(err)
		}
		if next <= first && Items(b) > 0 || string(out[:len(prefix)]) != "prefix" {
			t.Fatalf("a frame ends before item %d, having begun with %d", next, first)
		}
		part, err := d.Decode(out[len(prefix):])
		if err != nil {
			t.Fatal(err)
		}
		clear(out)
		parts = append(parts, part)
		if first = next; Items(b) == 0 {
			break
		}
	}
	return parts
}

func compare(t *testing.T, parts []*series.Batch, want *series.Batch) {
	t.Helper()
	got := &series.Batch{}
	for _, p := range parts {
		got.Series = append(got.Series, p.Series...)
		got.Metadata = append(got.Metadata, p.Metadata...)
	}
	if len(got.Series) != len(want.Series) || !reflect.DeepEqual(got.Metadata, want.Metadata) {
		t.Fatalf("got %+v, want %+v", got, want)
	}
	for i := range want.Series {
		if err := sameSeries(&got.Series[i], &want.Series[i]); err != nil {
			t.Fatalf("series %d: %v: got %+v, want %+v", i, err, got.Series[i], want.Series[i])
		}
	}
}

func sameSeries(g, w *series.Series) error {
	switch {
	case !labels.Equal(g.Labels, w.Labels):
		return fmt.Errorf("labels %s, want %s", g.Labels, w.Labels)
	case (g.Handle == nil) != (w.Handle == nil):
		return fmt.Errorf("handle %v", g.Handle)
	case g.Handle != nil && !labels.Equal(g.Handle.Labels, w.Labels):
		return fmt.Errorf("the handle is of %s", g.Handle.Labels)
	case !reflect.DeepEqual(g.Exemplars, w.Exemplars) || len(g.Samples) != len(w.Samples):
		return fmt.Errorf("exemplars %v", g.Exemplars)
	}
	for j, ws := range w.Samples {
		gs := g.Samples[j]
		equal := gs.T == ws.T && gs.ST == ws.ST && math.Float64bits(gs.V) == math.Float64bits(ws.V) && (gs.H == nil) == (ws.H == nil) && (gs.FH == nil) == (ws.FH == nil)
		if equal && ws.H != nil {
			equal = gs.H.Equals(ws.H)
		}
		if equal && ws.FH != nil {
			equal = gs.FH.Equals(ws.FH)
		}
		if !equal {
			return fmt.Errorf("sample %d: %+v, want %+v", j, gs, ws)
		}
	}
	return nil
}

// Whatever batches follow each other on a stream, and whichever series take over an index,
// each arrives as it was, bit for bit, also when memory is used again.
func TestBatchesSurvive(t *testing.T) {
	for seed := range uint64(40) {
		rng := rand.New(rand.NewPCG(seed, 1))
		reg := &registry{handles: make([]*series.Handle, 1+rng.IntN(200))}
		e, d := &Encoder{}, NewDecoder(nil)
		for range 50 {
			b := reg.batch(rng)
			parts := carry(t, e, d, b)
			compare(t, parts, b)
			for _, p := range parts {
				if rng.IntN(3) > 0 {
					p.Release()
				}
			}
		}
	}
}

func TestNumbersAreExact(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	check := func(v float64) {
		t.Helper()
		kind, n := split(v)
		if kind != raw && math.Float64bits(join(kind, n)) != math.Float64bits(v) {
			t.Fatalf("%v (%x) becomes %d of kind %d, which is %v", v, math.Float64bits(v), n, kind, join(kind, n))
		}
	}
	for _, v := range special {
		check(v)
		check(-v)
	}
	for range 300_000 {
		check(randomValue(rng))
	}
	for v, want := range map[float64]byte{7: integer, -7: integer, 0.5: tenths, -12.25: 3, 1e-6: millionths, 1.0 / 3: raw, math.Inf(1): raw, 1 << 53: raw} {
		if kind, _ := split(v); kind != want {
			t.Errorf("%v is of kind %d, want %d", v, kind, want)
		}
	}
}

// counter counts the handles that it is shown, and interns none.
type counter struct{ n *int }

func (c counter) Intern(*series.Handle) { *c.n++ }

func (counter) Close() {}

// A handle is the same object as long as its number has the same meaning, and keeps it for
// whoever still reads it.
func TestHandlesLastAsLongAsTheirNumbers(t *testing.T) {
	interned := 0
	e, d := &Encoder{}, NewDecoder(func() series.Interner { return counter{&interned} })
	send := func(h *series.Handle) *series.Handle {
		b := &series.Batch{Series: []series.Series{{Labels: h.Labels, Handle: h, Samples: []series.Sample{{T: 1, V: 2}}}}}
		parts := carry(t, e, d, b)
		compare(t, parts, b)
		return parts[0].Series[0].Handle
	}
	first := &series.Handle{Labels: labels.FromStrings("a", "first"), Index: 3}
	second := &series.Handle{Labels: labels.FromStrings("a", "second"), Index: 3, Serial: 1}
	a := send(first)
	if again := send(first); a != again || interned != 1 {
		t.Errorf("a known series has another handle, or its labels are interned %d times", interned)
	}
	b := send(second)
	if b == a || !labels.Equal(a.Labels, first.Labels) {
		t.Error("a handle changed its meaning")
	}
	if again := send(second); again != b {
		t.Error("a known series has another handle")
	}
	if c := send(first); c == a || c == b {
		t.Error("a series that was forgotten has a handle of before")
	}
}

// What cannot have a number travels with its labels.
func TestSomeSeriesHaveNoNumber(t *testing.T) {
	e, d := &Encoder{}, NewDecoder(nil)
	for _, h := range []*series.Handle{{Index: maxIndex}, {Index: math.MaxUint32}, {Serial: math.MaxUint64}} {
		h.Labels = labels.FromStrings("a", "b")
		b := &series.Batch{Series: []series.Series{{Labels: h.Labels, Handle: h, Samples: []series.Sample{{V: 1}}}}}
		for range 2 {
			part := carry(t, e, d, b)[0]
			if s := part.Series[0]; s.Handle != nil || !labels.Equal(s.Labels, h.Labels) {
				t.Errorf("%+v arrives as %+v", h, s)
			}
		}
	}
	e.entries, d.entries = maxEntries, maxEntries
	h := &series.Handle{Index: 5, Labels: labels.FromStrings("a", "b")}
	b := &series.Batch{Series: []series.Series{{Labels: h.Labels, Handle: h}}}
	if s := carry(t, e, d, b)[0].Series[0]; s.Handle != nil || !labels.Equal(s.Labels, h.Labels) {
		t.Errorf("past the bound of the dictionary a series arrives as %+v", s)
	}
}

// A frame that comes to nothing leaves no trace in the dictionary.
func TestRefusedBatchIsForgotten(t *testing.T) {
	e, d := &Encoder{}, NewDecoder(nil)
	handles := []*series.Handle{{Labels: labels.FromStrings("a", "0")}, {Labels: labels.FromStrings("a", "1"), Index: 1, Serial: 1}}
	b := &series.Batch{Series: []series.Series{{Labels: handles[0].Labels, Handle: handles[0]}}}
	carry(t, e, d, b)
	handles[0] = &series.Handle{Labels: labels.FromStrings("a", "2"), Serial: 2}
	b = &series.Batch{Metadata: []series.Metadata{{Metadata: metadata.Metadata{Help: strings.Repeat("x", MaxBytes)}}}}
	for _, h := range handles {
		b.Series = append(b.Series, series.Series{Labels: h.Labels, Handle: h})
	}
	if out, next, err := e.Append([]byte("x"), b, 0); err == nil || string(out) != "x" || next != 0 {
		t.Fatalf("a frame of %d bytes: %v", len(out), err)
	}
	if e.entries != 1 {
		t.Errorf("%d entries, want 1", e.entries)
	}
	b.Metadata = nil
	compare(t, carry(t, e, d, b), b)
}

// Batches are cut by what they take at the receiver, too: a text that many series share
// travels once.
func TestLargeBatchesAreCut(t *testing.T) {
	help := strings.Repeat("h", 30<<10)
	shared := &series.Batch{}
	for i := range 5000 {
		shared.Metadata = append(shared.Metadata, series.Metadata{Family: fmt.Sprint(i), Metadata: metadata.Metadata{Help: help}})
	}
	distinct := &series.Batch{}
	for i := range 1000 {
		distinct.Series = append(distinct.Series, series.Series{
			Labels: labels.FromStrings("__name__", "m", "long", fmt.Sprint(i, help)), Samples: []series.Sample{{T: int64(i)}},
		})
	}
	distinct.Metadata = shared.Metadata[:3]
	many := &series.Batch{Series: make([]series.Series, 1_200_000)}
	for _, tc := range []struct {
		name string
		b    *series.Batch
		want int
	}{{"shared", shared, 3}, {"distinct", distinct, 4}, {"many", many, 2}} {
		parts := carry(t, &Encoder{}, NewDecoder(nil), tc.b)
		if len(parts) != tc.want {
			t.Errorf("%s texts: %d frames, want %d", tc.name, len(parts), tc.want)
		}
		compare(t, parts, tc.b)
	}
}

// A definition of a high number takes no more memory than one of a low number.
func TestDictionaryIsSparse(t *testing.T) {
	e, d := &Encoder{}, NewDecoder(nil)
	h := &series.Handle{Labels: labels.FromStrings("a", "b"), Index: maxIndex - 1}
	b := &series.Batch{Series: []series.Series{{Labels: h.Labels, Handle: h}}}
	res := testing.Benchmark(func(tb *testing.B) {
		for range tb.N {
			e, d = &Encoder{}, NewDecoder(nil)
			carry(tb, e, d, b)
		}
	})
	if res.AllocedBytesPerOp() > 2<<20 {
		t.Errorf("%d bytes for one series with a high number", res.AllocedBytesPerOp())
	}
}
