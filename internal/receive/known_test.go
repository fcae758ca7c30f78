package receive

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/starling-tsdb/starling/internal/handles"
)

func remembering(change ...func(*handles.Options)) func(*Options) {
	o := handles.Options{MaxBytes: 1 << 30, Key: labels.Labels.Hash}
	for _, c := range change {
		c(&o)
	}
	return func(d *Options) { d.Handles = handles.New(o) }
}

// compareKnown decodes a message with a decoder that remembers series, twice, and with one
// that does not: all come to the same, but for what is found first in a malformed message. It
// returns how many series of the second time had handles.
func compareKnown(t *testing.T, decode func(*Decoder, []byte, Reserve) (*Decoded, error), plain, known *Decoder, msg []byte) int {
	t.Helper()
	body := snappy.Encode(nil, msg)
	want, wantErr := decode(plain, body, nil)
	handled := 0
	for range 2 {
		got, err := decode(known, body, nil)
		if (err == nil) != (wantErr == nil) || KindOf(err) != KindOf(wantErr) {
			t.Fatalf("error %v, without handles %v; body %q", err, wantErr, msg)
		}
		if err != nil {
			return 0
		}
		if g, w := describe(got), describe(want); g != w {
			t.Fatalf("decoded\n%s\nwithout handles\n%s\nbody %q", g, w, msg)
		}
		handled = 0
		for i := range got.Batch.Series {
			s := &got.Batch.Series[i]
			if s.Handle == nil {
				continue
			}
			handled++
			if !labels.Equal(s.Handle.Labels, s.Labels) || s.Handle.Key != s.Labels.Hash() {
				t.Fatalf("series %s has the handle of %s", s.Labels, s.Handle.Labels)
			}
		}
		got.Batch.Release()
	}
	want.Batch.Release()
	return handled
}

// describe prints what was decoded, floats by their bits.
func describe(d *Decoded) string {
	var text []byte
	for i := range d.Batch.Series {
		s := &d.Batch.Series[i]
		text = fmt.Appendf(text, "%s", s.Labels)
		for j := range s.Samples {
			p := &s.Samples[j]
			text = fmt.Appendf(text, " %d@%d+%x", p.T, p.ST, p.V)
			if p.IsHistogram() {
				text = fmt.Appendf(text, "%v%v", p.H, p.FH)
			}
		}
		for _, e := range s.Exemplars {
			text = fmt.Appendf(text, " %v", exemplar.Exemplar{Labels: e.Labels, Value: e.Value, Ts: e.Ts, HasTs: e.HasTs})
		}
		text = append(text, '\n')
	}
	return string(fmt.Appendf(text, "%+v\n%+v %d %d %d %+v %v", d.Batch.Metadata, d.Invalid, d.InvalidSeries, d.InvalidExemplars, d.InvalidMetadata, d.Lost, d.Warnings))
}

// wireFuzzer makes messages of Remote Write 1.0 that no encoder would, of few series, so that
// many are known.
type wireFuzzer struct{ *rand.Rand }

func (w wireFuzzer) chance(percent int) bool { return w.IntN(100) < percent }

func (w wireFuzzer) label(name, value string) []byte {
	var b []byte
	b = protowire.AppendString(protowire.AppendTag(b, 1, protowire.BytesType), name)
	b = protowire.AppendString(protowire.AppendTag(b, 2, protowire.BytesType), value)
	return protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), b)
}

// labels are those of one of a few series, most of them canonical.
func (w wireFuzzer) labels() (all [][]byte) {
	all = append(all, w.label("__name__", fmt.Sprint("m", w.IntN(4))))
	for _, name := range []string{"a", "b"} {
		switch {
		case w.chance(60):
			all = append(all, w.label(name, fmt.Sprint(w.IntN(2))))
		case w.chance(10):
			all = append(all, w.label(name, ""))
		case w.chance(5):
			all = append(all, w.label(name, "\xff"))
		case w.chance(5):
			all = append(all, w.label("__name__", "twice"))
		}
	}
	if w.chance(10) {
		w.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	}
	if w.chance(3) {
		all = all[1:]
	}
	return all
}

func (w wireFuzzer) sample() []byte {
	var b []byte
	if w.chance(95) {
		b = protowire.AppendFixed64(protowire.AppendTag(b, 1, protowire.Fixed64Type), w.Uint64())
	}
	if w.chance(95) {
		b = protowire.AppendVarint(protowire.AppendTag(b, 2, protowire.VarintType), w.Uint64()>>w.IntN(64))
	}
	if w.chance(3) { // unknown to 1.0
		b = protowire.AppendVarint(protowire.AppendTag(b, 3, protowire.VarintType), 7)
	}
	return protowire.AppendBytes(protowire.AppendTag(nil, 2, protowire.BytesType), b)
}

