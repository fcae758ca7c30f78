package receive

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"strings"

	"github.com/prometheus/prometheus/storage/remote/otlptranslator/prometheusremotewrite"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"

	"github.com/starling-tsdb/starling/internal/series"
)

// Content types of OTLP over HTTP.
const (
	OTLPProto = "application/x-protobuf"
	OTLPJSON  = "application/json"
)

// maxWarnings bounds the warnings of one request.
const maxWarnings = 8

func otlpSettings(o Options) prometheusremotewrite.Settings {
	c := o.OTLP
	return prometheusremotewrite.Settings{
		AddMetricSuffixes:                    c.TranslationStrategy.ShouldAddSuffixes(),
		AllowUTF8:                            !c.TranslationStrategy.ShouldEscape(),
		PromoteResourceAttributes:            prometheusremotewrite.NewPromoteResourceAttributes(c),
		KeepIdentifyingResourceAttributes:    c.KeepIdentifyingResourceAttributes,
		ConvertHistogramsToNHCB:              c.ConvertHistogramsToNHCB,
		PromoteScopeMetadata:                 c.PromoteScopeMetadata,
		AllowDeltaTemporality:                o.NativeDelta,
		LookbackDelta:                        o.LookbackDelta,
		EnableTypeAndUnitLabels:              o.TypeAndUnitLabels,
		LabelNameUnderscoreSanitization:      c.LabelNameUnderscoreSanitization,
		LabelNamePreserveMultipleUnderscores: c.LabelNamePreserveMultipleUnderscores,
	}
}

// ContentTypeOf returns the media type of an OTLP request without its parameters, or
// an Unsupported error.
func ContentTypeOf(contentType string) (string, error) {
	t, _, err := mime.ParseMediaType(contentType)
	if err != nil || (t != OTLPProto && t != OTLPJSON) {
		return "", errorf(Unsupported, "content type %s, want %s or %s", quoted([]byte(contentType)), OTLPProto, OTLPJSON)
	}
	return t, nil
}

// OTLP decodes an ExportMetricsServiceRequest with Prometheus's translation. The error
// is that of ctx if it ended first.
func (d *Decoder) OTLP(ctx context.Context, body []byte, contentType, contentEncoding string, reserve Reserve) (*Decoded, error) {
	contentType, err := ContentTypeOf(contentType)
	if err != nil {
		return nil, err
	}
	buf := d.buffers.Get().(*[]byte)
	defer d.putBuffer(buf)
	if body, err = d.gunzip(body, contentEncoding, buf, reserve); err != nil {
		return nil, err
	}
	md, err := d.unmarshalOTLP(body, contentType, reserve)
	if err != nil {
		return nil, err
	}
	out, err := d.translate(ctx, md, reserve)
	if err != nil {
		return nil, fmt.Errorf("translating OTLP metrics: %w", err)
	}
	return out, nil
}

// gunzip decompresses a body of unknown size, step by step under the limit.
func (d *Decoder) gunzip(body []byte, encoding string, buf *[]byte, reserve Reserve) ([]byte, error) {
	if int64(len(body)) > d.limits.MaxBodyBytes {
		return nil, errorf(TooLarge, "body of %d bytes, the limit is %d", len(body), d.limits.MaxBodyBytes)
	}
	switch strings.ToLower(encoding) {
	case "", "identity":
		return body, nil
	case "gzip":
	default:
		return nil, errorf(Unsupported, "content encoding %s, want gzip or none", quoted([]byte(encoding)))
	}
	zr, err := gzip.NewReader(bytes.NewReader(body))
	if err != nil {
		return nil, errorf(Malformed, "decompressing: %w", err)
	}
	r := io.LimitReader(zr, d.limits.MaxBodyBytes+1)
	out := (*buf)[:0]
	for {
		if len(out) == cap(out) {
			// append doubles at most; the old buffer lives until it is copied.
			step := max(len(out), 64<<10)
			if reserve != nil {
				if err := reserve(int64(step)); err != nil {
					return nil, fmt.Errorf("reserving memory for a request: %w", err)
				}
			}
			out = append(make([]byte, 0, len(out)+step), out...)
		}
		n, err := r.Read(out[len(out):cap(out)])
		out = out[:len(out)+n]
		if int64(len(out)) > d.limits.MaxBodyBytes {
			return nil, errorf(TooLarge, "body of more than %d bytes when decompressed, which is the limit", d.limits.MaxBodyBytes)
		}
		if errors.Is(err, io.EOF) {
			*buf = out[:0]
			return out, nil
		}
		if err != nil {
			return nil, errorf(Malformed, "decompressing: %w", err)
		}
	}
}

