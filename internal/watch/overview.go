package watch

// queryHandlers are the routes of queries; those of dashboards and rules come in by them.
const queryHandlers = `handler=~"/api/v1/query|/api/v1/query_range"`

// refusedWrites and refusedQueries are the parts of requests that are answered 503; nothing if
// there are no requests.
const (
	refusedWrites  = `(sum(rate(starling_write_requests_total{sel, code="503"}[$__rate_interval])) or vector(0)) / (sum(rate(starling_write_requests_total{sel}[$__rate_interval])) > 0)`
	refusedQueries = `(sum(rate(starling_http_requests_total{sel, ` + queryHandlers + `, code="503"}[$__rate_interval])) or vector(0)) / (sum(rate(starling_http_requests_total{sel, ` + queryHandlers + `}[$__rate_interval])) > 0)`
)

// overview answers whether a cluster is whole, and how much it has to do.
func overview() dashboard {
	return dashboard{
		file: "overview.json", uid: "starling-overview", title: "Cluster",
		about: "Whether the cluster is whole, what it does, and how much room it has. The first row is green if nothing is to be done.",
		rows:  []row{wholeness(), traffic(), room(), nodes(), contact()},
	}
}

func wholeness() row {
	return row{"Is it whole?", []panel{
		{
			kind: figure, title: "Nodes not ready", steps: worse(1, 2), width: 3,
			about: "Nodes that Prometheus does not reach, or whose /-/ready is not 200.",
			asks: []ask{{`(sum(starling_ready{sel} == bool 0) or vector(0))
  + (sum(up{sel} == bool 0 and on (instance) last_over_time(starling_build_info{sel}[1d])) or vector(0))`, ""}},
		},
		{
			kind: figure, title: "Owners to spare", steps: atLeast(0, 1), width: 3,
			about: "How many more owners of a series may be lost until a write of it is refused, for the series that is worst off, by the node that sees the least. Below 0, writes and queries are refused.",
			asks:  []ask{{"min(starling_placement_copies{sel} - starling_placement_missing_copies{sel} - starling_placement_write_quorum{sel})", ""}},
		},
		{
			kind: figure, title: "Nodes with a gap", steps: look(1), width: 3,
			about: "Nodes that are noted to miss writes. It is handed off when they are back.",
			asks:  []ask{{"count(max by (peer) (starling_gaps_open{sel})) or vector(0)", ""}},
		},
		{
			kind: figure, title: "Fenced", steps: bad(1), width: 3,
			about: "Nodes that refuse writes, as their disk is full or has failed.",
			asks:  []ask{{"sum(max by (instance) (starling_storage_fenced{sel}))", ""}},
		},
		{
			kind: figure, title: "Damaged", steps: look(1), width: 3,
			about: "Nodes with damaged data that is not made good yet.",
			asks:  []ask{{`count(sum by (instance) (starling_storage_damaged_ranges{sel, suspect="false"}) > 0) or vector(0)`, ""}},
		},
		{
			kind: figure, title: "Tables", steps: look(2), width: 3,
			about: "Different tables that nodes go by: 1, but for seconds when it changes.",
			asks:  []ask{{`count(count_values("epoch", starling_cluster_epoch{sel} and starling_cluster_slot{sel} >= 0))`, ""}},
		},
		{
			kind: figure, title: "Raft", steps: []step{{color: "orange"}, {"green", 1}}, says: map[string]string{"0": "no leader", "1": "has a leader"}, width: 3,
			about: "Without a leader nodes neither join nor go; writes and queries go on.",
			asks:  []ask{{"max(starling_cluster_raft_has_leader{sel})", ""}},
		},
		{
			kind: figure, title: "Transition", steps: []step{{color: "green"}, {"blue", 1}}, says: map[string]string{"0": "none", "1": "moving data"}, width: 3,
			about: "Whether nodes come or go, which moves data.",
			asks:  []ask{{"max(starling_transition_phase{sel})", ""}},
		},
	}}
}

