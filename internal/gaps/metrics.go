package gaps

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/starling-tsdb/starling/internal/proof"
	"github.com/starling-tsdb/starling/internal/table"
)

var (
	openDesc = prometheus.NewDesc("starling_gaps_open",
		"Whether this node notes a gap for a peer, which may lack acknowledged samples.", []string{"peer"}, nil)
	openedDesc = prometheus.NewDesc("starling_gap_opened_timestamp_seconds",
		"When the open gap of a peer was noted first.", []string{"peer"}, nil)
	sinceDesc = prometheus.NewDesc("starling_gap_since_timestamp_seconds",
		"Time of the oldest sample that a peer may lack.", []string{"peer"}, nil)
	lateDesc = prometheus.NewDesc("starling_gap_late_notes",
		"Notes of this node for a peer whose confirmation is late and may still come.", []string{"peer"}, nil)
)

// collector implements prometheus.Collector: peers without a gap have no series.
type collector struct{ b *Book }

// Describe implements prometheus.Collector.
func (c collector) Describe(ch chan<- *prometheus.Desc) {
	ch <- openDesc
	ch <- openedDesc
	ch <- sinceDesc
	ch <- lateDesc
}

// Collect implements prometheus.Collector.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	for _, s := range c.b.Status() {
		peer := string(s.Peer)
		ch <- prometheus.MustNewConstMetric(openDesc, prometheus.GaugeValue, 1, peer)
		ch <- prometheus.MustNewConstMetric(openedDesc, prometheus.GaugeValue, float64(s.Opened.UnixMilli())/1000, peer)
		ch <- prometheus.MustNewConstMetric(sinceDesc, prometheus.GaugeValue, float64(s.Since)/1000, peer)
	}
	for peer, n := range c.b.lateNotes() {
		ch <- prometheus.MustNewConstMetric(lateDesc, prometheus.GaugeValue, float64(n), string(peer))
	}
}

func (b *Book) lateNotes() map[table.NodeID]int {
	b.mu.Lock()
	defer b.mu.Unlock()
	count := map[table.NodeID]int{}
	for peer, n := range b.notes {
		if !n.firm {
			count[peer] = len(n.late)
		}
	}
	return count
}

// Status is an open gap, for people to see.
type Status struct {
	proof.Gap
	// Opened is when it was noted first.
	Opened time.Time
	// HandingOff tells whether the peer is taking what it lacks.
	HandingOff bool
}

// Status returns the open gaps, in the order of Open.
func (b *Book) Status() []Status {
	b.mu.Lock()
	defer b.mu.Unlock()
	list := make([]Status, 0, len(b.notes))
	for _, g := range b.listed(func(n *note) bool { return n.firm }) {
		n := b.notes[g.Peer]
		list = append(list, Status{Gap: g, Opened: n.Opened, HandingOff: n.session != nil})
	}
	return list
}
