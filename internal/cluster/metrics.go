package cluster

import (
	"github.com/hashicorp/raft"
	"github.com/prometheus/client_golang/prometheus"
)

// metrics counts what happens, and reads off the state when it is collected.
type metrics struct {
	refused       *prometheus.CounterVec
	rejoins       *prometheus.CounterVec
	adoptFailures prometheus.Counter

	registerer prometheus.Registerer
	collectors []prometheus.Collector
}

func newMetrics(c *Cluster, r prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "starling_cluster_refused_total",
			Help: "Packets, streams, nodes and requests refused because they are of another cluster, without a key, or where no node may be, by what gave them away.",
		}, []string{"reason"}),
		rejoins: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "starling_cluster_rejoins_total",
			Help: "Attempts to contact seeds and lost members by gossip.",
		}, []string{"result"}),
		adoptFailures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "starling_cluster_table_adopt_failures_total",
			Help: "Tables that could not be written to disk and so were not adopted yet.",
		}),
		registerer: r,
	}
	for _, reason := range []string{"address", "cluster-id", "cluster-name", "key", "request"} {
		m.refused.WithLabelValues(reason)
	}
	if r == nil {
		return m, nil
	}
	for _, x := range []prometheus.Collector{m.refused, m.rejoins, m.adoptFailures, &stateCollector{c}} {
		if err := r.Register(x); err != nil {
			m.unregister()
			return nil, err
		}
		m.collectors = append(m.collectors, x)
	}
	return m, nil
}

func (m *metrics) unregister() {
	if m == nil {
		return
	}
	for _, x := range m.collectors {
		m.registerer.Unregister(x)
	}
}

func (m *metrics) refuse(reason string) { m.refused.WithLabelValues(reason).Inc() }

func (m *metrics) rejoin(ok bool) {
	result := "success"
	if !ok {
		result = "failure"
	}
	m.rejoins.WithLabelValues(result).Inc()
}

// stateCollector reads the state of a Cluster.
type stateCollector struct{ c *Cluster }

var (
	membersDesc = prometheus.NewDesc("starling_cluster_members",
		"Nodes of the table and of gossip, this one included, by what gossip says of them.", []string{"state"}, nil)
	infoDesc = prometheus.NewDesc("starling_cluster_node_info",
		"1, with the ID, the name and the zone of this node.", []string{"id", "name", "zone"}, nil)
	aliveDesc = prometheus.NewDesc("starling_cluster_member_alive",
		"Whether gossip reaches a node of the table or one that gossip knows, this one included: 1, or 0.", []string{"id", "name", "zone"}, nil)
	epochDesc = prometheus.NewDesc("starling_cluster_epoch",
		"Epoch of the table this node has adopted, 0 if none.", nil, nil)
	slotDesc = prometheus.NewDesc("starling_cluster_slot",
		"This node's slot in the table, -1 if none.", nil, nil)
	healthDesc = prometheus.NewDesc("starling_cluster_gossip_health_score",
		"How far gossip falls short of its timing on this node; 0 is healthy.", nil, nil)
	leaderDesc = prometheus.NewDesc("starling_cluster_raft_leader",
		"1 if this node is Raft's leader.", nil, nil)
	hasLeaderDesc = prometheus.NewDesc("starling_cluster_raft_has_leader",
		"1 if this node knows a leader of Raft.", nil, nil)
	termDesc = prometheus.NewDesc("starling_cluster_raft_term",
		"Raft's term, which grows with each election.", nil, nil)
	appliedDesc = prometheus.NewDesc("starling_cluster_raft_applied_index",
		"Last entry of Raft's log that this node has applied.", nil, nil)
)

// Describe implements prometheus.Collector.
func (s *stateCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{membersDesc, infoDesc, aliveDesc, epochDesc, slotDesc, healthDesc, leaderDesc, hasLeaderDesc, termDesc, appliedDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (s *stateCollector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	states := map[MemberState]int{Alive: 0, Dead: 0, Left: 0, Unknown: 0}
	slot := -1
	for _, m := range s.c.Members() {
		states[m.State]++
		gauge(aliveDesc, boolean(m.State == Alive), string(m.ID), m.Name, m.Zone)
		if m.ID == s.c.Self() {
			slot = m.Slot
			gauge(infoDesc, 1, string(m.ID), m.Name, m.Zone)
		}
	}
	for state, n := range states {
		gauge(membersDesc, float64(n), string(state))
	}
	epoch := uint64(0)
	if t := s.c.Table(); t != nil {
		epoch = t.Epoch
	}
	gauge(epochDesc, float64(epoch))
	gauge(slotDesc, float64(slot))
	if a := s.c.advertised.Load(); a != nil && a.gossip != "" {
		gauge(healthDesc, float64(s.c.gossip.list.GetHealthScore()))
	}
	r := s.c.consensus().running()
	if r == nil {
		return
	}
	gauge(leaderDesc, boolean(r.State() == raft.Leader))
	gauge(hasLeaderDesc, boolean(s.c.consensus().leader() != ""))
	gauge(termDesc, float64(r.CurrentTerm()))
	gauge(appliedDesc, float64(r.AppliedIndex()))
}

func boolean(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
