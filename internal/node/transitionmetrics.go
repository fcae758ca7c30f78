package node

import (
	"math"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/starling-tsdb/starling/internal/table"
)

// transitionCollector shows whether this node is ready, how copies are placed, and how far a
// transition is, as far as the node knows without asking others.
type transitionCollector struct{ n *Node }

var (
	nodeReadyDesc = prometheus.NewDesc("starling_ready",
		"1 if /-/ready is 200.", nil, nil)
	copiesDesc = prometheus.NewDesc("starling_placement_copies",
		"Copies of each series: the replication factor, or the number of nodes if that is less.", nil, nil)
	quorumDesc = prometheus.NewDesc("starling_placement_write_quorum",
		"Owners that have to confirm a write.", nil, nil)
	missingDesc = prometheus.NewDesc("starling_placement_missing_copies",
		"How many copies of one series may lie on nodes that gossip does not reach or that were given up: the most there are of any series, by zones.", nil, nil)
	crowdedDesc = prometheus.NewDesc("starling_placement_crowded_ratio",
		"About which part of the series have copies in fewer zones than they could, because a zone has too few nodes.", nil, nil)
	phaseDesc = prometheus.NewDesc("starling_transition_phase",
		"1 for the phase of the transition that is under way.", []string{"phase"}, nil)
	beganDesc = prometheus.NewDesc("starling_transition_began_epoch",
		"Epoch with which the phase began, 0 if there is no transition.", nil, nil)
	sinceDesc = prometheus.NewDesc("starling_transition_phase_since_timestamp_seconds",
		"When this node entered the phase; absent if that was before it started.", nil, nil)
	awaitedDesc = prometheus.NewDesc("starling_transition_awaited_nodes",
		"Nodes that the next phase waits for.", nil, nil)
	waitingDesc = prometheus.NewDesc("starling_transition_waiting_commands",
		"Commands that wait for the end of the transition.", nil, nil)
	pausedDesc = prometheus.NewDesc("starling_transition_paused",
		"1 while copying is paused.", nil, nil)
	readyDesc = prometheus.NewDesc("starling_transition_ready",
		"1 if this node holds all that it is to own, 0 while it copies; absent if it has nothing to copy.", nil, nil)
	untilDesc = prometheus.NewDesc("starling_transition_copied_until_timestamp_seconds",
		"Time of the samples up to which this node has copied all; absent before the first window.", nil, nil)
	leftDesc = prometheus.NewDesc("starling_transition_left_seconds",
		"Time of samples that this node has still to copy, from there to now; the retention before the first window.", nil, nil)
)

// Describe implements prometheus.Collector.
func (transitionCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{nodeReadyDesc, copiesDesc, quorumDesc, missingDesc, crowdedDesc, phaseDesc, beganDesc, sinceDesc, awaitedDesc, waitingDesc, pausedDesc, readyDesc, untilDesc, leftDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c transitionCollector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	gauge(nodeReadyDesc, oneIf(c.n.ready() == nil))
	p := c.n.placed.Load()
	if p == nil {
		return
	}
	gauge(copiesDesc, float64(p.reading.Copies()))
	gauge(quorumDesc, float64(p.reading.WriteQuorum()))
	gauge(missingDesc, float64(p.missingCopies(c.n.reached())))
	gauge(crowdedDesc, p.reading.crowded)
	var now table.Transition
	if p.table.Transition != nil {
		now = *p.table.Transition
	}
	for _, phase := range []table.Phase{table.Copying, table.Switching} {
		gauge(phaseDesc, oneIf(now.Phase == phase), string(phase))
	}
	gauge(beganDesc, float64(now.Began))
	gauge(waitingDesc, float64(len(p.table.Waiting)))
	gauge(pausedDesc, oneIf(p.table.Paused))
	gauge(awaitedDesc, float64(len(c.n.cluster.Awaited())))
	if !p.since.IsZero() {
		gauge(sinceDesc, float64(p.since.UnixMilli())/1000)
	}
	progress := c.n.mover.Progress()
	if now.Phase != table.Copying || progress.Began != now.Began {
		return
	}
	gauge(readyDesc, oneIf(progress.Ready))
	switch {
	case progress.Until == math.MinInt64:
		if retention := time.Duration(c.n.opts.Config.Storage.RetentionTime); retention > 0 {
			gauge(leftDesc, retention.Seconds())
		}
	case progress.Until == math.MaxInt64:
		gauge(leftDesc, 0)
	default:
		gauge(untilDesc, float64(progress.Until)/1000)
		gauge(leftDesc, max(0, time.Since(time.UnixMilli(progress.Until)).Seconds()))
	}
}

// missingCopies returns how many copies of one series may lie on nodes that are not reached or
// were given up, by whichever assignment has more of them.
func (p *placed) missingCopies(reached func(table.NodeID) bool) int {
	most := 0
	for _, a := range p.writing {
		most = max(most, a.mostCopies(func(slot int) bool {
			node := a.Slots[slot].Node
			return node != "" && !reached(node)
		}))
	}
	return most
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
