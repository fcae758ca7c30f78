package api

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	v1 "github.com/prometheus/prometheus/web/api/v1"
)

// Cluster describes the cluster as this node sees it.
type Cluster interface {
	// Status returns the present state. It is called concurrently and must not block.
	Status() ClusterStatus
}

// ClusterStatus is what GET /api/v1/cluster shows.
type ClusterStatus struct {
	ClusterID string `json:"clusterId"`
	// Self is the ID of the node that answers.
	Self string `json:"self"`
	// Epoch, ReplicationFactor and Slots are those of the table this node works with, by
	// its current assignment.
	Epoch             uint64       `json:"epoch"`
	ReplicationFactor int          `json:"replicationFactor"`
	WriteQuorum       int          `json:"writeQuorum"`
	Slots             []SlotStatus `json:"slots"`
	// Transition leads to another assignment; nil if there is none.
	Transition *TransitionStatus `json:"transition,omitempty"`
	// Waiting is how many changes wait for the transition to end.
	Waiting int `json:"waiting,omitempty"`
	// Nodes are all that this node knows of, in a slot or not.
	Nodes []NodeStatus `json:"nodes"`
	// Gaps are what this node notes that others miss.
	Gaps []GapStatus `json:"gaps"`
	// Damage is what this node found in its own data and has not repaired.
	Damage []DamageStatus `json:"damage,omitempty"`
}

// GapStatus is an open gap: a peer may lack samples that this node holds.
type GapStatus struct {
	Peer string `json:"peer"`
	// Since is the time of the oldest sample that the peer may lack, empty if all are in
	// doubt.
	Since string `json:"since,omitempty"`
	// Opened is when the gap was noted first.
	Opened time.Time `json:"opened"`
	// HandingOff tells whether the peer is taking what it lacks.
	HandingOff bool `json:"handingOff"`
	// SamplesLeft and BytesLeft estimate what is to be handed off.
	SamplesLeft int64 `json:"samplesLeft"`
	BytesLeft   int64 `json:"bytesLeft"`
}

// DamageStatus is a range of time for which this node may lack samples.
type DamageStatus struct {
	// MinTime and MaxTime are inclusive, in milliseconds since 1970.
	MinTime int64     `json:"minTime"`
	MaxTime int64     `json:"maxTime"`
	Kind    string    `json:"kind"`
	Name    string    `json:"name"`
	Detail  string    `json:"detail"`
	Found   time.Time `json:"found"`
	// Suspect ranges lack only what was not confirmed, as far as a node can tell.
	Suspect bool `json:"suspect,omitempty"`
}

// SlotStatus is one slot of the table; a hole has no node.
type SlotStatus struct {
	Slot int    `json:"slot"`
	Node string `json:"node,omitempty"`
	Zone string `json:"zone,omitempty"`
	// Removed nodes are given up: their copies count as missing.
	Removed bool `json:"removed,omitempty"`
}

// TransitionStatus is how far the way to another assignment is.
type TransitionStatus struct {
	// Phase is in the words of the table: "copying" or "switching".
	Phase string `json:"phase"`
	// Began is the epoch with which the phase began.
	Began             uint64       `json:"began"`
	Paused            bool         `json:"paused,omitempty"`
	ReplicationFactor int          `json:"replicationFactor"`
	Slots             []SlotStatus `json:"slots"`
	// Awaited are the IDs of the nodes that the next phase waits for.
	Awaited []string `json:"awaited"`
}

// NodeStatus is one node as this node sees it.
type NodeStatus struct {
	ID        string        `json:"id"`
	Name      string        `json:"name,omitempty"`
	Addresses NodeAddresses `json:"addresses"`
	Zone      string        `json:"zone,omitempty"`
	// State is in the words of the cluster: "alive", "dead", "left", ….
	State   string `json:"state"`
	Version string `json:"version,omitempty"`
	// Epoch is the newest table that the node has said to have.
	Epoch uint64 `json:"epoch"`
	// Ready is the epoch with which the phase of a transition began for which the node holds
	// all it is to own.
	Ready uint64 `json:"ready,omitempty"`
	// Slot is nil for a node without one.
	Slot *int `json:"slot"`
}

// NodeAddresses are host:port, empty if unknown.
type NodeAddresses struct {
	Gossip string `json:"gossip,omitempty"`
	RPC    string `json:"rpc,omitempty"`
	HTTP   string `json:"http,omitempty"`
}

// cluster serves GET /api/v1/cluster, ready or not: that is when people look.
func (a *API) cluster(w http.ResponseWriter, r *http.Request) {
	status := a.opts.Info.Cluster.Status()
	if status.Slots == nil {
		status.Slots = []SlotStatus{}
	}
	if status.Nodes == nil {
		status.Nodes = []NodeStatus{}
	}
	a.answer(w, r, status, nil)
}

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