func (w wireFuzzer) exemplar() []byte {
	b := w.label("trace", fmt.Sprint(w.IntN(9)))
	b = protowire.AppendFixed64(protowire.AppendTag(b, 2, protowire.Fixed64Type), w.Uint64())
	return protowire.AppendBytes(protowire.AppendTag(nil, 3, protowire.BytesType), b)
}

func (w wireFuzzer) series() []byte {
	fields := w.labels()
	for w.chance(20) {
		fields = append(fields, w.sample())
	}
	fields = append(fields, w.sample())
	if w.chance(5) {
		fields = append(fields, w.exemplar())
	}
	if w.chance(5) {
		unknown := protowire.AppendString(protowire.AppendTag(nil, 9, protowire.BytesType), "x")
		fields = append(fields, unknown)
	}
	if w.chance(3) { // labels behind samples
		fields = append(fields, w.label("late", "1"))
	}
	if w.chance(3) {
		w.Shuffle(len(fields), func(i, j int) { fields[i], fields[j] = fields[j], fields[i] })
	}
	var msg []byte
	for _, f := range fields {
		msg = append(msg, f...)
	}
	if w.chance(1) && len(msg) > 0 {
		msg = msg[:w.IntN(len(msg))]
	}
	return protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), msg)
}

// TestKnownSeriesDecodeTheSame: a series that is remembered comes to the same as one that
// is not, whatever its message looks like.
func TestKnownSeriesDecodeTheSame(t *testing.T) {
	handled := 0
	for seed := range uint64(300) {
		w := wireFuzzer{rand.New(rand.NewPCG(seed, 3))}
		at := time.Unix(1_700_000_000, 0)
		small := func(o *handles.Options) {
			o.Now = func() time.Time { return at }
			if seed%3 == 0 {
				o.MaxBytes = 64 * 300 // room for one in each shard
			}
		}
		plain, known := newTestDecoder(t), newTestDecoder(t, remembering(small))
		for range 20 {
			var msg []byte
			for range w.IntN(12) {
				msg = append(msg, w.series()...)
			}
			handled += compareKnown(t, (*Decoder).RemoteWrite1, plain, known, msg)
			at = at.Add(time.Duration(w.IntN(6)) * time.Minute)
		}
	}
	if handled < 10_000 {
		t.Errorf("only %d series were remembered: nothing was compared", handled)
	}
}

// TestVersionsShareHandles: the same labels are one series in both versions.
func TestVersionsShareHandles(t *testing.T) {
	v1, v2 := scrape()
	d := newTestDecoder(t, remembering())
	var serials []map[uint64]bool
	for range 2 {
		for version, out := range []*Decoded{decode1(t, d, v1.Timeseries...), decode2(t, d, v2)} {
			seen := map[uint64]bool{}
			for i := range out.Batch.Series {
				h := out.Batch.Series[i].Handle
				if h == nil {
					t.Fatalf("version %d: a series has no handle", version+1)
				}
				seen[h.Serial] = true
			}
			serials = append(serials, seen)
			out.Batch.Release()
		}
	}
	for i, seen := range serials {
		if len(seen) != len(v1.Timeseries) {
			t.Errorf("request %d: %d handles", i, len(seen))
		}
		for s := range seen {
			if !serials[0][s] {
				t.Fatalf("request %d: handles of their own", i)
			}
		}
	}
}

// TestReleasedBatchIsUsedAgain: and nothing of the one before is in it.
func TestReleasedBatchIsUsedAgain(t *testing.T) {
	d := newTestDecoder(t, remembering())
	v1, _ := scrape()
	first := decode1(t, d, v1.Timeseries...)
	first.Batch.Retain()
	first.Batch.Release()
	if n := len(first.Batch.Series); n != 2000 {
		t.Fatalf("%d series are left while somebody reads", n)
	}
	first.Batch.Release()
	if n := len(first.Batch.Series); n != 0 {
		t.Fatalf("%d series are left when nobody reads", n)
	}
	body := snappied(t, v1)
	allocated := testing.AllocsPerRun(20, func() {
		out, err := d.RemoteWrite1(body, nil)
		if err != nil || len(out.Batch.Series) != 2000 {
			t.Fatal(err)
		}
		out.Batch.Release()
	})
	if allocated > 50 {
		t.Errorf("%v allocations for a request of 2000 known series", allocated)
	}
}