func traffic() row {
	return row{"What does it do?", []panel{
		{
			kind: chart, title: "Samples written", unit: "cps", stacked: true, width: 6,
			about: "Samples that clients were told are stored, by the node that they were sent to.",
			asks:  []ask{{`sum by (instance) (rate(starling_write_samples_total{sel, outcome="written"}[$__rate_interval]))`, "{{instance}}"}},
		},
		{
			kind: chart, title: "Queries", unit: "reqps", stacked: true, width: 6,
			about: "Instant and range queries, by the node that was asked, however they were answered.",
			asks:  []ask{{"sum by (instance) (rate(starling_http_requests_total{sel, " + queryHandlers + "}[$__rate_interval]))", "{{instance}}"}},
		},
		{
			kind: chart, title: "Refused", unit: "percentunit", steps: bad(0.05), width: 6,
			about: "Part of the write requests and of the queries that were answered 503. Senders repeat writes.",
			asks: []ask{
				{refusedWrites, "writes"},
				{refusedQueries, "queries"},
			},
		},
		{
			kind: chart, title: "Duration", unit: "s", width: 6,
			about: "How long 99 of 100 take at most.",
			asks: append(
				quantiles("starling_write_request_duration_seconds", "{sel}", "writes", "", "99"),
				quantiles("starling_http_request_duration_seconds", "{sel, "+queryHandlers+"}", "queries", "", "99")...),
		},
	}}
}

func room() row {
	return row{"How much room has it?", []panel{
		{
			kind: chart, title: "Series in memory", unit: "short",
			about: "Each series counts on each of its owners. At --storage.max-series, shown from a quarter of it on, new ones are refused.",
			asks: []ask{
				{"prometheus_tsdb_head_series{sel}", "{{instance}}"},
				{"min(starling_storage_max_series{sel} > 0) < 4 * max(prometheus_tsdb_head_series{sel})", "limit"},
			},
			paint: []paint{{"limit", "red"}},
		},
		{
			kind: chart, title: "Disk used", unit: "percentunit", most: 1, steps: worse(0.8, 0.9),
			about: "Of the file system, whoever uses it. Below a reserve of a tenth, 512 MiB at most, a node refuses writes.",
			asks:  []ask{{"1 - starling_storage_disk_free_bytes{sel} / starling_storage_disk_size_bytes{sel}", "{{instance}}"}},
		},
		{
			kind: chart, title: "Memory of GOMEMLIMIT", unit: "percentunit", steps: worse(0.85, 0.95),
			about: "What the Go runtime holds, of what it may. Nearer to it the collector takes more CPU.",
			asks:  []ask{{"(go_memstats_sys_bytes{sel} - go_memstats_heap_released_bytes{sel}) / go_gc_gomemlimit_bytes{sel}", "{{instance}}"}},
		},
	}}
}

func nodes() row {
	return row{"Who is there?", []panel{{
		kind: table, title: "Members", about: "Nodes as gossip sees them, those that are down among them.", width: 9,
		asks: []ask{{"min by (name, zone, id) (starling_cluster_member_alive{sel})", ""}},
		columns: []column{
			{field: "name", title: "Name"},
			{field: "zone", title: "Zone"},
			{field: "id", title: "ID"},
			{field: "Value", title: "Reached by all", says: map[string]string{"0": "no", "1": "yes"}, steps: []step{{color: "orange"}, {"green", 1}}},
		},
	}, {
		kind: table, title: "Nodes", about: "What nodes say of themselves. Those that are down are not there.", width: 15,
		asks: []ask{
			{"max by (instance) (starling_ready{sel})", ""},
			{"max by (instance, name, id) (starling_cluster_node_info{sel})", ""},
			{"max by (instance) (starling_cluster_slot{sel})", ""},
			{"max by (instance) (starling_cluster_epoch{sel})", ""},
			{"max by (instance) (starling_cluster_raft_leader{sel})", ""},
			{"max by (instance) (prometheus_tsdb_head_series{sel})", ""},
			{"max by (instance) (time() - process_start_time_seconds{sel})", ""},
			{"max by (instance, version) (starling_build_info{sel})", ""},
		},
		columns: []column{
			{field: "instance", title: "Node"},
			{field: "name", title: "Name"},
			{field: "id", title: "ID"},
			{field: "Value #A", title: "Ready", says: map[string]string{"0": "no", "1": "yes"}, steps: []step{{color: "red"}, {"green", 1}}},
			{field: "Value #C", title: "Slot", says: map[string]string{"-1": "none"}},
			{field: "Value #D", title: "Epoch"},
			{field: "Value #E", title: "Raft", says: map[string]string{"0": "-", "1": "leads"}},
			{field: "Value #F", title: "Series", unit: "short"},
			{field: "Value #G", title: "Up for", unit: "s"},
			{field: "version", title: "Version"},
		},
	}}}
}

