package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"mime"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/starling-tsdb/starling/internal/receive"
	"github.com/starling-tsdb/starling/internal/series"
	"github.com/starling-tsdb/starling/internal/tracing"
)

// Writer stores batches. An error means that some valid sample is short of its write
// quorum and the sender should try again; what is invalid is in the result instead.
// A Writer that reads the batch beyond its answer retains it.
type Writer interface {
	Write(ctx context.Context, b *series.Batch) (series.Result, error)
}

// Names of the protocols, as metrics label them.
const (
	protocolRemoteWrite1 = "remote-write-1"
	protocolRemoteWrite2 = "remote-write-2"
	protocolOTLP         = "otlp"
)

// statusClientGone is what metrics count when nobody waits for the answer any more.
const statusClientGone = 499

const (
	// maxMessageBytes bounds the text of an error.
	maxMessageBytes = 4 << 10
	// maxPooledBody keeps one huge body from pinning its buffer for ever, and what small
	// ones must reserve low.
	maxPooledBody = 1 << 20
	// warnEvery bounds how often refused requests are logged at warning level.
	warnEvery = 10 * time.Second
)

// WriteOptions configure the write handlers.
type WriteOptions struct {
	Writer  Writer
	Decoder *receive.Decoder
	// MaxInflightBytes bounds the memory of all requests that are being written: their
	// bodies, as sent and as decompressed, and by estimate what they are decoded into.
	// Default 512 MiB. A single request that needs more is answered 413.
	MaxInflightBytes int64
	// AdmissionWait is how long a request waits for memory that others hold before it
	// is answered 503. Default 100 ms.
	AdmissionWait time.Duration
	// RetryAfter is what a 503 asks the sender to wait, in whole seconds. Default 1 s.
	RetryAfter time.Duration
	// Logger may be nil.
	Logger *slog.Logger
	// Registerer may be nil.
	Registerer prometheus.Registerer
}

// WriteHandlers serve the protocols that samples are sent in. Slow senders are bounded
// by the timeouts of the server, which must be set.
type WriteHandlers struct {
	opts    WriteOptions
	gate    *receive.Gate
	bodies  sync.Pool // *[]byte
	metrics writeMetrics

	mu sync.Mutex
	// nextWarning and unlogged throttle warnings.
	nextWarning time.Time
	unlogged    int
}

// NewWriteHandlers returns handlers to be put behind a router.
func NewWriteHandlers(opts WriteOptions) *WriteHandlers {
	opts.MaxInflightBytes = cmp.Or(opts.MaxInflightBytes, 512<<20)
	opts.AdmissionWait = cmp.Or(opts.AdmissionWait, 100*time.Millisecond)
	opts.RetryAfter = cmp.Or(opts.RetryAfter, time.Second)
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	gate := receive.NewGate(opts.MaxInflightBytes, opts.AdmissionWait)
	return &WriteHandlers{
		opts:    opts,
		gate:    gate,
		bodies:  sync.Pool{New: func() any { return new([]byte) }},
		metrics: newWriteMetrics(opts.Registerer, gate, opts.MaxInflightBytes),
	}
}

// answer is how a write request ends.
type answer struct {
	code    int
	message string
	// warning goes with a success, where the protocol has a place for it.
	warning string
	written series.Written
	// late is set if the body did not arrive in time. The client is there all the same,
	// though net/http cancels the context of the request.
	late bool
}

func answerf(code int, format string, args ...any) answer {
	return answer{code: code, message: shortenMessage(fmt.Sprintf(format, args...))}
}

// RemoteWrite serves Prometheus's Remote Write, 1.0 and 2.0.
func (h *WriteHandlers) RemoteWrite(w http.ResponseWriter, r *http.Request) {
	protocol, decode, refused := h.negotiate(r)
	done := h.metrics.start(protocol)
	a := refused
	if a.code == 0 {
		a = h.write(w, r, protocol, decode)
	}
	h.log(r, protocol, a)
	h.setHeaders(w, a)
	if protocol == protocolRemoteWrite2 {
		// Exact also where the request failed: what a retry need not bring is known.
		header := w.Header()
		header.Set("X-Prometheus-Remote-Write-Samples-Written", strconv.Itoa(a.written.Samples))
		header.Set("X-Prometheus-Remote-Write-Histograms-Written", strconv.Itoa(a.written.Histograms))
		header.Set("X-Prometheus-Remote-Write-Exemplars-Written", strconv.Itoa(a.written.Exemplars))
	}
	if a.code == http.StatusOK {
		w.WriteHeader(http.StatusNoContent)
		done(r, answer{code: http.StatusNoContent})
		return
	}
	http.Error(w, a.message, a.code)
	done(r, a)
}

