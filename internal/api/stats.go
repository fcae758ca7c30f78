package api

import (
	"context"
	"fmt"
	"net/http"

	"github.com/prometheus/prometheus/util/stats"
	v1 "github.com/prometheus/prometheus/web/api/v1"
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
}

// statsAll is the value of the parameter "stats" that asks for everything.
const statsAll = "all"

// statsRequest is what a request asks to be told about its query, and what there is to tell.
// The goroutine of the request has it for itself.
type statsRequest struct {
	param     string
	fragments []FragmentStats
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
			r = r.WithContext(context.WithValue(r.Context(), statsKey{}, &statsRequest{param: param}))
		}
		next(w, r)
	}
}

// queryStats are Prometheus's statistics, with those of fragments beside them.
type queryStats struct {
	stats.BuiltinStats
	Fragments []FragmentStats `json:"fragments"`
}

// renderStats is a v1.StatsRenderer: Prometheus's own, and with stats=all what became of the
// fragments, if there are any.
func renderStats(ctx context.Context, s *stats.Statistics, param string) stats.QueryStats {
	rendered := v1.DefaultStatsRenderer(ctx, s, param)
	wanted := wantedStats(ctx)
	if rendered == nil || param != statsAll || wanted == nil || len(wanted.fragments) == 0 {
		return rendered
	}
	return &queryStats{rendered.Builtin(), wanted.fragments}
}
