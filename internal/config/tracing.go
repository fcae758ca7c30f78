package config

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
)

// Tracing is what is traced, and who gets to see it.
type Tracing struct {
	// Endpoint is --tracing.endpoint: the URL of a collector; "" leaves it to the variables.
	Endpoint string
	// SamplingFraction is --tracing.sampling-fraction: the part of the requests that are traced, of
	// those of which the sender has not decided. AutoFraction leaves it to the variables.
	SamplingFraction float64
	// Variables are those of the environment whose names begin with OTEL_, as OpenTelemetry
	// defines them, by name. The ones that say how a collector is reached are read by its
	// exporters again: here they are checked.
	Variables map[string]string
}

const (
	// AutoFraction is the SamplingFraction that is DefaultFraction, unless OTEL_TRACES_SAMPLER
	// says how to sample.
	AutoFraction = -1
	// DefaultFraction is a trace every second of a hundred requests.
	DefaultFraction = 0.01
)

// VariablePrefix is what the names of OpenTelemetry's variables begin with.
const VariablePrefix = "OTEL_"

const (
	samplerVariable    = "OTEL_TRACES_SAMPLER"
	samplerArgVariable = "OTEL_TRACES_SAMPLER_ARG"
	exporterVariable   = "OTEL_TRACES_EXPORTER"
	disabledVariable   = "OTEL_SDK_DISABLED"
	attributesVariable = "OTEL_RESOURCE_ATTRIBUTES"
)

// grpcPort is where a collector speaks gRPC by convention.
const grpcPort = "4317"

// Enabled tells whether anything is traced.
func (t *Tracing) Enabled() bool {
	if strings.EqualFold(t.Variables[disabledVariable], "true") || t.Variables[exporterVariable] == "none" {
		return false
	}
	_, endpoint := t.endpoint()
	return endpoint != ""
}

// GRPC tells whether gRPC is spoken with the collector, and not HTTP: as the variables say, or else
// by the port of its URL.
func (t *Tracing) GRPC() bool {
	if _, protocol := t.exporterVariable("PROTOCOL"); protocol != "" {
		return protocol == "grpc"
	}
	_, endpoint := t.endpoint()
	u, err := url.Parse(endpoint)
	return err == nil && u.Port() == grpcPort
}

// Fraction is the part of the requests that are traced, or AutoFraction if OTEL_TRACES_SAMPLER says
// how to sample.
func (t *Tracing) Fraction() float64 {
	if t.SamplingFraction == AutoFraction && t.Variables[samplerVariable] == "" {
		return DefaultFraction
	}
	return t.SamplingFraction
}

// endpoint is the URL of the collector, and who says so.
func (t *Tracing) endpoint() (from, endpoint string) {
	if t.Endpoint != "" {
		return "--tracing.endpoint", t.Endpoint
	}
	return t.exporterVariable("ENDPOINT")
}

// exporterVariable is that of the exporter of traces, or else that of all exporters.
func (t *Tracing) exporterVariable(name string) (variable, value string) {
	variable = "OTEL_EXPORTER_OTLP_TRACES_" + name
	if v := t.Variables[variable]; v != "" {
		return variable, v
	}
	variable = "OTEL_EXPORTER_OTLP_" + name
	return variable, t.Variables[variable]
}

func (t *Tracing) check() error {
	if f := t.SamplingFraction; f != AutoFraction && !(f >= 0 && f <= 1) {
		return Flagged("tracing.sampling-fraction", fmt.Errorf("%v is not between 0 and 1", f))
	}
	if t.Endpoint != "" {
		if err := checkCollector(t.Endpoint); err != nil {
			return Flagged("tracing.endpoint", err)
		}
	}
	if !t.Enabled() {
		return nil
	}
	return t.checkVariables()
}