type decodeFunc func(body []byte, reserve receive.Reserve) (*receive.Decoded, error)

// negotiate finds out which of the two messages a Remote Write request carries, or
// refuses it. As in Prometheus, 1.0 is what a sender means who does not say.
func (h *WriteHandlers) negotiate(r *http.Request) (protocol string, decode decodeFunc, refused answer) {
	protocol, decode = protocolRemoteWrite1, h.opts.Decoder.RemoteWrite1
	if r.Method != http.MethodPost {
		return protocol, nil, answerf(http.StatusMethodNotAllowed, "method %q, want POST", r.Method)
	}
	if contentType := r.Header.Get("Content-Type"); contentType != "" {
		media, params, err := mime.ParseMediaType(contentType)
		if err != nil || media != "application/x-protobuf" {
			return protocol, nil, answerf(http.StatusUnsupportedMediaType, "content type %q, want application/x-protobuf", contentType)
		}
		switch params["proto"] {
		case "", "prometheus.WriteRequest":
		case "io.prometheus.write.v2.Request":
			protocol, decode = protocolRemoteWrite2, h.opts.Decoder.RemoteWrite2
		default:
			return protocol, nil, answerf(http.StatusUnsupportedMediaType,
				"message %q, want prometheus.WriteRequest or io.prometheus.write.v2.Request", params["proto"])
		}
	}
	if version := r.Header.Get("X-Prometheus-Remote-Write-Version"); version != "" {
		// The message is named by the content type; this guards against a 3.0 only.
		if major, _, _ := strings.Cut(version, "."); major != "0" && major != "1" && major != "2" {
			return protocol, nil, answerf(http.StatusUnsupportedMediaType, "Remote Write version %q, want 0.1.0 or 2.0.0", version)
		}
	}
	if encoding := r.Header.Get("Content-Encoding"); encoding != "" && !strings.EqualFold(encoding, "snappy") {
		return protocol, nil, answerf(http.StatusUnsupportedMediaType, "content encoding %q, want snappy", encoding)
	}
	return protocol, decode, answer{}
}

// OTLP serves the metrics service of OTLP over HTTP, in protobuf and JSON.
func (h *WriteHandlers) OTLP(w http.ResponseWriter, r *http.Request) {
	done := h.metrics.start(protocolOTLP)
	media, err := receive.ContentTypeOf(r.Header.Get("Content-Type"))
	var a answer
	switch {
	case r.Method != http.MethodPost:
		a = answerf(http.StatusMethodNotAllowed, "method %q, want POST", r.Method)
	case err != nil:
		a = undecoded(err)
	default:
		a = h.write(w, r, protocolOTLP, func(body []byte, reserve receive.Reserve) (*receive.Decoded, error) {
			return h.opts.Decoder.OTLP(r.Context(), body, media, r.Header.Get("Content-Encoding"), reserve)
		})
	}
	h.log(r, protocolOTLP, a)
	h.setHeaders(w, a)
	done(r, a)
	if err != nil {
		http.Error(w, a.message, a.code)
		return
	}
	body, err := otlpBody(media, a)
	if err != nil {
		// Neither message can fail to marshal; if one does, the status still holds.
		h.opts.Logger.Error("Marshalling an OTLP response", "err", err)
	}
	w.Header().Set("Content-Type", media)
	w.WriteHeader(a.code)
	_, _ = w.Write(body) // A client that is gone needs no answer.
}

// otlpBody is the message for an answer, in the encoding of the request. The protocol
// would have a partial success be a 200; the guarantee that an invalid sample is a 400,
// whatever the protocol, is worth more: exporters log a 400 and do not repeat it.
func otlpBody(media string, a answer) ([]byte, error) {
	if a.code == http.StatusOK {
		res := pmetricotlp.NewExportResponse()
		if a.warning != "" {
			res.PartialSuccess().SetErrorMessage(a.warning)
		}
		if media == receive.OTLPJSON {
			return res.MarshalJSON()
		}
		return res.MarshalProto()
	}
	code := codes.InvalidArgument
	if a.code == http.StatusServiceUnavailable {
		code = codes.Unavailable
	}
	s := status.New(code, strings.ToValidUTF8(a.message, "�")).Proto()
	if media == receive.OTLPJSON {
		return protojson.Marshal(s)
	}
	return proto.Marshal(s)
}

