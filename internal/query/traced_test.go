package query

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"

	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/starling-tsdb/starling/internal/tracing"
)

// TestOutcomes: the span of what a node was asked says in a word what came of it.
func TestOutcomes(t *testing.T) {
	spans := tracetest.NewSpanRecorder()
	ctx, request := tracing.New(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))).Serve(t.Context(), http.Header{}, "GET")
	defer request.End(nil)
	for _, c := range []struct {
		outcome string
		cause   error
		err     error
		says    string
	}{
		{outcome: "answered"},
		{outcome: "failed", err: errors.New("connection refused"), says: "connection refused"},
		{outcome: "refused", err: errNotAlone, says: errNotAlone.Error()},
		{outcome: "given up", cause: context.Canceled, err: fmt.Errorf("reading: %w", context.Canceled), says: "reading: context canceled"},
		{outcome: "failed", cause: fmt.Errorf("%w: no word", errSilent), err: context.Canceled, says: errSilent.Error() + ": no word"},
	} {
		ctx, cancel := context.WithCancelCause(ctx)
		if c.cause != nil {
			cancel(c.cause)
		}
		_, span := tracing.Ask(ctx, "ask")
		endAsked(ctx, span, c.err)
		cancel(nil)
		ended := spans.Ended()
		s := ended[len(ended)-1]
		if got := s.Attributes()[0].Value.AsString(); got != c.outcome || s.Status().Description != c.says || (s.Status().Code == codes.Error) != (c.err != nil) {
			t.Errorf("%v: %q, %q", c.err, got, s.Status().Description)
		}
	}
}
