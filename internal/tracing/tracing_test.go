package tracing

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/starling-tsdb/starling/internal/table"
)

// recorder returns a tracer that samples what its caller does, and what it records.
func recorder() (*Tracer, *tracetest.SpanRecorder) {
	spans := tracetest.NewSpanRecorder()
	return New(sdktrace.NewTracerProvider(
		sdktrace.WithSpanProcessor(spans), sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.NeverSample())),
	)), spans
}

const traceID, spanID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"

// header is that of a request of a client, whose span is sampled if flags is "01".
func header(flags string) http.Header {
	return http.Header{"Traceparent": {"00-" + traceID + "-" + spanID + "-" + flags}}
}

func TestSpansAreBelowThatOfTheClient(t *testing.T) {
	tracer, spans := recorder()
	ctx, request := tracer.Serve(t.Context(), header("01"), "GET")
	request.Rename("GET /x")
	ctx, ask := Ask(ctx, "ask", Peer("n1"))
	_, remote := tracer.Continue(context.Background(), Carry(ctx), "serve")
	remote.End(nil)
	ask.Set(Series(3), Samples(int64(4)), Bytes(5), Outcome("failed"))
	ask.End(errors.New("it is down"))
	request.End(nil)

	ended := spans.Ended()
	if len(ended) != 3 {
		t.Fatal(ended)
	}
	served, asked, root := ended[0], ended[1], ended[2]
	for _, s := range ended {
		if s.SpanContext().TraceID().String() != traceID {
			t.Errorf("%s is of trace %s", s.Name(), s.SpanContext().TraceID())
		}
	}
	if root.Name() != "GET /x" || root.Parent().SpanID().String() != spanID || root.SpanKind() != trace.SpanKindServer {
		t.Errorf("%+v", root)
	}
	if asked.Parent().SpanID() != root.SpanContext().SpanID() || asked.SpanKind() != trace.SpanKindClient || asked.Status().Code != codes.Error || len(asked.Attributes()) != 5 {
		t.Errorf("%+v", asked)
	}
	if served.Parent().SpanID() != asked.SpanContext().SpanID() || !served.Parent().IsRemote() || served.SpanKind() != trace.SpanKindServer {
		t.Errorf("%+v", served)
	}
}

// Prometheus's engine begins spans that record nothing, by the tracer of the process.
func TestOtherTracersDoNotEndATrace(t *testing.T) {
	tracer, spans := recorder()
	ctx, request := tracer.Serve(t.Context(), header("01"), "GET")
	ctx, _ = otel.Tracer("").Start(ctx, "of another")
	_, below := Start(ctx, "below")
	below.End(nil)
	request.End(nil)
	ended := spans.Ended()
	if len(ended) != 2 || ended[0].Parent().SpanID() != ended[1].SpanContext().SpanID() {
		t.Errorf("%+v", ended)
	}
}

func TestWhatIsNotSampledLeavesNothing(t *testing.T) {
	tracer, spans := recorder()
	var off *Tracer
	for name, serve := range map[string]func() (context.Context, *Span){
		"off":                 func() (context.Context, *Span) { return off.Serve(t.Context(), header("01"), "GET") },
		"the client decided":  func() (context.Context, *Span) { return tracer.Serve(t.Context(), header("00"), "GET") },
		"nobody else decided": func() (context.Context, *Span) { return tracer.Serve(t.Context(), nil, "GET") },
		"no number of a trace": func() (context.Context, *Span) {
			return tracer.Serve(t.Context(), http.Header{"Traceparent": {"00-x"}}, "GET")
		},
		"nothing carried":    func() (context.Context, *Span) { return tracer.Continue(t.Context(), nil, "serve") },
		"too little carried": func() (context.Context, *Span) { return tracer.Continue(t.Context(), make([]byte, 24), "serve") },
		"zeros carried":      func() (context.Context, *Span) { return tracer.Continue(t.Context(), make([]byte, 25), "serve") },
		"not sampled elsewhere": func() (context.Context, *Span) {
			return tracer.Continue(t.Context(), append([]byte(strings.Repeat("x", 24)), 0), "serve")
		},
		"off, though carried": func() (context.Context, *Span) {
			return off.Continue(t.Context(), []byte(strings.Repeat("\x01", 25)), "serve")
		},
	} {
		ctx, span := serve()
		if span != nil || Of(ctx) != nil || Carry(ctx) != nil {
			t.Errorf("%s: %+v, %x", name, span, Carry(ctx))
		}
		_, below := Start(ctx, "below")
		below.End(errors.New("unseen"))
	}
	if len(spans.Started()) > 0 {
		t.Errorf("%+v", spans.Started())
	}
}

func TestWithout(t *testing.T) {
	tracer, _ := recorder()
	ctx, request := tracer.Serve(t.Context(), header("01"), "GET")
	defer request.End(nil)
	if Of(ctx) == nil || Of(Without(ctx)) != nil || Carry(Without(ctx)) != nil {
		t.Error("a context without a span is in one")
	}
	if ctx := t.Context(); Without(ctx) != ctx {
		t.Error("there was nothing to leave out")
	}
}

func TestTextsAreBounded(t *testing.T) {
	tracer, spans := recorder()
	_, request := tracer.Serve(t.Context(), header("01"), "GET")
	long := strings.Repeat("ä", 10_000)
	request.Set(Text("starling.query", "x"+long))
	request.End(errors.New(long))
	s := spans.Ended()[0]
	if n := len(s.Attributes()[0].Value.AsString()); n > maxText+3 || n < maxText-1 {
		t.Errorf("the text has %d bytes", n)
	}
	if n := len(s.Status().Description); n > maxText+3 || n < maxText-1 {
		t.Errorf("the reason has %d bytes", n)
	}
}

// TestOffCostsNothing: all that a request does where it is not traced allocates nothing.
func TestOffCostsNothing(t *testing.T) {
	var off *Tracer
	h, id := header("01"), table.NodeID("n1")
	err := errors.New("x")
	allocated := testing.AllocsPerRun(100, func() {
		ctx, request := off.Serve(t.Context(), h, "GET")
		ctx, span := Start(ctx, "write", Series(1), Samples(int64(2)))
		ctx, ask := Ask(ctx, "append", Peer(id), Text("starling.query", "sum(m)"))
		ask.Set(Bytes(int64(len(Carry(ctx)))), Outcome("failed"), Pushed(true), Reason("none"), Seconds("starling.reading", time.Second))
		Of(Without(ctx)).Set(Int("starling.owners", 3))
		ask.End(err)
		span.End(nil)
		_, served := off.Continue(ctx, nil, "serve")
		served.End(nil)
		request.Rename("GET /x")
		request.Fail("x")
		request.End(nil)
	})
	if allocated > 0 {
		t.Errorf("%v allocations", allocated)
	}
}

// BenchmarkUnsampled is a request that comes in without a span and is not sampled, with the seven
// spans that a write has on the node that takes it.
func BenchmarkUnsampled(b *testing.B) {
	tracer := New(sdktrace.NewTracerProvider(sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(0)))))
	for name, t := range map[string]*Tracer{"off": nil, "on": tracer} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				ctx, request := t.Serve(b.Context(), http.Header{}, "POST")
				for range 7 {
					_, span := Ask(ctx, "append", Peer("n1"))
					span.Set(Outcome("confirmed"))
					span.End(nil)
				}
				request.End(nil)
			}
		})
	}
}