func (h *WriteHandlers) setHeaders(w http.ResponseWriter, a answer) {
	switch a.code {
	case http.StatusServiceUnavailable:
		seconds := max(1, int((h.opts.RetryAfter+time.Second-1)/time.Second))
		w.Header().Set("Retry-After", strconv.Itoa(seconds))
	case http.StatusMethodNotAllowed:
		w.Header().Set("Allow", http.MethodPost)
	}
}

// write reads, decodes and stores a request.
func (h *WriteHandlers) write(w http.ResponseWriter, r *http.Request, protocol string, decode decodeFunc) answer {
	// A Writer may read the batch beyond this: for as long as its own limits allow.
	hold := h.gate.Enter(r.Context())
	defer hold.Release()
	_, span := tracing.Start(r.Context(), "decode")
	decoded, a := h.decode(w, r, hold.Reserve, decode)
	endDecode(span, decoded, a)
	if decoded == nil {
		return a
	}
	defer decoded.Batch.Release()
	var res series.Result
	var err error
	if b := &decoded.Batch; len(b.Series)+len(b.Metadata) > 0 {
		res, err = h.opts.Writer.Write(r.Context(), b)
	}
	h.metrics.account(protocol, decoded, &res)
	return writeVerdict(decoded, &res, err)
}

// decode reads and decodes a body, which nothing refers to afterwards.
func (h *WriteHandlers) decode(w http.ResponseWriter, r *http.Request, reserve receive.Reserve, decode decodeFunc) (*receive.Decoded, answer) {
	limit := h.opts.Decoder.Limits().MaxBodyBytes
	if r.ContentLength > limit {
		return nil, answerf(http.StatusRequestEntityTooLarge, "body of %d bytes, the limit is %d", r.ContentLength, limit)
	}
	buf := h.bodies.Get().(*[]byte)
	defer func() {
		if cap(*buf) <= maxPooledBody {
			h.bodies.Put(buf)
		}
	}()
	r.Body = http.MaxBytesReader(w, r.Body, limit)
	err := readBody(r, buf, reserve)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		a := answerf(http.StatusServiceUnavailable, "the body did not arrive in time")
		a.late = true
		return nil, a
	}
	if err != nil {
		return nil, undecoded(fmt.Errorf("reading the body: %w", err))
	}
	decoded, err := decode(*buf, reserve)
	if err != nil {
		return nil, undecoded(err)
	}
	return decoded, answer{}
}

// undecoded answers a request that did not become a batch.
func undecoded(err error) answer {
	var tooLong *http.MaxBytesError
	switch {
	case errors.As(err, &tooLong), receive.KindOf(err) == receive.TooLarge:
		return answerf(http.StatusRequestEntityTooLarge, "%v", err)
	case receive.KindOf(err) == receive.Malformed:
		return answerf(http.StatusBadRequest, "%v", err)
	case receive.KindOf(err) == receive.Unsupported:
		return answerf(http.StatusUnsupportedMediaType, "%v", err)
	default:
		// Overload, or a body that broke off: nothing is wrong with the samples.
		return answerf(http.StatusServiceUnavailable, "%v", err)
	}
}

// writeVerdict is the order of the guarantees: short of a quorum before invalid before
// written. Exemplars do not count. They are kept as well as can be, and a sender that
// heard a 400 because of one would take its samples for lost; the header that counts
// them is exact, and a metric tells how many were dropped.
func writeVerdict(d *receive.Decoded, res *series.Result, err error) answer {
	if err != nil {
		a := answerf(http.StatusServiceUnavailable, "not all samples are confirmed: %v", err)
		a.written = res.Written
		return a
	}
	var reasons []string
	for _, invalid := range d.Invalid {
		if invalid.Item == receive.SeriesItem {
			reasons = append(reasons, invalid.Message)
		}
	}
	n := d.InvalidSeries
	for i := range res.Refused {
		if refused := &res.Refused[i]; !refused.Exemplar {
			if n++; len(reasons) < maxReasons {
				reasons = append(reasons, refusalReason(&d.Batch, refused))
			}
		}
	}
	if n == 0 {
		return answer{code: http.StatusOK, written: res.Written, warning: writeWarning(d)}
	}
	text := strings.Join(reasons, "; ")
	if n > len(reasons) {
		text = fmt.Sprintf("%s; and %d more", text, n-len(reasons))
	}
	// One line: senders log no more.
	a := answerf(http.StatusBadRequest, "%d invalid, everything else is written: %s", n, text)
	a.written = res.Written
	return a
}

// maxReasons bounds the refusals that an answer tells the reasons of.
const maxReasons = 16

// refusalReason names what was refused.
func refusalReason(b *series.Batch, r *series.Refusal) string {
	s := &b.Series[r.Series]
	return fmt.Sprintf("series %s: sample at %d: %s", receive.Name(s.Labels), s.Samples[r.Item].T, r.Message)
}

