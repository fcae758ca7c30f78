// Package otlp sends spans to a collector, in batches and in the background, by OpenTelemetry's
// protocol over gRPC or HTTP.
//
// What a collector does not take is dropped, counted and told of now and then: nobody waits for a
// collector but the end of the process, and that for a bounded time.
package otlp

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/starling-tsdb/starling/internal/tracing"
)

const (
	// queueSpans bounds the spans that wait to be sent, of some 2 KiB each; batchSpans are sent
	// at once, and batchDelay is how long a span waits for others.
	queueSpans, batchSpans = 4096, 512
	batchDelay             = 2 * time.Second
	// flushTimeout bounds how long Close waits for the collector, and closeTimeout how long for
	// what is given up then to end, which is at once.
	flushTimeout, closeTimeout = 3 * time.Second, 4 * time.Second
)

// AsVariable is the Fraction that leaves the sampling to OTEL_TRACES_SAMPLER.
const AsVariable = -1

// Options say what is traced, and where that goes. The variables OTEL_EXPORTER_OTLP_… of the
// environment say the rest of how a collector is reached; whoever sets the options has checked
// them.
type Options struct {
	// On is whether anything is traced.
	On bool
	// Endpoint is the URL of the collector; "" leaves it to the variables. GRPC is whether gRPC
	// is spoken there, and not HTTP.
	Endpoint string
	GRPC     bool
	// Fraction is the part of the requests that are traced, of those of which the sender has not
	// decided, from 0 to 1; or AsVariable.
	Fraction float64
	// Node is the ID of the node, Version that of the program.
	Node, Version string
	// Spans, if set, takes the spans in place of a collector.
	Spans      sdktrace.SpanProcessor
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Provider has the spans of one node sent.
type Provider struct {
	tracer   *tracing.Tracer
	provider *sdktrace.TracerProvider // nil if nothing is traced
	outlet   *outlet
}

// Open returns a provider, which its caller closes. It does not wait for the collector.
func Open(o Options) (*Provider, error) {
	p := &Provider{outlet: newOutlet(&o)}
	if !o.On {
		return p, nil
	}
	spans := o.Spans
	if spans == nil {
		exporter, err := o.exporter()
		if err != nil {
			return nil, err
		}
		spans = p.outlet.to(exporter)
	}
	res, err := o.resource()
	if err != nil {
		return nil, err
	}
	opts := []sdktrace.TracerProviderOption{sdktrace.WithSpanProcessor(spans), sdktrace.WithResource(res)}
	if o.Fraction >= 0 {
		opts = append(opts, sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(o.Fraction))))
	}
	p.provider = sdktrace.NewTracerProvider(opts...)
	p.tracer = tracing.New(p.provider)
	return p, nil
}

// exporter connects when there is something to send.
func (o *Options) exporter() (sdktrace.SpanExporter, error) {
	var client otlptrace.Client
	switch {
	case o.GRPC && o.Endpoint == "":
		client = otlptracegrpc.NewClient()
	case o.GRPC:
		client = otlptracegrpc.NewClient(otlptracegrpc.WithEndpointURL(o.Endpoint))
	case o.Endpoint == "":
		client = otlptracehttp.NewClient()
	default:
		u, err := url.Parse(o.Endpoint)
		if err != nil {
			return nil, err
		}
		if u.Path == "" || u.Path == "/" {
			u.Path = "/v1/traces"
		}
		client = otlptracehttp.NewClient(otlptracehttp.WithEndpointURL(u.String()))
	}
	exporter, err := otlptrace.New(context.Background(), client)
	if err != nil {
		return nil, fmt.Errorf("the way to a collector: %w", err)
	}
	return exporter, nil
}

// resource is what all spans say of the node. OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES come
// first.
func (o *Options) resource() (*resource.Resource, error) {
	return resource.Merge(resource.NewSchemaless(
		attribute.String("service.name", "starling"),
		attribute.String("service.version", o.Version),
		attribute.String("service.instance.id", o.Node),
	), resource.Environment())
}

// Tracer begins the node's spans; nil if nothing is traced.
func (p *Provider) Tracer() *tracing.Tracer { return p.tracer }

// Close sends what is left, for a bounded time. Nothing is traced from then on.
func (p *Provider) Close() error {
	if p.provider == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	defer time.AfterFunc(flushTimeout, p.outlet.giveUp).Stop()
	err := p.provider.Shutdown(ctx)
	// What the collector has not taken until now is no reason to end other than well.
	if left := p.outlet.held.Swap(0); left > 0 {
		p.outlet.drop(int(left), notTaken, err)
	}
	return nil
}
