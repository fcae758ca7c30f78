package otlp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/starling-tsdb/starling/internal/tracing"
)

// receiver is a collector. It implements collector.TraceServiceServer and, at /v1/traces,
// http.Handler.
type receiver struct {
	collector.UnimplementedTraceServiceServer

	mu    sync.Mutex
	spans map[string]string // the node that sent it, by the name of a span
	token string
}

func (r *receiver) Export(ctx context.Context, req *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	r.take(req.ResourceSpans, strings.Join(md.Get("token"), ""))
	return &collector.ExportTraceServiceResponse{}, nil
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	export := &collector.ExportTraceServiceRequest{}
	if err = errors.Join(err, proto.Unmarshal(body, export)); err != nil || req.URL.Path != "/v1/traces" {
		http.Error(w, fmt.Sprint(req.URL.Path, err), http.StatusNotFound)
		return
	}
	r.take(export.ResourceSpans, req.Header.Get("token"))
}

func (r *receiver) take(spans []*tracepb.ResourceSpans, token string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.token = token
	for _, of := range spans {
		node := ""
		for _, a := range of.Resource.Attributes {
			if a.Key == "service.instance.id" {
				node = a.Value.GetStringValue()
			}
		}
		for _, scope := range of.ScopeSpans {
			for _, s := range scope.Spans {
				r.spans[s.Name] = node
			}
		}
	}
}

// listen serves both protocols, each at its own URL.
func (r *receiver) listen(t *testing.T) (grpcURL, httpURL string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	collector.RegisterTraceServiceServer(server, r)
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)
	h := httptest.NewServer(r)
	t.Cleanup(h.Close)
	return "http://" + l.Addr().String(), h.URL
}

func options(t *testing.T) Options {
	return Options{
		On: true, Fraction: 1, Node: t.Name(), Version: "v1", Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
	}
}

// trace records a request of two spans.
func trace(tracer *tracing.Tracer) {
	ctx, request := tracer.Serve(context.Background(), nil, "request")
	_, below := tracing.Start(ctx, "below")
	below.End(nil)
	request.End(nil)
}

// TestCollectors: spans arrive over either protocol, wherever the collector is said to be.
func TestCollectors(t *testing.T) {
	r := &receiver{}
	grpcURL, httpURL := r.listen(t)
	t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "token=secret")
	for name, c := range map[string]struct {
		endpoint, variable, value string
		grpc                      bool
	}{
		"flag, gRPC":                 {endpoint: grpcURL, grpc: true},
		"flag, HTTP":                 {endpoint: httpURL},
		"flag, HTTP, with a slash":   {endpoint: httpURL + "/"},
		"flag, HTTP, with a path":    {endpoint: httpURL + "/v1/traces"},
		"variable, gRPC":             {variable: "OTEL_EXPORTER_OTLP_ENDPOINT", value: grpcURL, grpc: true},
		"variable, HTTP":             {variable: "OTEL_EXPORTER_OTLP_ENDPOINT", value: httpURL},
		"variable of traces, HTTP":   {variable: "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", value: httpURL + "/v1/traces"},
		"flag before variable, gRPC": {endpoint: grpcURL, grpc: true, variable: "OTEL_EXPORTER_OTLP_ENDPOINT", value: "http://127.0.0.1:1"},
		"flag before variable, HTTP": {endpoint: httpURL, variable: "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", value: "https://127.0.0.1:1/x"},
	} {
		t.Run(name, func(t *testing.T) {
			if c.variable != "" {
				t.Setenv(c.variable, c.value)
			}
			r.spans, r.token = map[string]string{}, ""
			o := options(t)
			o.Endpoint, o.GRPC = c.endpoint, c.grpc
			p, err := Open(o)
			if err != nil {
				t.Fatal(err)
			}
			trace(p.Tracer())
			if err := p.Close(); err != nil {
				t.Error(err)
			}
			r.mu.Lock()
			defer r.mu.Unlock()
			if want := map[string]string{"request": t.Name(), "below": t.Name()}; !maps.Equal(r.spans, want) || r.token != "secret" {
				t.Errorf("%v with token %q, want %v", r.spans, r.token, want)
			}
			if n := testutil.ToFloat64(p.outlet.exported); n != 2 {
				t.Errorf("%v spans are counted", n)
			}
		})
	}
}

