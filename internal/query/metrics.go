package query

import (
	"context"
	"errors"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	requests     *prometheus.CounterVec
	nodeFailures *prometheus.CounterVec
	abandoned    prometheus.Counter
	restarts     prometheus.Counter
	nearby       *prometheus.CounterVec
	bytes        prometheus.Counter
	divergent    prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	return &metrics{
		requests: f.NewCounterVec(prometheus.CounterOpts{
			Name: "starling_query_fanout_requests_total",
			Help: "Reads asked of all nodes, by operation and outcome: complete, partial as the client allowed, incomplete, more than the limit of a query, unproven (a fragment that is read as series instead), canceled, error.",
		}, []string{"operation", "outcome"}),
		nodeFailures: f.NewCounterVec(prometheus.CounterOpts{
			Name: "starling_query_fanout_node_failures_total",
			Help: "Answers of single nodes that a read had to do without, by reason.",
		}, []string{"reason"}),
		abandoned: f.NewCounter(prometheus.CounterOpts{
			Name: "starling_query_fanout_stragglers_total",
			Help: "Nodes that a complete read did not wait for.",
		}),
		restarts: f.NewCounter(prometheus.CounterOpts{
			Name: "starling_query_fanout_restarts_total",
			Help: "Reads begun again because a node was at another epoch of the table.",
		}),
		nearby: f.NewCounterVec(prometheus.CounterOpts{
			Name: "starling_query_nearby_reads_total",
			Help: "Reads that the node which is asked, as it holds all series, began on its own, by outcome: divided among all nodes, since there are many series, or as of starling_query_fanout_requests_total.",
		}, []string{"outcome"}),
		bytes: f.NewCounter(prometheus.CounterOpts{
			Name: "starling_query_fanout_bytes_total",
			Help: "Bytes of labels and chunks buffered by reads, over all copies.",
		}),
		divergent: f.NewCounter(prometheus.CounterOpts{
			Name: "starling_query_divergent_series_total",
			Help: "Series read whose copies were not the same chunks.",
		}),
	}
}

// result is what a read came to, as the outcome label names it.
func result(err error, partial bool) string {
	var incomplete *IncompleteError
	switch {
	case err == nil && partial:
		return "partial"
	case err == nil:
		return "complete"
	case errors.As(err, &incomplete):
		return "incomplete"
	case overLimit(err):
		return "limit"
	case isUnproven(err):
		return "unproven"
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return "canceled"
	default:
		return "error"
	}
}
