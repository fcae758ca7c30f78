package transport

import (
	"context"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/starling-tsdb/starling/internal/spent"
	"github.com/starling-tsdb/starling/internal/tracing"
)

// traceKey is where a request says which span it is part of, if that is sampled: the bytes are
// those of a WriteFrame. gRPC sends the values of keys with this ending as bytes.
const traceKey = "starling-trace-bin"

// spanName is what the span of a method is called, by OpenTelemetry's conventions.
func spanName(method string) string { return strings.TrimPrefix(method, "/") }

// carrying returns a context whose requests tell what they are part of.
func carrying(ctx context.Context) context.Context {
	if carried := tracing.Carry(ctx); carried != nil {
		return metadata.AppendToOutgoingContext(ctx, traceKey, string(carried))
	}
	return ctx
}

// carryStream is a grpc.StreamClientInterceptor.
func carryStream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	return open(carrying(ctx), desc, cc, method, opts...)
}

// traced begins the span of a request that came with one.
func (s *Server) traced(ctx context.Context, method string) (context.Context, *tracing.Span) {
	if s.opts.Tracer == nil {
		return ctx, nil
	}
	for _, carried := range metadata.ValueFromIncomingContext(ctx, traceKey) {
		return s.opts.Tracer.Continue(ctx, []byte(carried), spanName(method))
	}
	return ctx, nil
}

// tracedStream is a stream whose context is in a span.
type tracedStream struct {
	grpc.ServerStream
	ctx context.Context
}

// Context implements grpc.ServerStream.
func (s tracedStream) Context() context.Context { return s.ctx }

// tell has the span of a request say what this node measured of it, if it did.
func tell(ctx context.Context, n *spent.Node) {
	if n != nil {
		n.Owner.Tell(tracing.Of(ctx))
	}
}
