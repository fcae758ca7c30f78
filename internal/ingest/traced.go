package ingest

import (
	"context"

	"github.com/starling-tsdb/starling/internal/series"
	"github.com/starling-tsdb/starling/internal/table"
	"github.com/starling-tsdb/starling/internal/tracing"
)

// startWrite begins the span of a write.
func startWrite(ctx context.Context, b *series.Batch) (context.Context, *tracing.Span) {
	ctx, span := tracing.Start(ctx, "write")
	carries(span, b)
	return ctx, span
}

// carries says what a span is about. Samples are counted for that alone.
func carries(span *tracing.Span, b *series.Batch) {
	if span != nil {
		span.Set(tracing.Series(len(b.Series)), tracing.Samples(b.NumSamples()))
	}
}

func endWrite(span *tracing.Span, res *series.Result, err error) {
	switch {
	case err != nil:
		span.Set(tracing.Outcome("short"))
	case len(res.Refused) > 0:
		span.Set(tracing.Outcome("refused"), tracing.Int("starling.refused", len(res.Refused)))
	default:
		span.Set(tracing.Outcome("written"))
	}
	span.End(err)
}

// planned cuts a batch by the assignments that a table writes by.
func planned(ctx context.Context, t *table.Table, b *series.Batch, placements []Placement) plan {
	_, span := tracing.Start(ctx, "plan", tracing.Int("starling.epoch", t.Epoch))
	p := split(b, t.Writing(), placements)
	span.Set(tracing.Int("starling.owners", len(p.parts)), tracing.Int("starling.owners.removed", len(p.gone)))
	span.End(nil)
	return p
}

// startAppend begins the span of what an owner is sent.
func startAppend(ctx context.Context, p *part) (context.Context, *tracing.Span) {
	ctx, span := tracing.Ask(ctx, "append", tracing.Peer(p.node))
	carries(span, p.batch)
	return ctx, span
}

func endAppend(span *tracing.Span, a *answer) {
	switch {
	case span == nil: // To look at an error allocates.
	case asksForPlan(a.err):
		span.Set(tracing.Outcome("other epoch"))
	case a.err != nil:
		span.Set(tracing.Outcome("failed"))
	case len(a.confirmation.Refusals) > 0:
		span.Set(tracing.Outcome("refused"), tracing.Int("starling.refused", len(a.confirmation.Refusals)))
	default:
		span.Set(tracing.Outcome("confirmed"))
	}
	span.End(a.err)
}

// askHolder begins the span of what a holder is asked about what another owner lacks.
func askHolder(ctx context.Context, name string, r request) (context.Context, *tracing.Span) {
	return tracing.Ask(ctx, name, tracing.Peer(r.by.part.node), tracing.Text("starling.lacking", string(r.node)))
}
