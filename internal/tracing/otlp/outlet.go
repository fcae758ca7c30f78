package otlp

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"golang.org/x/time/rate"
)

// Why spans are dropped, as the metric has it.
const (
	queueFull = "queue-full"
	notTaken  = "not-taken"
)

// warnEvery is how often it is logged that spans are dropped.
const warnEvery = time.Minute

var errQueueFull = errors.New("more spans are waiting than the queue holds")

// outlet is where spans leave the node. It counts what becomes of them: OpenTelemetry's own queue
// drops them silently, and tells of errors to a handler that the whole process shares.
type outlet struct {
	logger   *slog.Logger
	exported prometheus.Counter
	dropped  *prometheus.CounterVec
	// held are the spans that have ended and are neither sent nor dropped.
	held atomic.Int64
	// untold are those dropped since that was logged.
	untold atomic.Int64
	warn   rate.Sometimes
	// life ends when it is time to give up.
	life   context.Context
	giveUp context.CancelFunc
}

func newOutlet(o *Options) *outlet {
	f := promauto.With(o.Registerer)
	out := &outlet{
		logger: o.Logger,
		exported: f.NewCounter(prometheus.CounterOpts{
			Name: "starling_tracing_spans_exported_total",
			Help: "Spans that a collector has taken.",
		}),
		dropped: f.NewCounterVec(prometheus.CounterOpts{
			Name: "starling_tracing_spans_dropped_total",
			Help: "Spans that were dropped, by reason: the queue was full, or the collector did not take all of a batch, of which all count.",
		}, []string{"reason"}),
		warn: rate.Sometimes{First: 1, Interval: warnEvery},
	}
	for _, reason := range []string{queueFull, notTaken} {
		out.dropped.WithLabelValues(reason)
	}
	out.life, out.giveUp = context.WithCancel(context.Background())
	return out
}

// to returns what has spans exported in batches.
func (o *outlet) to(exporter sdktrace.SpanExporter) sdktrace.SpanProcessor {
	return entrance{o, sdktrace.NewBatchSpanProcessor(counting{o, exporter},
		sdktrace.WithMaxQueueSize(queueSpans), sdktrace.WithMaxExportBatchSize(batchSpans), sdktrace.WithBatchTimeout(batchDelay))}
}

// entrance lets no more spans in than the queue behind it holds, so that one which is let in is
// exported, or is said not to be.
type entrance struct {
	outlet *outlet
	sdktrace.SpanProcessor
}

// OnEnd implements sdktrace.SpanProcessor.
func (e entrance) OnEnd(s sdktrace.ReadOnlySpan) {
	if e.outlet.held.Add(1) > queueSpans {
		e.outlet.held.Add(-1)
		e.outlet.drop(1, queueFull, errQueueFull)
		return
	}
	e.SpanProcessor.OnEnd(s)
}

// counting counts what an exporter does.
type counting struct {
	outlet *outlet
	sdktrace.SpanExporter
}

// ExportSpans implements sdktrace.SpanExporter. It never fails, since all that is to be said of a
// failure it says itself.
func (c counting) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.outlet.life, cancel)()
	err := c.SpanExporter.ExportSpans(ctx, spans)
	c.outlet.held.Add(-int64(len(spans)))
	if err != nil {
		c.outlet.drop(len(spans), notTaken, err)
		return nil
	}
	c.outlet.exported.Add(float64(len(spans)))
	return nil
}

// drop counts spans that nobody gets to see.
func (o *outlet) drop(n int, reason string, err error) {
	o.dropped.WithLabelValues(reason).Add(float64(n))
	o.untold.Add(int64(n))
	o.warn.Do(func() {
		o.logger.Warn("Spans of traces are dropped", "spans", o.untold.Swap(0), "reason", reason, "err", err)
	})
}
