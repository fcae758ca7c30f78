package receive

import (
	"strconv"
	"testing"

	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
)

// scrape is a request as Prometheus sends them: 2000 series of 10 labels, one sample each.
func scrape() (*prompb.WriteRequest, *writev2.Request) {
	var v1 prompb.WriteRequest
	var v2 writev2.Request
	st := writev2.NewSymbolTable()
	for i := range 2000 {
		kv := []string{"__name__", "http_requests_total"}
		for l := range 8 {
			kv = append(kv, "label_"+strconv.Itoa(l), "some-value-"+strconv.Itoa(l))
		}
		kv = append(kv, "path", "/api/v1/item/"+strconv.Itoa(i))
		v1.Timeseries = append(v1.Timeseries, prompb.TimeSeries{
			Labels: pairs(kv...), Samples: []prompb.Sample{{Value: float64(i), Timestamp: 1_700_000_000_000}},
		})
		ts := writev2.TimeSeries{Samples: []writev2.Sample{{Value: float64(i), Timestamp: 1_700_000_000_000}}}
		for _, s := range kv {
			ts.LabelsRefs = append(ts.LabelsRefs, st.Symbolize(s))
		}
		v2.Timeseries = append(v2.Timeseries, ts)
	}
	v2.Symbols = st.Symbols()
	return &v1, &v2
}

func BenchmarkRemoteWrite1(b *testing.B) {
	v1, _ := scrape()
	b.Run("new", func(b *testing.B) { benchmark(b, snappied(b, v1), newTestDecoder(b).RemoteWrite1) })
	b.Run("known", func(b *testing.B) { benchmark(b, snappied(b, v1), newTestDecoder(b, remembering()).RemoteWrite1) })
}

func BenchmarkRemoteWrite2(b *testing.B) {
	_, v2 := scrape()
	b.Run("new", func(b *testing.B) { benchmark(b, snappied(b, v2), newTestDecoder(b).RemoteWrite2) })
	b.Run("known", func(b *testing.B) { benchmark(b, snappied(b, v2), newTestDecoder(b, remembering()).RemoteWrite2) })
}

func benchmark(b *testing.B, body []byte, decode func([]byte, Reserve) (*Decoded, error)) {
	b.ReportAllocs()
	for b.Loop() {
		out, err := decode(body, nil)
		if err != nil || len(out.Batch.Series) != 2000 {
			b.Fatal(err)
		}
		out.Batch.Release()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/2000, "ns/sample")
}
