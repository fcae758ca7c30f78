package watch

// writes follows a sample from the sender to the disks of its owners.
func writes() dashboard {
	return dashboard{
		file: "writes.json", uid: "starling-writes", title: "Writes",
		about: "What senders hear, why, and who does not confirm. A write is answered when its quorum of owners has synced it.",
		rows:  []row{heard(), slowness(), unconfirmed(), refusals()},
	}
}

func heard() row {
	return row{"What do senders hear?", []panel{
		{
			kind: figure, title: "Written", unit: "cps", steps: plain(),
			about: "Samples a second that are stored, and said to be.",
			asks:  []ask{{`sum(rate(starling_write_samples_total{sel, outcome="written"}[$__rate_interval]))`, ""}},
		},
		{
			kind: figure, title: "Requests answered 503", unit: "percentunit", steps: worse(0.001, 0.05),
			about: "Senders keep these samples and repeat them.",
			asks:  []ask{{refusedWrites, ""}},
		},
		{
			kind: figure, title: "Samples answered 400", unit: "cps", steps: look(0.001),
			about: "Senders drop these samples: they are invalid, or refused by their owners.",
			asks:  []ask{{`sum(rate(starling_write_samples_total{sel, outcome=~"invalid|refused"}[$__rate_interval]))`, ""}},
		},
		{
			kind: figure, title: "p99", unit: "s", steps: worse(1, 5),
			about: "How long 99 of 100 requests take at most.",
			asks:  quantiles("starling_write_request_duration_seconds", "{sel}", "", "", "99"),
		},
		{
			kind: figure, title: "Owners behind", steps: look(1),
			about: "Nodes that are noted to miss writes.",
			asks:  []ask{{"count(max by (peer) (starling_gaps_open{sel})) or vector(0)", ""}},
		},
		{
			kind: figure, title: "Fenced", steps: bad(1),
			about: "Nodes that refuse writes, as their disk is full or has failed.",
			asks:  []ask{{"sum(max by (instance) (starling_storage_fenced{sel}))", ""}},
		},
		{
			kind: chart, title: "Samples by outcome", unit: "cps", stacked: true, width: 12,
			about: "written: stored. unconfirmed: answered 503, the sender repeats them. invalid, refused: answered 400, the sender drops them.",
			asks:  []ask{{"sum by (outcome) (rate(starling_write_samples_total{sel}[$__rate_interval]))", "{{outcome}}"}},
			paint: []paint{{"written", "green"}, {"unconfirmed", "orange"}, {"invalid", "red"}, {"refused", "purple"}},
		},
		{
			kind: chart, title: "Requests by status", unit: "reqps", stacked: true, width: 12,
			about: "499: the client did not wait for its answer.",
			asks:  []ask{{"sum by (protocol, code) (rate(starling_write_requests_total{sel}[$__rate_interval]))", "{{protocol}} {{code}}"}},
		},
	}}
}

func slowness() row {
	return row{"Where does the time go?", []panel{
		{
			kind: chart, title: "Requests", unit: "s",
			about: "The whole of requests, reading their bodies included.",
			asks:  quantiles("starling_write_request_duration_seconds", "{sel}", "", "", "50", "90", "99"),
		},
		{
			kind: chart, title: "Waiting for the quorum", unit: "s",
			about: "The part of it until enough owners have confirmed, or surely will not. It includes the grace of 50 ms for the last owner.",
			asks:  quantiles("starling_ingest_quorum_duration_seconds", "{sel}", "", "", "50", "90", "99"),
		},
		{
			kind: chart, title: "Syncs of the log (p99)", unit: "s", steps: bad(0.5),
			about: "The part of it that the disk of each owner takes.",
			asks:  quantiles("starling_storage_wal_sync_duration_seconds", "{sel}", "{{instance}}", "instance", "99"),
		},
	}}
}

func unconfirmed() row {
	return row{"Who does not confirm?", []panel{
		{
			kind: chart, title: "Owners that did not confirm in time", unit: "cps",
			about: "Parts of requests that an owner did not confirm before the answer, by owner. It misses them, and is noted.",
			asks:  []ask{{named("node", "sum by (node) (rate(starling_ingest_unconfirmed_total{sel}[$__rate_interval]))"), "{{name}} {{node}}"}},
		},
		{
			kind: chart, title: "On the way to peers", unit: "bytes", steps: bad(64 << 20),
			about: "Samples that wait for a peer to take them. Beyond 64 MiB they are refused, and the peer misses them.",
			asks:  []ask{{named("peer", "max by (peer) (starling_peer_inflight_bytes{sel})"), "{{name}} {{peer}}"}},
		},
		{
			kind: chart, title: "Notes of gaps", unit: "cps",
			about: "noted: an owner keeps what another one misses. failed: it could not, and the write is answered 503. withdrawn: that one was only late.",
			asks:  []ask{{"sum by (result) (rate(starling_ingest_gap_notes_total{sel}[$__rate_interval]))", "{{result}}"}},
			paint: []paint{{"noted", "orange"}, {"failed", "red"}, {"withdrawn", "green"}},
		},
	}}
}

func refusals() row {
	return row{"What is refused, and what is near its limit?", []panel{
		{
			kind: chart, title: "Refused by stores", unit: "cps",
			about: "invalid: too old, too far ahead. conflict: another value is there. limit: a new series past --storage.max-series. Each copy counts. Nothing is shown if there are none.",
			asks:  []ask{{"sum by (instance, reason) (rate(starling_storage_refusals_total{sel}[$__rate_interval])) > 0", "{{instance}} {{reason}}"}},
		},
		{
			kind: chart, title: "Memory of requests", unit: "percentunit", most: 1, steps: bad(0.9),
			about: "Of what all write requests in progress may have together. What needs more is answered 503.",
			asks:  []ask{{"starling_write_inflight_bytes{sel} / starling_write_inflight_limit_bytes{sel}", "{{instance}}"}},
		},
		{
			kind: chart, title: "Series of their limit", unit: "percentunit", most: 1, steps: worse(0.8, 0.9),
			about: "Series in memory, of --storage.max-series. Nodes without a limit are not shown.",
			asks:  []ask{{"prometheus_tsdb_head_series{sel} / (starling_storage_max_series{sel} > 0)", "{{instance}}"}},
		},
		{
			kind: chart, title: "New series", unit: "cps",
			about: "Series that were not in memory. Many of them all the time are churn, as from labels with an ID in them.",
			asks:  []ask{{"rate(prometheus_tsdb_head_series_created_total{sel}[$__rate_interval])", "{{instance}}"}},
		},
		{
			kind: chart, title: "Labels read anew", unit: "cps",
			about: "Series whose labels had to be read, as nobody had sent them lately in these bytes, or there was no room to remember them. Such a sample costs several times as much.",
			asks: []ask{
				{"sum(rate(starling_ingest_handles_added_total{sel}[$__rate_interval]))", "new"},
				{"sum(rate(starling_ingest_handles_refused_total{sel}[$__rate_interval]))", "no room"},
			},
			paint: []paint{{"no room", "red"}},
		},
		{
			kind: chart, title: "Planned anew", unit: "cps",
			about: "Writes that met a newer table: some when nodes come or go, else none.",
			asks:  []ask{{"sum by (instance) (rate(starling_ingest_replans_total{sel}[$__rate_interval]))", "{{instance}}"}},
		},
	}}
}
