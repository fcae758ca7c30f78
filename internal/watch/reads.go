package watch

// reads follows a query to the owners of its series and back.
func reads() dashboard {
	return dashboard{
		file: "reads.json", uid: "starling-reads", title: "Queries",
		about: "What clients hear, what takes the time, and which nodes reads have to do without. A query succeeds only if nothing acknowledged is missing.",
		rows:  []row{answers(), durations(), fanOut(), equality()},
	}
}

func answers() row {
	return row{"What do clients hear?", []panel{
		{
			kind: figure, title: "Queries", unit: "reqps", steps: plain(),
			about: "Instant and range queries.",
			asks:  []ask{{"sum(rate(starling_http_requests_total{sel, " + queryHandlers + "}[$__rate_interval]))", ""}},
		},
		{
			kind: figure, title: "Answered 503", unit: "percentunit", steps: worse(0.001, 0.05),
			about: "Too few owners answered, or the query waited too long for its turn.",
			asks:  []ask{{refusedQueries, ""}},
		},
		{
			kind: figure, title: "Too heavy or wrong", unit: "reqps", steps: worse(0.1, 1),
			about: "Answered 400 or 422: they cannot be parsed or evaluated, or hold more samples than --query.max-samples.",
			asks:  []ask{{`sum(rate(starling_http_requests_total{sel, ` + queryHandlers + `, code=~"4.."}[$__rate_interval])) or vector(0)`, ""}},
		},
		{
			kind: figure, title: "p99", unit: "s", steps: worse(5, 30),
			about: "How long 99 of 100 queries take at most.",
			asks:  quantiles("starling_http_request_duration_seconds", "{sel, "+queryHandlers+"}", "", "", "99"),
		},
		{
			kind: figure, title: "Parts that wait", steps: worse(1, 20),
			about: "Parts of queries that wait on some node for others to be evaluated.",
			asks:  []ask{{"sum(starling_query_evaluations_waiting{sel})", ""}},
		},
		{
			kind: figure, title: "Partial answers", unit: "reqps", steps: worse(0.001, 1),
			about: "Reads that were answered in part, as the client had asked for with partial_response=true.",
			asks:  []ask{{`sum(rate(starling_query_fanout_requests_total{sel, outcome="partial"}[$__rate_interval])) or vector(0)`, ""}},
		},
		{
			kind: chart, title: "Queries by status", unit: "reqps", stacked: true,
			about: "503: too few owners, or no turn. 422: too heavy. aborted: the answer broke off.",
			asks:  []ask{{"sum by (code) (rate(starling_http_requests_total{sel, " + queryHandlers + "}[$__rate_interval]))", "{{code}}"}},
		},
		{
			kind: chart, title: "Reads of all nodes by outcome", unit: "cps", stacked: true,
			about: "incomplete: too few owners. limit: too much for --query.max-samples. unproven: read as series instead of evaluated in parts. A query has one or more.",
			asks:  []ask{{"sum by (outcome) (rate(starling_query_fanout_requests_total{sel}[$__rate_interval]))", "{{outcome}}"}},
			paint: outcomes(),
		},
		{
			kind: chart, title: "Reads begun by one node alone", unit: "cps", stacked: true,
			about: "By nodes that hold all series, by outcome. complete: nobody else was needed for series. divided: there are many series, and all nodes were asked; many of these beside few that are complete are a waste.",
			asks:  []ask{{"sum by (outcome) (rate(starling_query_nearby_reads_total{sel}[$__rate_interval]))", "{{outcome}}"}},
			paint: append(outcomes(), paint{"divided", "yellow"}),
		},
	}}
}

// outcomes colours reads by what has become of them.
func outcomes() []paint {
	return []paint{
		{"complete", "green"}, {"canceled", "blue"}, {"unproven", "yellow"}, {"partial", "orange"},
		{"limit", "purple"}, {"incomplete", "red"}, {"error", "dark-red"},
	}
}

