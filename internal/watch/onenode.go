package watch

// oneNode shows what one process and its machine do.
func oneNode() dashboard {
	return dashboard{
		file: "node.json", uid: "starling-node", title: "Node", oneNode: true,
		about: "One node: whether it serves, what it takes of its machine, its store, and what it exchanges with others.",
		rows:  []row{serving(), machine(), store(), exchange()},
	}
}

func serving() row {
	return row{"Does it serve?", []panel{
		{
			kind: figure, title: "Ready", steps: []step{{color: "red"}, {"green", 1}}, says: map[string]string{"0": "no", "1": "yes"},
			about: "/-/ready of the node says why, if it is not.",
			asks:  []ask{{"starling_ready{sel}", ""}},
		},
		{
			kind: figure, title: "Slot", steps: []step{{color: "orange"}, {"green", 0}}, says: map[string]string{"-1": "none"},
			about: "Its place in the table. Without one it owns nothing.",
			asks:  []ask{{"starling_cluster_slot{sel}", ""}},
		},
		{
			kind: figure, title: "Epoch", steps: plain(),
			about: "Of the table that it goes by.",
			asks:  []ask{{"starling_cluster_epoch{sel}", ""}},
		},
		{
			kind: figure, title: "Members not reached", steps: look(1),
			about: "Nodes that gossip does not reach, as this one sees it.",
			asks:  []ask{{`sum(starling_cluster_members{sel, state!="alive"})`, ""}},
		},
		{
			kind: figure, title: "Fenced", steps: bad(1), says: map[string]string{"0": "no", "1": "yes"},
			about: "The disk is full, or a write or sync has failed, and writes are refused.",
			asks:  []ask{{"max by (reason) (starling_storage_fenced{sel})", "{{reason}}"}},
		},
		{
			kind: figure, title: "Up for", unit: "s", steps: plain(),
			about: "Since the process started.",
			asks:  []ask{{"time() - process_start_time_seconds{sel}", ""}},
		},
	}}
}

func machine() row {
	return row{"What does it take of its machine?", []panel{
		{
			kind: chart, title: "CPU", unit: "short",
			about: "Cores that are busy with this process, and how many Go uses at most, shown from an eighth of it on.",
			asks: []ask{
				{"rate(process_cpu_seconds_total{sel}[$__rate_interval])", "busy"},
				{"go_sched_gomaxprocs_threads{sel} < 8 * rate(process_cpu_seconds_total{sel}[$__rate_interval])", "limit"},
			},
			paint: []paint{{"limit", "red"}},
		},
		{
			kind: chart, title: "Memory", unit: "bytes",
			about: "Go keeps what the runtime holds below GOMEMLIMIT. The process's own includes the files that it has mapped. GOMEMLIMIT is shown from a quarter of it on.",
			asks: []ask{
				{"process_resident_memory_bytes{sel}", "process"},
				{"go_memstats_sys_bytes{sel} - go_memstats_heap_released_bytes{sel}", "Go"},
				{"go_gc_gomemlimit_bytes{sel} < 4 * process_resident_memory_bytes{sel}", "GOMEMLIMIT"},
			},
			paint: []paint{{"GOMEMLIMIT", "red"}},
		},
		{
			kind: chart, title: "Goroutines and files", unit: "short",
			about: "Growth without end is a fault.",
			asks: []ask{
				{"go_goroutines{sel}", "goroutines"},
				{"process_open_fds{sel}", "open files"},
			},
		},
		{
			kind: chart, title: "Disk", unit: "bytes",
			about: "Below the reserve, writes are refused.",
			asks: []ask{
				{"starling_storage_disk_size_bytes{sel}", "size"},
				{"starling_storage_disk_free_bytes{sel}", "free"},
				{"starling_storage_disk_reserve_bytes{sel}", "reserve"},
			},
			paint: []paint{{"reserve", "red"}},
		},
		{
			kind: chart, title: "Disk used by the store", unit: "bytes", stacked: true,
			about: "Retention deletes blocks; logs and head chunks hold the last hours.",
			asks: []ask{
				{"prometheus_tsdb_storage_blocks_bytes{sel}", "blocks"},
				{"prometheus_tsdb_wal_storage_size_bytes{sel}", "log"},
				{"prometheus_tsdb_out_of_order_wbl_storage_size_bytes{sel}", "log of late samples"},
				{"prometheus_tsdb_head_chunks_storage_size_bytes{sel}", "head chunks"},
			},
		},
		{
			kind: chart, title: "Syncs of the log", unit: "s", steps: bad(0.5),
			about: "How long a round takes, which confirms all that wait for it.",
			asks:  quantiles("starling_storage_wal_sync_duration_seconds", "{sel}", "", "", "50", "99"),
		},
	}}
}