// checkVariables refuses what OpenTelemetry would pass over.
func (t *Tracing) checkVariables() error {
	for name, check := range exporterChecks {
		variable, value := t.exporterVariable(name)
		if value == "" {
			continue
		}
		if err := check(value); err != nil {
			return fmt.Errorf("%s: %w", variable, err)
		}
	}
	if v := t.Variables[exporterVariable]; v != "" && v != "otlp" {
		return fmt.Errorf("%s: %q is neither otlp nor none", exporterVariable, v)
	}
	if v := t.Variables[attributesVariable]; v != "" {
		if err := checkPairs(v); err != nil {
			return fmt.Errorf("%s: %w", attributesVariable, err)
		}
	}
	return errors.Join(t.checkKeyPair(), t.checkSampler())
}

// exporterChecks are by name, without what the names of the variables begin with.
var exporterChecks = map[string]func(string) error{
	"ENDPOINT":    checkCollector,
	"PROTOCOL":    oneOf("grpc", "http/protobuf", "http/json"),
	"COMPRESSION": oneOf("gzip", "none"),
	"INSECURE":    oneOf("true", "false"),
	"HEADERS":     checkPairs,
	"CERTIFICATE": checkCertificates,
	"TIMEOUT": func(s string) error {
		if ms, err := strconv.Atoi(s); err != nil || ms <= 0 {
			return fmt.Errorf("%q is no positive number of milliseconds", s)
		}
		return nil
	},
}

func oneOf(values ...string) func(string) error {
	return func(s string) error {
		if !slices.Contains(values, s) {
			return fmt.Errorf("%q is none of %s", s, strings.Join(values, ", "))
		}
		return nil
	}
}

func checkCollector(endpoint string) error {
	u, err := url.Parse(endpoint)
	if err != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https" {
		return fmt.Errorf("%q is no URL like http://collector:4317 or https://collector:4318", endpoint)
	}
	return nil
}

// checkPairs takes key=value, with commas between. Its error does not show what it was given:
// headers hold passwords.
func checkPairs(list string) error {
	for pair := range strings.SplitSeq(list, ",") {
		key, value, found := strings.Cut(pair, "=")
		if _, err := url.PathUnescape(value); err != nil || !found || strings.TrimSpace(key) == "" {
			return errors.New("is no list of key=value with commas between, the values percent-encoded")
		}
	}
	return nil
}

func checkCertificates(path string) error {
	pem, err := os.ReadFile(path)
	if err == nil && !x509.NewCertPool().AppendCertsFromPEM(pem) {
		err = fmt.Errorf("%q holds no certificate in PEM", path)
	}
	return err
}

// checkKeyPair checks the files of a client's certificate, which are of use together only.
func (t *Tracing) checkKeyPair() error {
	certificate, certFile := t.exporterVariable("CLIENT_CERTIFICATE")
	key, keyFile := t.exporterVariable("CLIENT_KEY")
	if certFile == "" && keyFile == "" {
		return nil
	}
	if certFile == "" || keyFile == "" {
		return fmt.Errorf("%s and %s: one is missing beside the other", certificate, key)
	}
	if _, err := tls.LoadX509KeyPair(certFile, keyFile); err != nil {
		return fmt.Errorf("%s and %s: %w", certificate, key, err)
	}
	return nil
}

func (t *Tracing) checkSampler() error {
	sampler := strings.ToLower(strings.TrimSpace(t.Variables[samplerVariable]))
	if sampler == "" {
		return nil
	}
	known := oneOf("always_on", "always_off", "traceidratio", "parentbased_always_on", "parentbased_always_off", "parentbased_traceidratio")
	if err := known(sampler); err != nil {
		return fmt.Errorf("%s: %w", samplerVariable, err)
	}
	arg, set := t.Variables[samplerArgVariable]
	if !set || !strings.HasSuffix(sampler, "traceidratio") {
		return nil
	}
	if f, err := strconv.ParseFloat(strings.TrimSpace(arg), 64); err != nil || !(f >= 0 && f <= 1) {
		return fmt.Errorf("%s: %q is not between 0 and 1", samplerArgVariable, arg)
	}
	return nil
}