func durations() row {
	return row{"What takes the time?", []panel{
		{
			kind: chart, title: "Queries", unit: "s",
			about: "The whole of queries, as clients see them.",
			asks:  quantiles("starling_http_request_duration_seconds", "{sel, "+queryHandlers+"}", "", "", "50", "90", "99"),
		},
		{
			kind: chart, title: "Waiting for a turn (p99)", unit: "s",
			about: "Of the queries of each node. --query.max-concurrency run at a time.",
			asks:  []ask{{`prometheus_engine_query_duration_seconds{sel, slice="queue_time", quantile="0.99"}`, "{{instance}}"}},
		},
		{
			kind: chart, title: "Queries at once", unit: "short",
			about: "Those that run or wait on each node, and how many may run.",
			asks: []ask{
				{"prometheus_engine_queries{sel}", "{{instance}}"},
				{"min(prometheus_engine_queries_concurrent_max{sel})", "limit"},
			},
			paint: []paint{{"limit", "red"}},
		},
		{
			kind: chart, title: "Fragments by outcome", unit: "cps", stacked: true,
			about: "parts: evaluated where the series are, which is cheap. whole: all series were read instead. failed: neither.",
			asks:  []ask{{"sum by (outcome) (rate(starling_query_fragments_total{sel}[$__rate_interval]))", "{{outcome}}"}},
			paint: []paint{{"parts", "green"}, {"whole", "yellow"}, {"failed", "red"}},
		},
		{
			kind: chart, title: "Parts that are evaluated", unit: "short",
			about: "Over the series of each node, for itself and for others. Waiting for long means that its cores or its disk do not keep up.",
			asks: []ask{
				{"starling_query_evaluations_running{sel}", "{{instance}} running"},
				{"starling_query_evaluations_waiting{sel} > 0", "{{instance}} waiting"},
				{"starling_query_label_lists_waiting{sel} > 0", "{{instance}} lists of labels waiting"},
			},
		},
		{
			kind: chart, title: "Read from nodes", unit: "binBps",
			about: "Labels and chunks that the node which was asked has held, of all copies. What is evaluated in parts needs little.",
			asks:  []ask{{"sum by (instance) (rate(starling_query_fanout_bytes_total{sel}[$__rate_interval]))", "{{instance}}"}},
		},
	}}
}

func fanOut() row {
	return row{"Which nodes are missing?", []panel{
		{
			kind: chart, title: "Answers done without", unit: "cps",
			about: "Of single nodes; nothing is shown if there were none. epoch: the node went by another table. error: all else; the peer's log or the network says more.",
			asks:  []ask{{"sum by (instance, reason) (rate(starling_query_fanout_node_failures_total{sel}[$__rate_interval])) > 0", "{{instance}} {{reason}}"}},
		},
		{
			kind: chart, title: "Stragglers and restarts", unit: "cps",
			about: "Nodes that were not waited for, as the others were enough, and reads that began again by another table.",
			asks: []ask{
				{"sum(rate(starling_query_fanout_stragglers_total{sel}[$__rate_interval]))", "stragglers"},
				{"sum(rate(starling_query_fanout_restarts_total{sel}[$__rate_interval]))", "restarts"},
			},
		},
		{
			kind: chart, title: "Requests to peers (p99)", unit: "s",
			about: "By what is asked for, over all nodes: State is the proof, Select series, Evaluate a part of a query.",
			asks: []ask{{
				methods(quantiles("starling_peer_request_duration_seconds", `{sel, method=~".*/(State|Select|Evaluate)"}`, "", "method", "99")[0].expr),
				"{{method}}",
			}},
		},
	}}
}

func equality() row {
	return row{"Are answers equal?", []panel{
		{
			kind: chart, title: "Series whose copies differ", unit: "cps", width: 12,
			about: "Of those that were read from several owners. Expected while a gap is open; the times are compared, and made equal.",
			asks:  []ask{{"sum by (instance) (rate(starling_query_divergent_series_total{sel}[$__rate_interval]))", "{{instance}}"}},
		},
		{
			kind: chart, title: "Queries evaluated in parts and as a whole", unit: "cps", width: 12,
			about: "With --query.verify-pushdown only. different is a fault, or rounding; the log has the query.",
			asks:  []ask{{"sum by (outcome) (rate(starling_query_verified_total{sel}[$__rate_interval]))", "{{outcome}}"}},
			paint: []paint{{"equal", "green"}, {"different", "red"}, {"failed", "orange"}, {"skipped", "blue"}},
		},
	}}
}
