package transport

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

// overTheWire encodes a batch, and decodes and joins its requests.
func overTheWire(t testing.TB, b *series.Batch) (back *series.Batch, requests int) {
	t.Helper()
	reqs, err := batchToProto(b)
	if err != nil {
		t.Fatal(err)
	}
	back = &series.Batch{}
	for _, req := range reqs {
		if req.first != len(back.Series) {
			t.Fatalf("a request begins with series %d after %d were sent", req.first, len(back.Series))
		}
		wire, err := proto.Marshal(req.AppendRequest)
		if err != nil {
			t.Fatal(err)
		}
		if len(wire) > 2*requestBytes {
			t.Fatalf("a request of %d bytes", len(wire))
		}
		var got peerpb.AppendRequest
		if err := proto.Unmarshal(wire, &got); err != nil {
			t.Fatal(err)
		}
		part, err := batchFromProto(&got)
		if err != nil {
			t.Fatal(err)
		}
		back.Series = append(back.Series, part.Series...)
		back.Metadata = append(back.Metadata, part.Metadata...)
	}
	return back, len(reqs)
}

func TestBatchSurvivesTheWire(t *testing.T) {
	for seed := range uint64(500) {
		b := randomBatch(rand.New(rand.NewPCG(seed, 1)))
		got, _ := overTheWire(t, b)
		compareBatches(t, seed, got, b)
	}
}

// What a small body can ask for, by texts that many series share, fits into requests.
func TestLargeBatchesAreCut(t *testing.T) {
	help := strings.Repeat("h", 30<<10)
	b := &series.Batch{}
	for i := range 2500 {
		b.Metadata = append(b.Metadata, series.Metadata{Family: fmt.Sprint(i), Metadata: metadata.Metadata{Help: help}})
	}
	if got, requests := overTheWire(t, b); requests != 1 || !reflect.DeepEqual(got.Metadata, b.Metadata) {
		t.Errorf("shared texts take %d requests", requests)
	}
	for i := range 1000 {
		b.Series = append(b.Series, series.Series{
			Labels:  labels.FromStrings("__name__", "m", "long", fmt.Sprint(i, help)),
			Samples: []series.Sample{{T: int64(i)}},
		})
	}
	got, requests := overTheWire(t, b)
	if requests < 3 {
		t.Errorf("30 MB of labels in %d requests", requests)
	}
	compareBatches(t, 0, got, b)
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
	requests, err := batchToProto(&series.Batch{Series: []series.Series{{Samples: make([]series.Sample, 2)}}})
	if err != nil {
		t.Fatal(err)
	}
	req := requests[0]
	req.first = 7
	sent := series.Outcome{Refusals: []series.Refusal{{Item: 1, Reason: series.Conflict, Message: "m"}}}
	want := series.Outcome{Refusals: []series.Refusal{{Series: 7, Item: 1, Reason: series.Conflict, Message: "m"}}}
	var got series.Outcome
	if err := outcomeFromProto(outcomeToProto(sent), req, &got); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("outcome became %+v, %v; want %+v", got, err, want)
	}
	for _, bad := range []series.Refusal{{Series: 1}, {Item: 2}, {Item: 0, Exemplar: true}} {
		if err := outcomeFromProto(outcomeToProto(series.Outcome{Refusals: []series.Refusal{bad}}), req, &got); err == nil {
			t.Errorf("a refusal of something that was not sent was taken: %+v", bad)
		}
	}
}
