package api

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/starling-tsdb/starling/internal/series"
)

// otlpMetrics is a request with a gauge: a good point, and as many without a value.
func otlpMetrics(bad int) pmetricotlp.ExportRequest {
	md := pmetric.NewMetrics()
	m := md.ResourceMetrics().AppendEmpty().ScopeMetrics().AppendEmpty().Metrics().AppendEmpty()
	m.SetName("temp")
	points := m.SetEmptyGauge().DataPoints()
	at := pcommon.NewTimestampFromTime(time.UnixMilli(1000))
	p := points.AppendEmpty()
	p.SetTimestamp(at)
	p.SetDoubleValue(1)
	for range bad {
		points.AppendEmpty().SetTimestamp(at)
	}
	return pmetricotlp.NewExportRequestFromMetrics(md)
}

func TestWriteOTLPStatus(t *testing.T) {
	for _, tc := range []struct {
		name   string
		bad    int
		writer writerFunc
		code   int
		status codes.Code
		text   string
	}{
		{"written", 0, storeAll(), 200, 0, ""},
		{"invalid", 2, storeAll(), 400, codes.InvalidArgument, `2 invalid, everything else is written: point {} of metric "temp": no value`},
		{"refused", 0, storeAll(series.Refusal{Message: "too old sample"}), 400, codes.InvalidArgument, `series {__name__="temp"}: sample at 1000: too old sample`},
		{"short and invalid", 1, func(context.Context, *series.Batch) (series.Result, error) {
			return series.Result{}, errors.New("no quorum")
		}, 503, codes.Unavailable, "no quorum"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			req := otlpMetrics(tc.bad)
			inProto, err := req.MarshalProto()
			if err != nil {
				t.Fatal(err)
			}
			inJSON, err := req.MarshalJSON()
			if err != nil {
				t.Fatal(err)
			}
			h := newWriteHandlers(t, tc.writer)
			w := post(h.OTLP, inProto, "Content-Type", "application/x-protobuf")
			if w.Code != tc.code || w.Header().Get("Content-Type") != "application/x-protobuf" || (w.Header().Get("Retry-After") != "") != (tc.code == 503) {
				t.Errorf("protobuf: status %d, header %v, want %d", w.Code, w.Header(), tc.code)
			}
			if tc.code == 200 {
				if err := pmetricotlp.NewExportResponse().UnmarshalProto(w.Body.Bytes()); err != nil {
					t.Errorf("protobuf: body: %v", err)
				}
			} else {
				var s spb.Status
				if err := proto.Unmarshal(w.Body.Bytes(), &s); err != nil || codes.Code(s.Code) != tc.status || !strings.Contains(s.Message, tc.text) {
					t.Errorf("protobuf: got %v, %v, want %v with %q", &s, err, tc.status, tc.text)
				}
			}
			w = post(h.OTLP, inJSON, "Content-Type", "application/json; charset=utf-8")
			var body struct {
				Code    int
				Message string
			}
			if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil {
				t.Errorf("JSON: %v in %s", err, w.Body)
			}
			if w.Code != tc.code || w.Header().Get("Content-Type") != "application/json" ||
				codes.Code(body.Code) != tc.status || !strings.Contains(body.Message, tc.text) {
				t.Errorf("JSON: status %d, %+v, want %d with %q", w.Code, body, tc.code, tc.text)
			}
		})
	}
}

// What is lost beside samples is told in the place that the protocol has for it.
func TestWriteOTLPWarning(t *testing.T) {
	req := otlpMetrics(0)
	s := req.Metrics().ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().AppendEmpty()
	s.SetName("c")
	sum := s.SetEmptySum()
	sum.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
	p := sum.DataPoints().AppendEmpty()
	p.SetTimestamp(1e9)
	p.SetIntValue(1)
	p.Exemplars().AppendEmpty()
	b, err := req.MarshalProto()
	if err != nil {
		t.Fatal(err)
	}
	w := post(newWriteHandlers(t, storeAll()).OTLP, b, "Content-Type", "application/x-protobuf")
	res := pmetricotlp.NewExportResponse()
	if err := res.UnmarshalProto(w.Body.Bytes()); err != nil {
		t.Fatal(err)
	}
	if w.Code != 200 || res.PartialSuccess().RejectedDataPoints() != 0 || !strings.Contains(res.PartialSuccess().ErrorMessage(), `exemplar of metric "c": no value`) {
		t.Errorf("status %d, %q", w.Code, res.PartialSuccess().ErrorMessage())
	}
}

func TestWriteOTLPBodies(t *testing.T) {
	body, err := otlpMetrics(0).MarshalProto()
	if err != nil {
		t.Fatal(err)
	}
	zip := func(b []byte) []byte {
		var buf bytes.Buffer
		w := gzip.NewWriter(&buf)
		_, _ = w.Write(b) // A buffer takes everything.
		_ = w.Close()
		return buf.Bytes()
	}
	for _, tc := range []struct {
		name, contentType, encoding string
		body                        []byte
		code                        int
	}{
		{"gzip", "application/x-protobuf", "gzip", zip(body), 200},
		{"gzip bomb", "application/x-protobuf", "gzip", zip(make([]byte, 40<<20)), 413},
		{"not gzip", "application/x-protobuf", "gzip", body, 400},
		{"snappy", "application/x-protobuf", "snappy", body, 415},
		{"text", "text/plain", "", body, 415},
		{"no type", "", "", body, 415},
		{"not protobuf", "application/x-protobuf", "", []byte("\x0a\xff"), 400},
		{"not JSON", "application/json", "", []byte("{"), 400},
	} {
		w := post(newWriteHandlers(t, storeAll()).OTLP, tc.body, "Content-Type", tc.contentType, "Content-Encoding", tc.encoding)
		if w.Code != tc.code {
			t.Errorf("%s: status %d (%s), want %d", tc.name, w.Code, w.Body, tc.code)
		}
	}
}
