package watch

// replication shows whether copies are whole, and how what is missing is mended.
func replication() dashboard {
	return dashboard{
		file: "replication.json", uid: "starling-replication", title: "Replication and repair",
		about: "Which copies are missing, and how they are made good: hand-off of what a node missed, transitions when nodes come and go, comparison, and mending of damage.",
		rows:  []row{missing(), handOff(), transition(), mending()},
	}
}

func missing() row {
	return row{"Is anything missing?", []panel{
		{
			kind: figure, title: "Series short of copies", unit: "short", steps: look(1), width: 3,
			about: "An owner of them is away, damaged or behind.",
			asks:  []ask{{"sum(starling_under_replicated_series{sel})", ""}},
		},
		{
			kind: figure, title: "Nodes with a gap", steps: look(1), width: 3,
			about: "Nodes that are noted to miss writes.",
			asks:  []ask{{"count(max by (peer) (starling_gaps_open{sel})) or vector(0)", ""}},
		},
		{
			kind: figure, title: "Oldest gap", unit: "s", steps: worse(60, 3600), width: 3,
			about: "For how long it has been open.",
			asks:  []ask{{"max(time() - starling_gap_opened_timestamp_seconds{sel}) or vector(0)", ""}},
		},
		{
			kind: figure, title: "To hand off", unit: "bytes", steps: plain(), width: 3,
			about: "About how much nodes have still to be handed, by whoever noted most of each.",
			asks:  []ask{{"sum(max by (peer) (starling_handoff_left_bytes{sel})) or vector(0)", ""}},
		},
		{
			kind: figure, title: "To copy", unit: "bytes", steps: plain(), width: 3,
			about: "About how much nodes have still to copy in the transition.",
			asks:  []ask{{"sum(starling_transition_left_bytes{sel})", ""}},
		},
		{
			kind: figure, title: "Damaged ranges", steps: look(1), width: 3,
			about: "Ranges of time that are not made good yet.",
			asks:  []ask{{`sum(starling_storage_damaged_ranges{sel, suspect="false"})`, ""}},
		},
		{
			kind: figure, title: "Crowded series", unit: "percentunit", steps: look(0.0001), width: 3,
			about: "About which part has copies in fewer zones than it could, as a zone has too few nodes.",
			asks:  []ask{{"max(starling_placement_crowded_ratio{sel})", ""}},
		},
		{
			kind: figure, title: "To compare", steps: plain(), width: 3,
			about: "Windows of two hours that are to be compared soon, each counted by each node that is to.",
			asks:  []ask{{"sum(starling_repair_windows_wanted{sel})", ""}},
		},
	}}
}

func handOff() row {
	return row{"Who missed writes, and does it get them?", []panel{
		{
			kind: chart, title: "Age of gaps", unit: "s", steps: worse(900, 3600),
			about: "For how long each node has been noted to miss something.",
			asks:  []ask{{named("peer", "time() - min by (peer) (starling_gap_opened_timestamp_seconds{sel})"), "{{name}} {{peer}}"}},
		},
		{
			kind: chart, title: "Oldest sample missed", unit: "s",
			about: "How old the oldest sample is that a node may lack. What gets older than the retention expires, and is not handed off.",
			asks:  []ask{{named("peer", "time() - min by (peer) (starling_gap_since_timestamp_seconds{sel})"), "{{name}} {{peer}}"}},
		},
		{
			kind: chart, title: "Left to hand off", unit: "bytes",
			about: "About how much, by the node that missed it. It falls once that is back.",
			asks:  []ask{{named("peer", "max by (peer) (starling_handoff_left_bytes{sel})"), "{{name}} {{peer}}"}},
		},
		{
			kind: chart, title: "Handed off", unit: "binBps", width: 6,
			about: "Bytes of chunks given to each node; --cluster.transfer-rate bounds what one node gives. What takes less than a scrape may not show.",
			asks:  []ask{{named("peer", `sum by (peer) (rate(starling_handoff_given_bytes_total{sel, reason="gap"}[$__rate_interval]))`), "{{name}} {{peer}}"}},
		},
		{
			kind: chart, title: "Samples taken", unit: "cps", width: 6,
			about: "Samples that each node lacked and took from others. What takes less than a scrape may not show.",
			asks:  []ask{{"sum by (instance) (rate(starling_handoff_taken_samples_total{sel}[$__rate_interval]))", "{{instance}}"}},
		},
		{
			kind: chart, title: "Broken off", unit: "short", width: 6,
			about: "Hand-offs that broke off on each node within ten minutes; they begin again. The log says why. Nothing is shown before the first.",
			asks:  []ask{{"sum by (instance) (increase(starling_handoff_failures_total{sel}[10m]))", "{{instance}}"}},
		},
		{
			kind: chart, title: "Late confirmations", unit: "short", width: 6,
			about: "Notes for a peer that may still confirm: it is slow.",
			asks:  []ask{{named("peer", "max by (peer) (starling_gap_late_notes{sel})"), "{{name}} {{peer}}"}},
		},
	}}
}

