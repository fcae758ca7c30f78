package load

import (
	"fmt"
	"net/http"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"

	"github.com/starling-tsdb/starling/internal/faults/ledger"
)

// encode makes the body and the header of a Remote Write request, version 1 or 2.
func encode(version int, samples []ledger.Sample) ([]byte, http.Header, error) {
	marshal, contentType, name := marshalV1, "application/x-protobuf", "0.1.0"
	if version == 2 {
		marshal, contentType, name = marshalV2, "application/x-protobuf;proto=io.prometheus.write.v2.Request", "2.0.0"
	}
	raw, err := marshal(samples)
	if err != nil {
		return nil, nil, fmt.Errorf("encode remote write %d: %w", version, err)
	}
	header := http.Header{}
	header.Set("Content-Type", contentType)
	header.Set("Content-Encoding", "snappy")
	header.Set("X-Prometheus-Remote-Write-Version", name)
	return snappy.Encode(nil, raw), header, nil
}

func marshalV1(samples []ledger.Sample) ([]byte, error) {
	message := prompb.WriteRequest{}
	for _, s := range samples {
		ts := prompb.TimeSeries{Labels: prompb.FromLabels(s.Series.Labels(), nil)}
		p := s.Series.PointAt(s.T)
		if s.Series.Shape == ledger.Native {
			ts.Histograms = []prompb.Histogram{prompb.FromIntHistogram(s.T, native(s))}
		} else {
			ts.Samples = []prompb.Sample{{Timestamp: s.T, Value: p.V}}
		}
		message.Timeseries = append(message.Timeseries, ts)
	}
	return message.Marshal()
}

func marshalV2(samples []ledger.Sample) ([]byte, error) {
	symbols := writev2.NewSymbolTable()
	message := writev2.Request{}
	for _, s := range samples {
		ts := writev2.TimeSeries{LabelsRefs: symbols.SymbolizeLabels(s.Series.Labels(), nil)}
		p := s.Series.PointAt(s.T)
		if s.Series.Shape == ledger.Native {
			ts.Histograms = []writev2.Histogram{writev2.FromIntHistogram(0, s.T, native(s))}
		} else {
			ts.Samples = []writev2.Sample{{Timestamp: s.T, Value: p.V}}
		}
		message.Timeseries = append(message.Timeseries, ts)
	}
	message.Symbols = symbols.Symbols()
	return message.Marshal()
}

// native makes the histogram of which the ledger knows sum and count.
func native(s ledger.Sample) *histogram.Histogram {
	p := s.Series.PointAt(s.T)
	low := int64(p.Count / 2)
	high := int64(p.Count) - low
	return &histogram.Histogram{
		Count: p.Count, Sum: p.V, ZeroThreshold: 1e-6,
		PositiveSpans:   []histogram.Span{{Offset: 0, Length: 2}},
		PositiveBuckets: []int64{low, high - low},
	}
}
