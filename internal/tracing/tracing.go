// Package tracing follows a request through a node, and from there to the next ones, by spans of
// OpenTelemetry that travel in contexts.
//
// A span is begun where a request comes in, by a Tracer, and below it by Start and Ask, which do
// nothing in a context without one: so a request that is not sampled costs its look-ups in
// contexts, and allocates nothing. The methods of spans and tracers that are nil do nothing.
//
// There is no state but that of contexts and tracers: two nodes in one process have two.
package tracing

import (
	"context"
	"slices"

	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

// scope is what the spans are told to be made by.
const scope = "github.com/starling-tsdb/starling"

// Span is a part of a request that is being recorded. It may be used by several goroutines, and is
// ended once. Nil stands for one that is not recorded.
type Span struct {
	tracer trace.Tracer
	span   trace.Span
}

// contextKey leads to the *Span of a context. OpenTelemetry's own key would not do: Prometheus's
// engine puts spans of its own there, which record nothing.
type contextKey struct{}

// Of returns the span that ctx is in, nil if there is none.
func Of(ctx context.Context) *Span {
	s, _ := ctx.Value(contextKey{}).(*Span)
	return s
}

// Without returns a context that is in no span.
func Without(ctx context.Context) context.Context {
	if Of(ctx) == nil {
		return ctx
	}
	return context.WithValue(ctx, contextKey{}, (*Span)(nil))
}

// Start begins a span within that of ctx, for work of this node, and returns a context in it.
func Start(ctx context.Context, name string, attributes ...Attribute) (context.Context, *Span) {
	return below(ctx, name, trace.SpanKindInternal, attributes)
}

// Ask begins a span within that of ctx, for what an owner is asked, be it another node or this
// one. It is Start in all else.
func Ask(ctx context.Context, name string, attributes ...Attribute) (context.Context, *Span) {
	return below(ctx, name, trace.SpanKindClient, attributes)
}

func below(ctx context.Context, name string, kind trace.SpanKind, attributes []Attribute) (context.Context, *Span) {
	parent := Of(ctx)
	if parent == nil {
		return ctx, nil
	}
	// A copy: what is handed on would have to be allocated by all callers, recorded or not.
	return begin(parent.within(ctx), parent.tracer, name, kind, slices.Clone(attributes))
}

func (s *Span) within(ctx context.Context) context.Context { return trace.ContextWithSpan(ctx, s.span) }

// begin begins a span within what OpenTelemetry finds in ctx. Unless it is sampled the context has
// no span.
func begin(ctx context.Context, t trace.Tracer, name string, kind trace.SpanKind, attributes []Attribute) (context.Context, *Span) {
	_, span := t.Start(ctx, name, trace.WithSpanKind(kind), trace.WithAttributes(attributes...))
	if !span.IsRecording() {
		return ctx, nil
	}
	s := &Span{t, span}
	return context.WithValue(ctx, contextKey{}, s), s
}

// Set adds attributes, in place of what had the same keys.
func (s *Span) Set(attributes ...Attribute) {
	if s != nil {
		s.span.SetAttributes(slices.Clone(attributes)...)
	}
}

// Rename gives the span another name, when more is known.
func (s *Span) Rename(name string) {
	if s != nil {
		s.span.SetName(name)
	}
}

// Fail marks the span as failed, for a reason.
func (s *Span) Fail(reason string) {
	if s != nil {
		s.span.SetStatus(codes.Error, bounded(reason))
	}
}

// End ends the span, which has failed unless err is nil.
func (s *Span) End(err error) {
	if s == nil {
		return
	}
	if err != nil {
		s.Fail(err.Error())
	}
	s.span.End()
}
