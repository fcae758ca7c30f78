package api

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	v1 "github.com/prometheus/prometheus/web/api/v1"
)

// metadata serves GET /api/v1/metadata. Prometheus's handler reads scrape targets, of
// which there are none, and could neither fail nor warn.
func (a *API) metadata(w http.ResponseWriter, r *http.Request) {
	limit, err := intParam(r, "limit")
	if err != nil {
		a.answerError(w, err)
		return
	}
	limitPerMetric, err := intParam(r, "limit_per_metric")
	if err != nil {
		a.answerError(w, err)
		return
	}
	families, warnings, err := a.opts.Sources.Metadata.Metadata(r.Context(), r.FormValue("metric"), limit, limitPerMetric)
	if err != nil {
		a.answerError(w, err)
		return
	}
	a.answer(w, r, limitedMetadata(families, limit, limitPerMetric), note(r.Context(), warnings))
}

// intParam parses a whole number, -1 if the parameter is absent.
func intParam(r *http.Request, name string) (int, error) {
	s := r.FormValue(name)
	if s == "" {
		return -1, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		return 0, badData{errors.New(name + " must be a number")}
	}
	return n, nil
}

// limitedMetadata returns the first families by name, and of each the first entries.
func limitedMetadata(families map[string][]metadata.Metadata, limit, limitPerMetric int) map[string][]metadata.Metadata {
	names := slices.Sorted(maps.Keys(families))
	if limit >= 0 && len(names) > limit {
		names = names[:limit]
	}
	limited := make(map[string][]metadata.Metadata, len(names))
	for _, name := range names {
		entries := families[name]
		if limitPerMetric > 0 && len(entries) > limitPerMetric {
			entries = entries[:limitPerMetric]
		}
		limited[name] = entries
	}
	return limited
}

// tsdbStatus serves GET /api/v1/status/tsdb. Prometheus's handler has no context to give
// to the statistics, so neither a deadline nor consent to a partial answer would reach
// them.
func (a *API) tsdbStatus(w http.ResponseWriter, r *http.Request) {
	const defaultLimit, maxLimit = 10, 10_000
	limit := defaultLimit
	if s := r.FormValue("limit"); s != "" {
		var err error
		if limit, err = strconv.Atoi(s); err != nil || limit < 1 {
			a.answerError(w, badData{errors.New("limit must be a positive number")})
			return
		}
		if limit > maxLimit {
			a.answerError(w, badData{fmt.Errorf("limit must not exceed %d", maxLimit)})
			return
		}
	}
	stats, err := a.opts.Sources.Stats.Stats(r.Context(), labels.MetricName, limit)
	if err != nil {
		a.answerError(w, err)
		return
	}
	// The number of chunks is this node's: it is a gauge and no statistic of the index.
	chunks, err := a.gauge("prometheus_tsdb_head_chunks")
	if err != nil {
		a.answerError(w, err)
		return
	}
	status := v1.TSDBStatus{HeadStats: v1.HeadStats{
		NumSeries:  stats.NumSeries,
		ChunkCount: int64(chunks),
		MinTime:    stats.MinTime,
		MaxTime:    stats.MaxTime,
	}}
	if p := stats.IndexPostingStats; p != nil {
		status.HeadStats.NumLabelPairs = p.NumLabelPairs
		status.SeriesCountByMetricName = v1.TSDBStatsFromIndexStats(p.CardinalityMetricsStats)
		status.LabelValueCountByLabelName = v1.TSDBStatsFromIndexStats(p.CardinalityLabelStats)
		status.MemoryInBytesByLabelName = v1.TSDBStatsFromIndexStats(p.LabelValueStats)
		status.SeriesCountByLabelValuePair = v1.TSDBStatsFromIndexStats(p.LabelValuePairsStats)
	}
	a.answer(w, r, status, nil)
}
