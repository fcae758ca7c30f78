package api

import (
	"context"
	"fmt"
	"net/http"

	"github.com/prometheus/prometheus/util/stats"
	v1 "github.com/prometheus/prometheus/web/api/v1"

	"github.com/starling-tsdb/starling/internal/spent"
)

// Values of FragmentStats.Evaluated.
const (
	evaluatedInParts = "in parts"
	evaluatedWhole   = "whole"
)

// FragmentStats tell what became of a fragment of a query.
type FragmentStats struct {
	Text string `json:"text"`
	// Evaluated is how: "in parts" by the owners of the series, or "whole" over the series as
	// they are stored, for a reason. It is empty if the query ended before.
	Evaluated string `json:"evaluated"`
	Reason    string `json:"reason,omitempty"`
	// Seconds is how long that took, the attempt in parts included.
	Seconds float64 `json:"seconds"`
	// Samples were looked at, those that several steps look at as often; Series are those of
	// the answer.
	Samples int64 `json:"samples"`
	Series  int   `json:"series"`
	// Reads are what it read of the nodes: one of its parts and, if it was evaluated whole, one of each
	// selector.
	Reads []ReadStats `json:"reads"`
}

// statsAll is the value of the parameter "stats" that asks for everything.
const statsAll = "all"

// statsRequest is what a request asks to be told about its query, and what there is to tell.
// The goroutine of the request has it for itself.
type statsRequest struct {
	param     string
	fragments []FragmentStats
	// whole are the selectors that are in no fragment.
	whole []ExplainedSelector
	// spent is what the query takes beside its fragments, nil unless everything is asked for.
	spent *spent.Query
}

type statsKey struct{}

// wantedStats returns what the request in ctx asks for, nil if that is nothing.
func wantedStats(ctx context.Context) *statsRequest {
	r, _ := ctx.Value(statsKey{}).(*statsRequest)
	return r
}

// warning is Prometheus's, which it leaves out where statistics are rendered by others.
func (r *statsRequest) warning() error {
	if r == nil || r.param == "true" || r.param == statsAll {
		return nil
	}
	return fmt.Errorf("value %q for parameter \"stats\" is deprecated and will be rejected in the next major release, use \"true\" or %q", r.param, statsAll)
}

// withStats notes which statistics a query is to give.
func withStats(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if param := r.FormValue("stats"); param != "" {
			wanted := &statsRequest{param: param}
			ctx := context.WithValue(r.Context(), statsKey{}, wanted)
			if param == statsAll {
				ctx, wanted.spent = spent.With(ctx)
			}
			r = r.WithContext(ctx)
		}
		next(w, r)
	}
}

// queryStats are Prometheus's statistics, with those of fragments and nodes beside them.
type queryStats struct {
	stats.BuiltinStats
	distributedStats
}

// distributedStats tell what became of a query in the cluster.
type distributedStats struct {
	Fragments []FragmentStats `json:"fragments"`
	// Whole are the selectors whose series are read as stored, and why; Selectors what that took.
	Whole     []ExplainedSelector `json:"whole"`
	Selectors []ReadStats         `json:"selectors"`
	Read      ReadTotals          `json:"read"`
}

// distributed renders what there is to tell.
func (r *statsRequest) distributed(name func(id string) NodeName) distributedStats {
	d := distributedStats{
		Fragments: append([]FragmentStats{}, r.fragments...), Whole: append([]ExplainedSelector{}, r.whole...), Selectors: readStats(r.spent),
	}
	d.Read.add(d.Selectors)
	nameNodes(d.Selectors, name)
	for _, f := range d.Fragments {
		d.Read.add(f.Reads)
		nameNodes(f.Reads, name)
	}
	return d
}

// renderStats is a v1.StatsRenderer: Prometheus's own, and with stats=all what became of the
// query in the cluster.
func (a *API) renderStats(ctx context.Context, s *stats.Statistics, param string) stats.QueryStats {
	rendered := v1.DefaultStatsRenderer(ctx, s, param)
	wanted := wantedStats(ctx)
	if rendered == nil || param != statsAll || wanted == nil {
		return rendered
	}
	told := &queryStats{rendered.Builtin(), wanted.distributed(a.opts.Info.NodeName)}
	if run := runOf(ctx); run != nil {
		run.stats = told
	}
	return told
}