// writeWarning tells a sender what was lost that is not a sample.
func writeWarning(d *receive.Decoded) string {
	texts := d.Warnings
	for _, invalid := range d.Invalid {
		texts = append(texts, invalid.Message)
	}
	return shortenMessage(strings.Join(texts, "; "))
}

func shortenMessage(text string) string {
	if len(text) <= maxMessageBytes {
		return text
	}
	return strings.ToValidUTF8(text[:maxMessageBytes], "") + "..."
}

// log tells of refused requests, at warning level every now and then.
func (h *WriteHandlers) log(r *http.Request, protocol string, a answer) {
	if a.code == http.StatusOK {
		return
	}
	level, unlogged := slog.LevelDebug, 0
	now := time.Now()
	h.mu.Lock()
	if now.Before(h.nextWarning) {
		h.unlogged++
	} else {
		level, unlogged = slog.LevelWarn, h.unlogged
		h.nextWarning, h.unlogged = now.Add(warnEvery), 0
	}
	h.mu.Unlock()
	h.opts.Logger.Log(r.Context(), level, "Write request refused",
		"protocol", protocol, "code", a.code, "remote", r.RemoteAddr, "err", a.message, "unlogged", unlogged)
}

type writeMetrics struct {
	requests  *prometheus.CounterVec
	samples   *prometheus.CounterVec
	exemplars *prometheus.CounterVec
	duration  *prometheus.HistogramVec
}

func newWriteMetrics(reg prometheus.Registerer, gate *receive.Gate, limit int64) writeMetrics {
	f := promauto.With(reg)
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "starling_write_inflight_bytes",
		Help: "Memory reserved for write requests in progress.",
	}, func() float64 { return float64(gate.Held()) })
	f.NewGauge(prometheus.GaugeOpts{
		Name: "starling_write_inflight_limit_bytes",
		Help: "Memory that write requests in progress may have together; what needs more is answered 503.",
	}).Set(float64(limit))
	return writeMetrics{
		requests: f.NewCounterVec(prometheus.CounterOpts{
			Name: "starling_write_requests_total",
			Help: "Write requests by protocol and status; 499 if the client did not wait.",
		}, []string{"protocol", "code"}),
		samples: f.NewCounterVec(prometheus.CounterOpts{
			Name: "starling_write_samples_total",
			Help: "Samples and histograms received: written, invalid in the request, refused by the cluster, or unconfirmed, which the sender repeats.",
		}, []string{"protocol", "outcome"}),
		exemplars: f.NewCounterVec(prometheus.CounterOpts{
			Name: "starling_write_exemplars_total",
			Help: "Exemplars received: written or dropped.",
		}, []string{"protocol", "outcome"}),
		duration: f.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "starling_write_request_duration_seconds",
			Help:    "How long write requests took, bodies included.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2.5, 12),
		}, []string{"protocol"}),
	}
}

// start returns what to call when the answer is known.
func (m *writeMetrics) start(protocol string) func(*http.Request, answer) {
	began := time.Now()
	return func(r *http.Request, a answer) {
		code := a.code
		if code/100 != 2 && !a.late && errors.Is(r.Context().Err(), context.Canceled) {
			// The status on the wire stays: were somebody to read it after all, a 503
			// makes a sender repeat, where a 499 would make it drop.
			code = statusClientGone
		}
		m.requests.WithLabelValues(protocol, strconv.Itoa(code)).Inc()
		m.duration.WithLabelValues(protocol).Observe(time.Since(began).Seconds())
	}
}

// account counts what became of a request's content.
func (m *writeMetrics) account(protocol string, d *receive.Decoded, res *series.Result) {
	var samples, exemplars, refused int
	for i := range d.Batch.Series {
		samples += len(d.Batch.Series[i].Samples)
		exemplars += len(d.Batch.Series[i].Exemplars)
	}
	for i := range res.Refused {
		if !res.Refused[i].Exemplar {
			refused++
		}
	}
	written := res.Written.Samples + res.Written.Histograms
	add := func(v *prometheus.CounterVec, outcome string, n int) {
		v.WithLabelValues(protocol, outcome).Add(float64(max(0, n)))
	}
	add(m.samples, "written", written)
	add(m.samples, "invalid", d.Lost.Samples+d.Lost.Histograms)
	add(m.samples, "refused", refused)
	add(m.samples, "unconfirmed", samples-written-refused)
	add(m.exemplars, "written", res.Written.Exemplars)
	add(m.exemplars, "dropped", exemplars-res.Written.Exemplars+d.Lost.Exemplars)
}
