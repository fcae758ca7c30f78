// Command workload is what the acceptance tests scrape: every kind of metric, with the
// features that are easily lost between a scrape and an answer: native histograms,
// exemplars, series that come and go, counter resets, stamped samples, NaN and
// infinities, names and values beyond ASCII.
package main

import (
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

func main() {
	address := flag.String("listen-address", ":9100", "address of /metrics")
	flag.Parse()

	registry := prometheus.NewRegistry()
	registry.MustRegister(clockwork{})
	go newTraffic(registry).run()

	http.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{EnableOpenMetrics: true}))
	server := &http.Server{Addr: *address, ReadHeaderTimeout: 5 * time.Second}
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		slog.New(slog.NewTextHandler(os.Stderr, nil)).Error("serving metrics", "err", err)
		os.Exit(1)
	}
}

// traffic plays a small HTTP service.
type traffic struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	size     *prometheus.SummaryVec
	inflight *prometheus.GaugeVec
}

func newTraffic(r prometheus.Registerer) *traffic {
	f := promauto.With(r)
	return &traffic{
		requests: f.NewCounterVec(prometheus.CounterOpts{
			Name: "workload_requests_total",
			Help: "Requests by route and code.",
		}, []string{"route", "method", "code"}),
		// Classic buckets and native ones at once.
		duration: f.NewHistogramVec(prometheus.HistogramOpts{
			Name:                        "workload_request_duration_seconds",
			Help:                        "Time that a request took.",
			Buckets:                     prometheus.DefBuckets,
			NativeHistogramBucketFactor: 1.1,
		}, []string{"route"}),
		size: f.NewSummaryVec(prometheus.SummaryOpts{
			Name:       "workload_response_size_bytes",
			Help:       "Size of responses.",
			Objectives: map[float64]float64{0.5: 0.05, 0.99: 0.001},
		}, []string{"route"}),
		inflight: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "workload_inflight_requests",
			Help: "Requests being served.",
		}, []string{"route"}),
	}
}

func (t *traffic) run() {
	methods := []string{"GET", "POST"}
	codes := []string{"200", "200", "200", "204", "404", "500", "503"}
	ticks := time.NewTicker(5 * time.Millisecond)
	defer ticks.Stop()
	for range ticks.C {
		route := "/route/" + strconv.Itoa(rand.IntN(20))
		trace := prometheus.Labels{"trace_id": fmt.Sprintf("%016x", rand.Uint64())}
		code := codes[rand.IntN(len(codes))]
		t.requests.WithLabelValues(route, methods[rand.IntN(len(methods))], code).(prometheus.ExemplarAdder).
			AddWithExemplar(1, trace)
		t.duration.WithLabelValues(route).(prometheus.ExemplarObserver).
			ObserveWithExemplar(rand.ExpFloat64()/10, trace)
		t.size.WithLabelValues(route).Observe(math.Floor(rand.Float64() * 1e6))
		t.inflight.WithLabelValues(route).Set(float64(rand.IntN(50)))
	}
}

// clockwork makes metrics that are functions of the time alone.
type clockwork struct{}

// Describe sends nothing: which series there are changes with the time.
func (clockwork) Describe(chan<- *prometheus.Desc) {}

// Collect makes the samples of this second.
func (clockwork) Collect(ch chan<- prometheus.Metric) {
	now := time.Now().Truncate(time.Second)
	second := now.Unix()
	send := func(name, help string, kind prometheus.ValueType, v float64, pairs ...string) {
		ch <- constant(name, help, kind, v, pairs...)
	}

	send("workload_resets_total", "A counter that starts anew every 20 seconds.",
		prometheus.CounterValue, float64(second%20))
	// A new series every 7 seconds, the old one goes stale.
	send("workload_pod_start_seconds", "Pods come and go.",
		prometheus.GaugeValue, float64(second-second%7), "pod", fmt.Sprintf("pod-%d", second/7%100000))
	// Absent for half of each 10 seconds.
	if second%10 < 5 {
		send("workload_blinking", "A gauge with gaps.", prometheus.GaugeValue, float64(second%10))
	}
	for kind, v := range map[string]float64{
		"nan": math.NaN(), "inf": math.Inf(1), "-inf": math.Inf(-1),
		"denormal": math.SmallestNonzeroFloat64, "max": math.MaxFloat64,
	} {
		send("workload_special_value", "Values that break careless code.", prometheus.GaugeValue, v, "kind", kind)
	}
	send("workload_sea_temperature", "Renamed by the scrape to what needs quoting.",
		prometheus.GaugeValue, math.Sin(float64(second)/10), "name", "Ægir \"Ymir\"\n日本海")

	for n := range 5 {
		ch <- prometheus.NewMetricWithTimestamp(now, constant("workload_stamped",
			"Carries its own timestamp, so it does not go stale.",
			prometheus.GaugeValue, float64(second)*float64(n+1), "n", strconv.Itoa(n)))
	}
}

// constant makes a sample whose labels are given as names and values in turn.
func constant(name, help string, kind prometheus.ValueType, v float64, pairs ...string) prometheus.Metric {
	var names, values []string
	for i := 0; i < len(pairs); i += 2 {
		names, values = append(names, pairs[i]), append(values, pairs[i+1])
	}
	return prometheus.MustNewConstMetric(prometheus.NewDesc(name, help, names, nil), kind, v, values...)
}