func TestOff(t *testing.T) {
	o := options(t)
	o.On = false
	p, err := Open(o)
	if err != nil || p.Tracer() != nil {
		t.Fatal(err, p.Tracer())
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

// TestFraction: a request of which nobody has decided is traced by chance, and one that comes
// with a span as that says.
func TestFraction(t *testing.T) {
	for _, c := range []struct {
		fraction float64
		sampler  string
		header   string
		want     bool
	}{
		{fraction: 0, want: false},
		{fraction: 1, want: true},
		{fraction: 0, header: "01", want: true},
		{fraction: 1, header: "00", want: false},
		{fraction: AsVariable, sampler: "always_off", header: "01", want: false},
		{fraction: AsVariable, sampler: "parentbased_always_on", want: true},
		{fraction: 0, sampler: "always_on", want: false},
	} {
		t.Setenv("OTEL_TRACES_SAMPLER", c.sampler)
		o := options(t)
		o.Fraction, o.Endpoint = c.fraction, "http://127.0.0.1:1"
		o.Spans = sdktrace.NewBatchSpanProcessor(nil)
		p, err := Open(o)
		if err != nil {
			t.Fatal(err)
		}
		header := http.Header{}
		if c.header != "" {
			header.Set("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-"+c.header)
		}
		_, span := p.Tracer().Serve(t.Context(), header, "GET")
		if got := span != nil; got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
		span.End(nil)
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
}

// hung is a collector that takes nothing until it is given up.
type hung struct{}

func (hung) ExportSpans(ctx context.Context, _ []sdktrace.ReadOnlySpan) error {
	<-ctx.Done()
	return ctx.Err()
}

func (hung) Shutdown(context.Context) error { return nil }

// text is what is logged.
type text struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (x *text) Write(p []byte) (int, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.b.Write(p)
}

func (x *text) String() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.b.String()
}

// TestHungCollector: what a collector does not take is dropped, counted, and told of once a
// minute; who records spans never waits, and who closes the provider waits for a bounded time.
func TestHungCollector(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log text
		o := options(t)
		o.Logger = slog.New(slog.NewTextHandler(&log, nil))
		out := newOutlet(&o)
		o.Spans, o.Registerer = out.to(hung{}), prometheus.NewRegistry()
		p, err := Open(o)
		if err != nil {
			t.Fatal(err)
		}
		p.outlet = out
		began := time.Now()
		for range 2 * queueSpans {
			trace(p.Tracer())
		}
		if waited := time.Since(began); waited > 0 {
			t.Errorf("recording took %s", waited)
		}
		synctest.Wait()
		full := testutil.ToFloat64(out.dropped.WithLabelValues(queueFull))
		if full != 4*queueSpans-queueSpans || strings.Count(log.String(), "level=WARN") != 1 {
			t.Errorf("%v spans are dropped, and it is logged:\n%s", full, log.String())
		}
		<-time.After(3 * time.Minute)
		synctest.Wait()
		if n := strings.Count(log.String(), "level=WARN"); n < 2 || n > 4 {
			t.Errorf("in three minutes it is logged %d times:\n%s", n, log.String())
		}
		for range 100 {
			trace(p.Tracer())
		}
		began = time.Now()
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		if waited := time.Since(began); waited > flushTimeout {
			t.Errorf("closing took %s", waited)
		}
		synctest.Wait()
		lost := testutil.ToFloat64(out.dropped.WithLabelValues(notTaken)) + testutil.ToFloat64(out.dropped.WithLabelValues(queueFull))
		if lost != 4*queueSpans+200 || testutil.ToFloat64(out.exported) != 0 {
			t.Errorf("%v spans are counted as lost", lost)
		}
	})
}

// TestUnreachableCollector: nobody listens, over either protocol.
func TestUnreachableCollector(t *testing.T) {
	for _, overGRPC := range []bool{true, false} {
		o := options(t)
		o.Endpoint, o.GRPC = "http://127.0.0.1:1", overGRPC
		p, err := Open(o)
		if err != nil {
			t.Fatal(err)
		}
		trace(p.Tracer())
		began := time.Now()
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		if waited := time.Since(began); waited > flushTimeout+2*time.Second {
			t.Errorf("closing took %s", waited)
		}
		if n := testutil.ToFloat64(p.outlet.dropped.WithLabelValues(notTaken)); n != 2 {
			t.Errorf("%v spans are counted as dropped", n)
		}
	}
}

// TestResource: what the environment calls the service comes before what it is called otherwise.
func TestResource(t *testing.T) {
	t.Setenv("OTEL_SERVICE_NAME", "starling-eu")
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "team=metrics,service.version=v0")
	o := options(t)
	res, err := o.resource()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, a := range res.Attributes() {
		got = append(got, string(a.Key)+"="+a.Value.AsString())
	}
	if want := []string{"service.instance.id=TestResource", "service.name=starling-eu", "service.version=v0", "team=metrics"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
