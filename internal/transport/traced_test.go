package transport

import (
	"context"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/starling-tsdb/starling/internal/series"
	"github.com/starling-tsdb/starling/internal/tracing"
	"github.com/starling-tsdb/starling/internal/transport/peerpb"
)

// sampledSpan returns a context in a span, and what has it recorded.
func sampledSpan(t *testing.T) (context.Context, *tracing.Tracer, *tracetest.SpanRecorder) {
	t.Helper()
	spans := tracetest.NewSpanRecorder()
	tracer := tracing.New(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)))
	ctx, span := tracer.Serve(t.Context(), http.Header{}, "request")
	t.Cleanup(func() { span.End(nil) })
	return ctx, tracer, spans
}

// requests sends one of each kind to a peer: an append, one with an answer, and one with a stream
// of them.
func (r *rig) requests(ctx context.Context, t *testing.T) {
	t.Helper()
	peer := r.peers.Peer("remote")
	if _, err := peer.Append(ctx, epoch(1), oneSample()); err != nil {
		t.Fatal(err)
	}
	if err := peer.Note(ctx, epoch(1), "other", 1); err != nil {
		t.Fatal(err)
	}
	set := peer.Select(ctx, epoch(1), Selection{Maxt: 100, Hints: &storage.SelectHints{End: 100}, Matchers: everything})
	for set.Next() {
		_ = set.At()
	}
	if err := set.Err(); err != nil {
		t.Fatal(err)
	}
}

func oneSample() *series.Batch {
	return &series.Batch{Series: []series.Series{{Labels: labels.FromStrings("__name__", "m"), Samples: []series.Sample{{T: 1, V: 1}}}}}
}

// Requests are part of the span that they are sent in, if that is sampled, and the peer traces
// at all.
func TestRequestsCarryTheirSpan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, tracer, spans := sampledSpan(t)
		r := newRig(t)
		r.requests(ctx, t)
		if n := len(spans.Ended()); n > 0 {
			t.Fatalf("a peer that does not trace has %d spans", n)
		}
		r.stop(time.Second)
		r.tracer = tracer
		r.serve(t)
		<-time.After(time.Second)
		r.requests(t.Context(), t)
		if n := len(spans.Ended()); n > 0 {
			t.Fatalf("requests in no span have %d", n)
		}
		var inSpan bool
		r.remote.onAppend(func(ctx context.Context, _ *series.Batch) { inSpan = tracing.Of(ctx) != nil })
		r.requests(ctx, t)
		synctest.Wait()
		var names []string
		for _, s := range spans.Ended() {
			names = append(names, s.Name())
			if s.Parent().SpanID() != spans.Started()[0].SpanContext().SpanID() {
				t.Errorf("%s is below %s", s.Name(), s.Parent().SpanID())
			}
		}
		if want := []string{"starling.peer.v1.Peer/Append", "starling.peer.v1.Peer/Note", "starling.peer.v1.Peer/Select"}; !slices.Equal(names, want) || !inSpan {
			t.Errorf("%q, want %q; the append is in a span: %v", names, want, inSpan)
		}
	})
}

// encodedIn is what an append in ctx is sent as.
func encodedIn(ctx context.Context, t *testing.T) *peerpb.WriteFrame {
	t.Helper()
	s := newAppendStream(nil, "c")
	defer s.cancel()
	c := &appendCall{epoch: 1, batch: oneSample(), items: 1, trace: tracing.Carry(ctx), done: make(chan struct{}), request: 1}
	f := s.encode(c)
	if f == nil {
		t.Fatal(c.err)
	}
	return f
}

// An append that is not sampled is sent as by a node that cannot trace; of one that is, a node
// that cannot reads all the rest.
func TestFramesOfEarlierVersions(t *testing.T) {
	ctx, _, _ := sampledSpan(t)
	plain, traced := encodedIn(t.Context(), t), encodedIn(ctx, t)
	if len(plain.Trace) != 0 || len(traced.Trace) != 25 || proto.Size(traced)-proto.Size(plain) != 25+2 {
		t.Errorf("%d and %d bytes, of traces %d and %d", proto.Size(plain), proto.Size(traced), len(plain.Trace), len(traced.Trace))
	}
	encoded, err := proto.Marshal(traced)
	if err != nil {
		t.Fatal(err)
	}
	earlier := dynamicpb.NewMessage(earlierFrame(t))
	if err := proto.Unmarshal(encoded, earlier); err != nil {
		t.Fatal(err)
	}
	fields := earlier.Descriptor().Fields()
	if batch := earlier.Get(fields.ByName("batch")).Bytes(); !slices.Equal(batch, plain.Batch) || earlier.Get(fields.ByName("request")).Uint() != 1 {
		t.Errorf("an earlier version reads %v", earlier)
	}
}

// earlierFrame describes a WriteFrame without a trace.
func earlierFrame(t *testing.T) protoreflect.MessageDescriptor {
	t.Helper()
	file := protodesc.ToFileDescriptorProto(peerpb.File_peer_proto)
	for _, m := range file.MessageType {
		m.Field = slices.DeleteFunc(m.Field, func(f *descriptorpb.FieldDescriptorProto) bool {
			return m.GetName() == "WriteFrame" && f.GetName() == "trace"
		})
	}
	earlier, err := protodesc.NewFile(file, nil)
	if err != nil {
		t.Fatal(err)
	}
	frame := earlier.Messages().ByName("WriteFrame")
	if frame.Fields().ByName("trace") != nil {
		t.Fatal("the frame has a trace")
	}
	return frame
}