func contact() row {
	return row{"Do nodes hear each other?", []panel{
		{
			kind: chart, title: "Members not reached", unit: "short", width: 6,
			about: "Nodes that gossip does not reach, as each node sees it. Nodes that differ for long are cut off from each other.",
			asks:  []ask{{`sum by (instance) (starling_cluster_members{sel, state!="alive"})`, "{{instance}}"}},
		},
		{
			kind: chart, title: "Epoch of the table", unit: "none", width: 6,
			about: "By which each node goes. One that stays behind is not counted by the others, and looks for whom it can reach, or cannot write the table to disk.",
			asks:  []ask{{"starling_cluster_epoch{sel}", "{{instance}}"}},
		},
		{
			kind: chart, title: "Raft's term", unit: "none", width: 6,
			about: "Each step is an election: the leader was not heard in time.",
			asks:  []ask{{"max(starling_cluster_raft_term{sel})", "term"}},
		},
		{
			kind: chart, title: "Gossip behind its timing", unit: "none", width: 6,
			about: "0 is healthy. Above it for long, the node is starved of CPU, or its network loses packets.",
			asks:  []ask{{"starling_cluster_gossip_health_score{sel}", "{{instance}}"}},
		},
		{
			kind: chart, title: "Contacts that failed", unit: "short", width: 6,
			about: "With seeds and members that gossip has lost, within ten minutes. They go on while one is down; else the way to it is closed.",
			asks:  []ask{{`sum by (instance) (increase(starling_cluster_rejoins_total{sel, result!="success"}[10m]))`, "{{instance}}"}},
		},
		{
			kind: chart, title: "Strangers refused", unit: "cps", width: 6,
			about: "Packets, nodes, requests and connections, by what gave them away: another cluster is in reach, or a node has wrong keys, files or addresses. Nothing is shown if there were none.",
			asks: []ask{
				{"sum by (reason) (rate(starling_cluster_refused_total{sel}[$__rate_interval])) > 0", "{{reason}}"},
				{"sum by (reason) (rate(starling_peer_refused_connections_total{sel}[$__rate_interval])) > 0", "connection: {{reason}}"},
			},
		},
		{
			kind: chart, title: "Certificates expire in", unit: "s", steps: []step{{color: "red"}, {"green", 14 * 86400}}, width: 6,
			about: "Of TLS between nodes; nobody talks to a node without a valid one. Nothing is shown without TLS.",
			asks:  []ask{{"starling_peer_tls_certificate_expiry_timestamp_seconds{sel} - time()", "{{instance}}"}},
		},
		{
			kind: chart, title: "Not taken over", unit: "short", width: 6,
			about: "Within ten minutes: tables that could not be written to disk, and files of TLS that are of no use. Nothing is shown if there were none; the log says why.",
			asks: []ask{
				{"sum by (instance) (increase(starling_cluster_table_adopt_failures_total{sel}[10m])) > 0", "{{instance}} table"},
				{"sum by (instance) (increase(starling_peer_tls_reload_failures_total{sel}[10m])) > 0", "{{instance}} TLS"},
			},
		},
	}}
}
