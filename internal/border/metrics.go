package border

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	refused  *prometheus.CounterVec
	failures prometheus.Counter // nil without TLS, as is expiry
	expiry   prometheus.GaugeFunc
}

func newMetrics(g *Guard, r prometheus.Registerer) *metrics {
	factory := promauto.With(r)
	m := &metrics{refused: factory.NewCounterVec(prometheus.CounterOpts{
		Name: "starling_peer_refused_connections_total",
		Help: "Connections to the port for peers that were refused, by why: address or tls.",
	}, []string{"reason"})}
	if len(g.opts.Networks) > 0 {
		m.refused.WithLabelValues("address")
	}
	if g.opts.TLS == nil {
		return m
	}
	m.refused.WithLabelValues("tls")
	m.failures = factory.NewCounter(prometheus.CounterOpts{
		Name: "starling_peer_tls_reload_failures_total",
		Help: "Contents of the files of TLS between nodes that were of no use, so that those before stayed in use.",
	})
	m.expiry = factory.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "starling_peer_tls_certificate_expiry_timestamp_seconds",
		Help: "When the certificate expires that this node shows to peers.",
	}, func() float64 { return float64(g.current().certificate.Leaf.NotAfter.Unix()) })
	return m
}
