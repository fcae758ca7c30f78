package transport

import (
	"context"
	"math"
	"math/rand/v2"
	"reflect"
	"testing"
	"testing/synctest"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"

	"github.com/starling-tsdb/starling/internal/proof"
	"github.com/starling-tsdb/starling/internal/series"
	"github.com/starling-tsdb/starling/internal/transport/peerpb"
)

// randomBatch holds every kind of content that a batch can have.
func randomBatch(r *rand.Rand) *series.Batch {
	b := &series.Batch{}
	for i := range 1 + r.IntN(5) {
		s := series.Series{Labels: labels.FromStrings("__name__", "m", "job", string(rune('a'+i)), "z", "ü")}
		for range r.IntN(4) {
			s.Samples = append(s.Samples, randomSample(r))
		}
		if r.IntN(2) == 0 {
			s.Exemplars = append(s.Exemplars, exemplar.Exemplar{
				Labels: labels.FromStrings("trace_id", "x"), Value: r.Float64(), Ts: r.Int64N(1e12), HasTs: r.IntN(2) == 0,
			})
		}
		b.Series = append(b.Series, s)
	}
	if r.IntN(2) == 0 {
		b.Metadata = append(b.Metadata, series.Metadata{
			Family: "m", Metadata: metadata.Metadata{Type: model.MetricTypeCounter, Unit: "s", Help: "Helps."},
		})
	}
	return b
}

func randomSample(r *rand.Rand) series.Sample {
	s := series.Sample{T: r.Int64() - r.Int64(), ST: r.Int64N(1e12)}
	switch r.IntN(6) {
	case 0:
		s.H = tsdbutil.GenerateTestHistogram(r.Int64N(9))
	case 1:
		s.FH = tsdbutil.GenerateTestFloatHistogram(r.Int64N(9))
	case 2:
		s.H = tsdbutil.GenerateTestCustomBucketsHistogram(r.Int64N(9))
	case 3:
		s.V = math.Float64frombits(value.StaleNaN)
	case 4:
		s.V = math.Inf(-1)
	default:
		s.V = r.NormFloat64()
	}
	return s
}

// compareBatches compares floats bit by bit: NaN is not equal to itself.
func compareBatches(t *testing.T, seed uint64, got, want *series.Batch) {
	t.Helper()
	if len(got.Series) != len(want.Series) || !reflect.DeepEqual(got.Metadata, want.Metadata) {
		t.Fatalf("seed %d: got %+v, want %+v", seed, got, want)
	}
	for i, w := range want.Series {
		g := got.Series[i]
		if !labels.Equal(g.Labels, w.Labels) || !reflect.DeepEqual(g.Exemplars, w.Exemplars) || len(g.Samples) != len(w.Samples) {
			t.Fatalf("seed %d: series %d: got %+v, want %+v", seed, i, g, w)
		}
		for j, ws := range w.Samples {
			gs := g.Samples[j]
			equal := gs.T == ws.T && gs.ST == ws.ST && math.Float64bits(gs.V) == math.Float64bits(ws.V)
			switch {
			case ws.H != nil:
				equal = equal && gs.H != nil && gs.H.Equals(ws.H)
			case ws.FH != nil:
				equal = equal && gs.FH != nil && gs.FH.Equals(ws.FH)
			default:
				equal = equal && gs.H == nil && gs.FH == nil
			}
			if !equal {
				t.Fatalf("seed %d: series %d, sample %d: got %+v, want %+v", seed, i, j, gs, ws)
			}
		}
	}
}

func TestOutcomeIsCheckedAgainstTheRequest(t *testing.T) {
	b := &series.Batch{Series: make([]series.Series, 8)}
	b.Series[7].Samples = make([]series.Sample, 2)
	parts := func(refusals ...series.Refusal) []appendPart {
		return []appendPart{{0, 7, &peerpb.WriteAnswer{}}, {7, 9, &peerpb.WriteAnswer{Refusals: refusalsToProto(refusals)}}}
	}
	want := []series.Refusal{{Series: 7, Item: 1, Reason: series.Conflict, Message: "m"}}
	got, err := confirmationOf(b, parts(series.Refusal{Item: 1, Reason: series.Conflict, Message: "m"}))
	if err != nil || !reflect.DeepEqual(got.Refusals, want) {
		t.Errorf("refusals became %+v, %v; want %+v", got.Refusals, err, want)
	}
	for _, bad := range []series.Refusal{{Series: 1}, {Item: 2}, {Item: 0, Exemplar: true}} {
		if _, err := confirmationOf(b, parts(bad)); err == nil {
			t.Errorf("a refusal of something that was not sent was taken: %+v", bad)
		}
	}
}

func TestBatchesSurviveTheStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		for seed := range uint64(100) {
			b := randomBatch(rand.New(rand.NewPCG(seed, 1)))
			if _, err := r.peers.Peer("remote").Append(t.Context(), epoch(1), b); err != nil {
				t.Fatal(err)
			}
			compareBatches(t, seed, r.remote.appended[seed], b)
		}
	})
}

// A batch that does not fit into one frame is confirmed if all its parts are. They travel one
// after the other, so that the last one's gaps hold for all.
func TestLargeBatchTravelsInParts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		b := &series.Batch{Series: make([]series.Series, 1_200_000)}
		for i := range b.Series {
			b.Series[i] = series.Series{Labels: labels.FromStrings("a", "b"), Samples: []series.Sample{{T: int64(i)}}}
		}
		b.Metadata = []series.Metadata{{Family: "last"}}
		r.remote.refuse = []series.Refusal{{Series: 3, Reason: series.Conflict}}
		r.remote.onAppend(func(context.Context, *series.Batch) {
			r.remote.mu.Lock()
			defer r.remote.mu.Unlock()
			r.remote.gaps = append(r.remote.gaps, proof.Gap{Peer: "x", Since: int64(len(r.remote.gaps))})
		})
		peer := r.peers.Peer("remote")
		c, err := peer.Append(t.Context(), epoch(1), b)
		parts := r.remote.appended
		if err != nil || len(parts) < 2 || len(c.Refusals) != len(parts) || len(c.Gaps) != len(parts) {
			t.Fatalf("%d parts, %d refusals, %d gaps, %v", len(parts), len(c.Refusals), len(c.Gaps), err)
		}
		first := 0
		for i, part := range parts {
			if c.Refusals[i].Series != first+3 {
				t.Errorf("refusal of series %d, want %d", c.Refusals[i].Series, first+3)
			}
			compareBatches(t, 0, &series.Batch{Series: part.Series}, &series.Batch{Series: b.Series[first : first+len(part.Series)]})
			first += len(part.Series)
		}
		if len(parts[0].Metadata) > 0 || len(parts[len(parts)-1].Metadata) != 1 {
			t.Error("metadata does not travel with the last part")
		}
		r.remote.onAppend(func(_ context.Context, b *series.Batch) {
			if len(b.Metadata) > 0 {
				panic("on the last part")
			}
		})
		if _, err := peer.Append(t.Context(), epoch(1), b); err == nil {
			t.Error("a batch is confirmed of which a part is not")
		}
	})
}
