package drive

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"

	"github.com/starling-tsdb/starling/bench/ingest/workload"
)

// Verify reads everything back from one server by remote read, which answers samples as they
// are stored, and compares it with what was acknowledged. progress is called after each metric.
func (l *Load) Verify(ctx context.Context, target string, progress func(done, all int)) (*workload.Findings, error) {
	s := l.opts.Shape
	all := &workload.Findings{}
	for metric := range s.Metrics() {
		answer, err := read(ctx, target, s, workload.Metric(metric))
		if err != nil {
			return all, fmt.Errorf("read %s back: %w", workload.Metric(metric), err)
		}
		all.Add(*s.Verify(metric, answer, l.acknowledged))
		progress(metric+1, s.Metrics())
	}
	return all, nil
}

// read asks for all samples of a metric.
func read(ctx context.Context, target string, s workload.Shape, metric string) ([]*prompb.TimeSeries, error) {
	question := prompb.ReadRequest{
		AcceptedResponseTypes: []prompb.ReadRequest_ResponseType{prompb.ReadRequest_SAMPLES},
		Queries: []*prompb.Query{{
			StartTimestampMs: s.Time(0), EndTimestampMs: s.Time(s.Scrapes - 1),
			Matchers: []*prompb.LabelMatcher{
				{Type: prompb.LabelMatcher_EQ, Name: "__name__", Value: metric},
				{Type: prompb.LabelMatcher_EQ, Name: workload.ClusterLabel, Value: s.Cluster()},
			},
		}},
	}
	raw, err := question.Marshal()
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target+"/api/v1/read", bytes.NewReader(snappy.Encode(nil, raw)))
	if err != nil {
		return nil, err
	}
	req.Header = http.Header{
		"Content-Type": {"application/x-protobuf"}, "Content-Encoding": {"snappy"},
		"X-Prometheus-Remote-Read-Version": {"0.1.0"},
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answered %d: %s", target, resp.StatusCode, b[:min(len(b), 200)])
	}
	if raw, err = snappy.Decode(nil, b); err != nil {
		return nil, err
	}
	var reply prompb.ReadResponse
	if err := reply.Unmarshal(raw); err != nil {
		return nil, err
	}
	if len(reply.Results) != 1 {
		return nil, fmt.Errorf("%s answered one query with %d results", target, len(reply.Results))
	}
	return reply.Results[0].Timeseries, nil
}
