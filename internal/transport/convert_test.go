package transport

import (
	"math"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"
	"google.golang.org/protobuf/proto"

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

func TestBatchSurvivesTheWire(t *testing.T) {
	for seed := range uint64(500) {
		b := randomBatch(rand.New(rand.NewPCG(seed, 1)))
		req, err := batchToProto(b)
		if err != nil {
			t.Fatal(err)
		}
		wire, err := proto.Marshal(req)
		if err != nil {
			t.Fatal(err)
		}
		var back peerpb.AppendRequest
		if err := proto.Unmarshal(wire, &back); err != nil {
			t.Fatal(err)
		}
		got, err := batchFromProto(&back)
		if err != nil {
			t.Fatal(err)
		}
		compareBatches(t, seed, got, b)
	}
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

func TestOutcomeIsCheckedAgainstTheBatch(t *testing.T) {
	b := &series.Batch{Series: []series.Series{{Samples: make([]series.Sample, 2)}}}
	good := series.Outcome{Refusals: []series.Refusal{{Item: 1, Reason: series.Conflict, Message: "m"}}}
	back, err := outcomeFromProto(outcomeToProto(good), b)
	if err != nil || !reflect.DeepEqual(back, good) {
		t.Errorf("outcome became %+v, %v", back, err)
	}
	for _, bad := range []series.Refusal{{Series: 1}, {Item: 2}, {Item: 0, Exemplar: true}} {
		if _, err := outcomeFromProto(outcomeToProto(series.Outcome{Refusals: []series.Refusal{bad}}), b); err == nil {
			t.Errorf("a refusal of something that was not sent was taken: %+v", bad)
		}
	}
}

// FuzzAppendRequest decodes what a broken peer could send.
func FuzzAppendRequest(f *testing.F) {
	for seed := range uint64(8) {
		req, err := batchToProto(randomBatch(rand.New(rand.NewPCG(seed, 2))))
		if err != nil {
			f.Fatal(err)
		}
		wire, err := proto.Marshal(req)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(wire)
	}
	f.Fuzz(func(t *testing.T, wire []byte) {
		var req peerpb.AppendRequest
		if proto.Unmarshal(wire, &req) != nil {
			return
		}
		b, err := batchFromProto(&req)
		if err != nil {
			return
		}
		if len(b.Series) != len(req.Series) {
			t.Fatalf("%d series became %d", len(req.Series), len(b.Series))
		}
	})
}
