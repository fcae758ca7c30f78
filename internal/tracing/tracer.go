package tracing

import (
	"context"
	"net/http"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// Tracer begins the spans of requests that come in. Nil is one that records nothing. It may be
// used by several goroutines.
type Tracer struct{ tracer trace.Tracer }

// New returns a tracer whose spans go to what the provider has for them.
func New(p trace.TracerProvider) *Tracer { return &Tracer{p.Tracer(scope)} }

// Serve begins the span of a request of a client, within what the header says of it in W3C's
// traceparent.
func (t *Tracer) Serve(ctx context.Context, header http.Header, name string) (context.Context, *Span) {
	if t == nil {
		return ctx, nil
	}
	within := propagation.TraceContext{}.Extract(ctx, propagation.HeaderCarrier(header))
	return begin(within, t.tracer, name, trace.SpanKindServer, nil)
}

// carriedBytes is the length of what is carried from one node to another: the number of the
// trace, that of the span, and the flags, as in traceparent.
const carriedBytes = 16 + 8 + 1

// Carry returns what tells another node which span a request to it is part of; nil if ctx is in
// none.
func Carry(ctx context.Context) []byte {
	s := Of(ctx)
	if s == nil {
		return nil
	}
	sc := s.span.SpanContext()
	trace, span := sc.TraceID(), sc.SpanID()
	carried := make([]byte, 0, carriedBytes)
	carried = append(append(carried, trace[:]...), span[:]...)
	return append(carried, byte(sc.TraceFlags()))
}

// Continue begins the span of a request of another node, if it carries one. What is no span is
// passed over: a request is worth more than its trace.
func (t *Tracer) Continue(ctx context.Context, carried []byte, name string) (context.Context, *Span) {
	if t == nil || len(carried) != carriedBytes {
		return ctx, nil
	}
	remote := trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID(carried[:16]), SpanID: trace.SpanID(carried[16:24]), TraceFlags: trace.TraceFlags(carried[24]),
		Remote: true,
	})
	if !remote.IsValid() || !remote.IsSampled() {
		return ctx, nil
	}
	return begin(trace.ContextWithSpanContext(ctx, remote), t.tracer, name, trace.SpanKindServer, nil)
}