func store() row {
	return row{"What does its store do?", []panel{
		{
			kind: chart, title: "Series", unit: "short",
			about: "In memory, and at how many new ones are refused, shown from a quarter of it on.",
			asks: []ask{
				{"prometheus_tsdb_head_series{sel}", "series"},
				{"(starling_storage_max_series{sel} > 0) < 4 * prometheus_tsdb_head_series{sel}", "limit"},
			},
			paint: []paint{{"limit", "red"}},
		},
		{
			kind: chart, title: "Stored", unit: "cps", stacked: true,
			about: "Items that this owner confirmed, whoever sent them, duplicates included.",
			asks:  []ask{{"sum by (type) (rate(starling_storage_appended_total{sel}[$__rate_interval]))", "{{type}}"}},
		},
		{
			kind: chart, title: "Refused", unit: "cps",
			about: "invalid: too old, too far ahead. conflict: another value is there. limit: a new series too many.",
			asks:  []ask{{"sum by (reason) (rate(starling_storage_refusals_total{sel}[$__rate_interval]))", "{{reason}}"}},
		},
		{
			kind: chart, title: "Blocks", unit: "short",
			about: "Blocks that are loaded.",
			asks:  []ask{{"prometheus_tsdb_blocks_loaded{sel}", "blocks"}},
		},
		{
			kind: chart, title: "Compactions", unit: "short",
			about: "Within an hour; failed ones are tried again, and the log says why.",
			asks: []ask{
				{"increase(prometheus_tsdb_compactions_total{sel}[1h])", "done"},
				{"increase(prometheus_tsdb_compactions_failed_total{sel}[1h])", "failed"},
			},
			paint: []paint{{"done", "green"}, {"failed", "red"}},
		},
		{
			kind: chart, title: "Horizon", unit: "none",
			about: "How old samples get before they expire, in days. It is to be the same on all nodes.",
			asks:  []ask{{"(time() - (starling_storage_horizon_timestamp_seconds{sel} > 0)) / 86400", "days"}},
		},
	}}
}

func exchange() row {
	return row{"What does it exchange with others?", []panel{
		{
			kind: chart, title: "Sent to peers", unit: "binBps", stacked: true,
			about: "Samples to their owners, and requests.",
			asks:  []ask{{named("peer", "sum by (peer) (rate(starling_peer_sent_bytes_total{sel}[$__rate_interval]))"), "{{name}} {{peer}}"}},
		},
		{
			kind: chart, title: "Received from peers", unit: "binBps", stacked: true,
			about: "Answers to this node: series, results, what it copies.",
			asks:  []ask{{named("peer", "sum by (peer) (rate(starling_peer_received_bytes_total{sel}[$__rate_interval]))"), "{{name}} {{peer}}"}},
		},
		{
			kind: chart, title: "Requests to peers that failed", unit: "reqps",
			about: "By peer and gRPC code; nothing is shown if none failed. FailedPrecondition: another table. What was canceled, as the answers of others were enough, is not among them.",
			asks:  []ask{{named("peer", `sum by (peer, code) (rate(starling_peer_request_duration_seconds_count{sel, code!~"OK|Canceled"}[$__rate_interval])) > 0`), "{{name}} {{peer}} {{code}}"}},
		},
		{
			kind: chart, title: "HTTP requests", unit: "reqps", stacked: true, width: 12,
			about: "By route and status.",
			asks:  []ask{{"sum by (handler, code) (rate(starling_http_requests_total{sel}[$__rate_interval]))", "{{handler}} {{code}}"}},
		},
		{
			kind: chart, title: "Requests of peers", unit: "reqps", stacked: true, width: 12,
			about: "That this node answered, by what was asked.",
			asks:  []ask{{methods("sum by (method) (rate(starling_peer_served_requests_total{sel}[$__rate_interval]))"), "{{method}}"}},
		},
	}}
}