// unmarshalOTLP builds the message, having checked that it can be afforded.
func (d *Decoder) unmarshalOTLP(body []byte, contentType string, reserve Reserve) (pmetric.Metrics, error) {
	b := &budget{limit: d.limits.MaxBatchBytes, reserve: reserve}
	req := pmetricotlp.NewExportRequest()
	unmarshal := req.UnmarshalProto
	if contentType == OTLPJSON {
		unmarshal = req.UnmarshalJSON
		if err := scanJSON(body, b); err != nil {
			return pmetric.Metrics{}, err
		}
	} else if err := d.otlp.scanProto(body, 0, b); err != nil {
		return pmetric.Metrics{}, err
	}
	if err := unmarshal(body); err != nil {
		return pmetric.Metrics{}, errorf(Malformed, "decoding OTLP metrics: %w", err)
	}
	return req.Metrics(), nil
}

// translate makes a batch of md, which it changes: what is invalid is taken out first.
func (d *Decoder) translate(ctx context.Context, md pmetric.Metrics, reserve Reserve) (*Decoded, error) {
	s := newSieve(&d.limits, &d.opts, d.settings)
	s.sift(md)
	out, failed, err := d.convert(ctx, s, md, reserve)
	if err == nil && failed != nil {
		// The converter gives up the rest of a metric for one bad point. Find the bad
		// ones, take them out, and convert again.
		s.strict = true
		s.sift(md)
		out, failed, err = d.convert(ctx, s, md, reserve)
	}
	if err != nil {
		return nil, err
	}
	if failed != nil {
		// Nothing known leads here. The sender must hear that something is missing.
		out.reject(d.limits.MaxInvalid, SeriesItem, series.Written{Samples: 1}, func() string {
			return "translating OTLP metrics: " + quoted([]byte(failed.Error()))
		})
	}
	return out, nil
}

// convert runs Prometheus's converter over what the sieve left. The first error is what
// it could not convert, the second ends the request.
func (d *Decoder) convert(ctx context.Context, s *sieve, md pmetric.Metrics, reserve Reserve) (out *Decoded, failed, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c := newCollector(&d.limits, s, cancel, reserve)
	converter := d.converters.Get().(*prometheusremotewrite.PrometheusConverter)
	converter.Reset(c)
	defer func() {
		converter.Reset(nil)
		d.converters.Put(converter)
	}()
	quiet := d.settings
	quiet.DisableTargetInfo = true
	for _, part := range []struct {
		md       pmetric.Metrics
		settings prometheusremotewrite.Settings
	}{{md, d.settings}, {s.untargeted, quiet}} {
		if part.md.ResourceMetrics().Len() == 0 {
			continue
		}
		annotations, errs := converter.FromMetrics(ctx, part.md, part.settings)
		if c.err != nil {
			return nil, nil, c.err
		}
		if err := ctx.Err(); err != nil {
			return nil, nil, err
		}
		failed = errors.Join(failed, errs)
		for _, warning := range annotations {
			if len(c.out.Warnings) < maxWarnings {
				c.out.Warnings = append(c.out.Warnings, quoted([]byte(warning.Error())))
			}
		}
	}
	return c.out, failed, nil
}