func transition() row {
	return row{"How far is the transition?", []panel{
		{
			kind: figure, title: "Phase", steps: plain(), width: 6, height: 4, says: map[string]string{"0": "no", "1": "yes"},
			about: "copying: targets merge what they are to own. switching: reads go to them. Both 0: nothing moves.",
			asks:  []ask{{"max by (phase) (starling_transition_phase{sel})", "{{phase}}"}},
		},
		{
			kind: figure, title: "Phase for", unit: "s", steps: worse(3600, 86400), width: 6,
			about: "How long the phase has lasted, as far as nodes remember.",
			asks:  []ask{{"max(time() - starling_transition_phase_since_timestamp_seconds{sel})", ""}},
		},
		{
			kind: figure, title: "Nodes waited for", steps: look(1), width: 6,
			about: "By the next phase; `starling cluster status` names them.",
			asks:  []ask{{"max(starling_transition_awaited_nodes{sel})", ""}},
		},
		{
			kind: figure, title: "Paused", steps: look(1), says: map[string]string{"0": "no", "1": "paused"}, width: 6,
			about: "`starling cluster resume` lets copying go on.",
			asks:  []ask{{"max(starling_transition_paused{sel})", ""}},
		},
		{
			kind: chart, title: "Left to copy", unit: "bytes", width: 6,
			about: "About how much each node has still to copy of what it does not hold. Nothing is shown while nothing moves.",
			asks:  []ask{{"starling_transition_left_bytes{sel} > 0", "{{instance}}"}},
		},
		{
			kind: chart, title: "Copied", unit: "binBps", width: 6,
			about: "What each node reads from others in the transition.",
			asks:  []ask{{"sum by (instance) (rate(starling_transition_copied_bytes_total{sel}[$__rate_interval]))", "{{instance}}"}},
		},
		{
			kind: chart, title: "Done in", unit: "s", width: 6,
			about: "About how long each node still takes, at the rate of the last five minutes.",
			asks:  []ask{{"(starling_transition_left_bytes{sel} > 0) / (rate(starling_transition_copied_bytes_total{sel}[5m]) > 0)", "{{instance}}"}},
		},
		{
			kind: chart, title: "Time of samples left", unit: "s", width: 6,
			about: "It goes from the retention to 0, as each node copies from the oldest sample on.",
			asks:  []ask{{"starling_transition_left_seconds{sel}", "{{instance}}"}},
		},
		{
			kind: chart, title: "Windows copied", unit: "short", width: 6, stacked: true,
			about: "Windows of time that were to be copied and are held, within ten minutes, by what the store compares like: equal to the owners, more than they have, or unread for damage.",
			asks:  []ask{{"sum by (result) (increase(starling_transition_windows_total{sel}[10m]))", "{{result}}"}},
			paint: []paint{{"equal", "green"}, {"more", "blue"}, {"unread", "red"}},
		},
		{
			kind: chart, title: "Windows broken off", unit: "short", width: 6,
			about: "Windows of time whose copying broke off within ten minutes; they begin again.",
			asks:  []ask{{"sum by (instance) (increase(starling_transition_failures_total{sel}[10m]))", "{{instance}}"}},
		},
		{
			kind: chart, title: "Blocks looked at afterwards", unit: "short", width: 6, stacked: true,
			about: "For series that a node does not own any more, within an hour. damaged: left alone. disk_full: no room to rewrite them; free some.",
			asks:  []ask{{"sum by (result) (increase(starling_storage_prune_blocks_total{sel}[1h]))", "{{result}}"}},
			paint: []paint{{"kept", "green"}, {"rewritten", "blue"}, {"deleted", "purple"}, {"damaged", "orange"}, {"disk_full", "red"}},
		},
		{
			kind: chart, title: "Dropped afterwards", unit: "cps", width: 6,
			about: "Series in blocks that a node does not own any more and has dropped.",
			asks:  []ask{{"sum by (instance) (rate(starling_storage_pruned_series_total{sel}[$__rate_interval]))", "{{instance}}"}},
		},
	}}
}

func mending() row {
	return row{"Are copies equal, and is damage mended?", []panel{
		{
			kind: chart, title: "Since all was compared", unit: "s", steps: worse(90000, 172800),
			about: "How long ago the window of time was compared that was compared least lately; a day, about. Not shown before the first pass.",
			asks:  []ask{{"time() - (starling_repair_last_full_pass_timestamp_seconds{sel} > 0)", "{{instance}}"}},
		},
		{
			kind: chart, title: "Windows compared", unit: "short", stacked: true,
			about: "Windows of two hours, within an hour. differed: something was copied. failed: another owner was away.",
			asks:  []ask{{"sum by (result) (increase(starling_repair_windows_compared_total{sel}[1h]))", "{{result}}"}},
			paint: []paint{{"equal", "green"}, {"differed", "orange"}, {"failed", "red"}},
		},
		{
			kind: chart, title: "Samples that a copy lacked", unit: "cps",
			about: "copied: found by comparing. rebuilt: lost to damage.",
			asks: []ask{
				{"sum(rate(starling_repair_copied_samples_total{sel}[$__rate_interval]))", "copied"},
				{"sum(rate(starling_repair_rebuilt_samples_total{sel}[$__rate_interval]))", "rebuilt"},
			},
		},
		{
			kind: chart, title: "Damaged ranges", unit: "short",
			about: "Queries of these times go without the node.",
			asks:  []ask{{`starling_storage_damaged_ranges{sel, suspect="false"}`, "{{instance}}"}},
		},
		{
			kind: chart, title: "Damage found", unit: "short",
			about: "Findings within an hour, those included that were mended at once.",
			asks:  []ask{{"sum by (instance, kind) (increase(starling_storage_damage_found_total{sel}[1h])) > 0", "{{instance}} {{kind}}"}},
		},
		{
			kind: chart, title: "Mending that broke off", unit: "short",
			about: "Within ten minutes: too few other owners are there, or whole. It goes on from there.",
			asks:  []ask{{"sum by (instance) (increase(starling_repair_rebuild_failures_total{sel}[10m]))", "{{instance}}"}},
		},
	}}
}
