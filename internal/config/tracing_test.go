package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// on is what names a collector.
const on = "OTEL_EXPORTER_OTLP_ENDPOINT"

func TestTracingIsOnWithACollector(t *testing.T) {
	for _, c := range []struct {
		endpoint  string
		variables map[string]string
		on, grpc  bool
		fraction  float64
	}{
		{fraction: DefaultFraction},
		{endpoint: "http://c:4317", on: true, grpc: true, fraction: DefaultFraction},
		{endpoint: "http://c:4318", on: true, fraction: DefaultFraction},
		{endpoint: "https://c/otlp", on: true, fraction: DefaultFraction},
		{variables: map[string]string{on: "http://c:4317"}, on: true, grpc: true, fraction: DefaultFraction},
		{variables: map[string]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, on: true, fraction: DefaultFraction},
		{variables: map[string]string{on: "http://c:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, on: true, fraction: DefaultFraction},
		{endpoint: "http://c:9999", variables: map[string]string{"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, on: true, grpc: true, fraction: DefaultFraction},
		{endpoint: "http://c:4318", variables: map[string]string{"OTEL_SDK_DISABLED": "true"}, fraction: DefaultFraction},
		{variables: map[string]string{on: "http://c:4318", "OTEL_TRACES_EXPORTER": "none"}, fraction: DefaultFraction},
		{endpoint: "http://c:4318", variables: map[string]string{"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.5"}, on: true, fraction: AutoFraction},
	} {
		config := Default()
		config.Tracing.Endpoint, config.Tracing.Variables = c.endpoint, c.variables
		if err := config.Check(); err != nil {
			t.Errorf("%+v: %v", c, err)
		}
		tracing := &config.Tracing
		if tracing.Enabled() != c.on || c.on && tracing.GRPC() != c.grpc || tracing.Fraction() != c.fraction {
			t.Errorf("%+v: on %v, gRPC %v, fraction %v", c, tracing.Enabled(), tracing.GRPC(), tracing.Fraction())
		}
	}
	c := Default()
	c.Tracing.SamplingFraction, c.Tracing.Variables = 0.3, map[string]string{"OTEL_TRACES_SAMPLER": "always_on"}
	if f := c.Tracing.Fraction(); f != 0.3 {
		t.Errorf("the flag is not heard beside the variable: %v", f)
	}
}

// TestCheckNamesTheVariable: what OpenTelemetry would pass over is an error, and says which
// variable of which value; that of a header is a secret.
func TestCheckNamesTheVariable(t *testing.T) {
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte("no PEM"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ variable, value string }{
		{on, "collector:4317"},
		{on, "ftp://collector:4317"},
		{on, "http://:4317"},
		{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "collector"},
		{"OTEL_EXPORTER_OTLP_PROTOCOL", "http"},
		{"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "GRPC"},
		{"OTEL_EXPORTER_OTLP_COMPRESSION", "zstd"},
		{"OTEL_EXPORTER_OTLP_INSECURE", "yes"},
		{"OTEL_EXPORTER_OTLP_TIMEOUT", "10s"},
		{"OTEL_EXPORTER_OTLP_TIMEOUT", "0"},
		{"OTEL_EXPORTER_OTLP_CERTIFICATE", text},
		{"OTEL_EXPORTER_OTLP_CERTIFICATE", text + ".gone"},
		{"OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", text},
		{"OTEL_TRACES_EXPORTER", "jaeger"},
		{"OTEL_TRACES_SAMPLER", "sometimes"},
		{"OTEL_RESOURCE_ATTRIBUTES", "team"},
		{"OTEL_EXPORTER_OTLP_HEADERS", "authorization"},
		{"OTEL_EXPORTER_OTLP_HEADERS", "authorization=%zz"},
	} {
		config := Default()
		config.Tracing.Variables = map[string]string{on: "http://collector:4318"}
		config.Tracing.Variables[c.variable] = c.value
		err := config.Check()
		if err == nil || !strings.Contains(err.Error(), c.variable) {
			t.Errorf("%s=%s: %v", c.variable, c.value, err)
			continue
		}
		secret := strings.HasSuffix(c.variable, "HEADERS")
		if shown := strings.Contains(err.Error(), c.value); shown == secret && c.variable != "OTEL_RESOURCE_ATTRIBUTES" && c.variable != "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE" {
			t.Errorf("%s=%s: %v", c.variable, c.value, err)
		}
		// Where nothing is traced, they are not this node's business.
		delete(config.Tracing.Variables, on)
		if config.Tracing.Enabled() {
			continue
		}
		if err := config.Check(); err != nil {
			t.Errorf("%s=%s, and no collector: %v", c.variable, c.value, err)
		}
	}
	config := Default()
	config.Tracing.Variables = map[string]string{on: "http://c:4318", "OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "2"}
	if err := config.Check(); err == nil || !strings.Contains(err.Error(), `OTEL_TRACES_SAMPLER_ARG: "2"`) {
		t.Error(err)
	}
}
