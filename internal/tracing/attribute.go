package tracing

import (
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/starling-tsdb/starling/internal/table"
)

// Attribute is what a span says of itself. The keys are those of OpenTelemetry's conventions where
// these have one, and begin with "starling." elsewhere.
type Attribute = attribute.KeyValue

// maxText bounds the texts of attributes and of failures, in bytes.
const maxText = 1 << 10

func bounded(text string) string {
	if len(text) <= maxText {
		return text
	}
	return strings.ToValidUTF8(text[:maxText], "") + "…"
}

// Text is an attribute with a text, which is cut if it is long.
func Text(key, text string) Attribute { return attribute.String(key, bounded(text)) }

// Int is an attribute with a number.
func Int[N int | int64 | uint64](key string, n N) Attribute { return attribute.Int64(key, int64(n)) }

// Peer is the owner that is asked.
func Peer(id table.NodeID) Attribute { return attribute.String("starling.peer", string(id)) }

// Series is a number of series.
func Series[N int | int64](n N) Attribute { return Int("starling.series", n) }

// Samples is a number of samples.
func Samples[N int | int64](n N) Attribute { return Int("starling.samples", n) }

// Bytes is how much was sent or received.
func Bytes(n int64) Attribute { return Int("starling.bytes", n) }

// Outcome is what came of it, a word or two of few.
func Outcome(text string) Attribute { return attribute.String("starling.outcome", text) }

// Pushed tells whether a part of a query was evaluated by the owners of its series.
func Pushed(yes bool) Attribute { return attribute.Bool("starling.pushed", yes) }

// Reason is why it came to that.
func Reason(text string) Attribute { return Text("starling.reason", text) }

// Seconds is a time that something took.
func Seconds(key string, d time.Duration) Attribute { return attribute.Float64(key, d.Seconds()) }
