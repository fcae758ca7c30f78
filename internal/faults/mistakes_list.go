//go:build linux

package faults

import (
	"slices"

	"github.com/starling-tsdb/starling/internal/faults/overlay"
)

// Mistakes returns the mistakes that the suite has to find.
func Mistakes() []Mistake {
	return slices.Concat(durabilityMistakes(), quorumMistakes(), gapMistakes(), answerMistakes())
}

// durabilityMistakes lose what was confirmed when the power fails.
func durabilityMistakes() []Mistake {
	const storage = "internal/storage"
	return []Mistake{
		{
			Name: "confirm without a sync", Breaks: 1, row: "power loss of all", finds: "lost",
			changes: []overlay.Change{{
				File: storage + "/append.go", Old: "return s.sync.wait(ctx, next)", New: "return s.fence.check()",
			}},
		},
		{
			Name: "leave the out-of-order log unsynced", Breaks: 1, row: "power loss of all", finds: "lost",
			changes: []overlay.Change{{
				File: storage + "/walsync.go", Old: "\tfor _, l := range g.logs {\n\t\tif err := l.sync()", New: "\tfor _, l := range g.logs[:1] {\n\t\tif err := l.sync()",
			}},
		},
		{
			Name: "confirm a duplicate without a sync", Breaks: 1, of: storage, tests: "TestDuplicate",
			changes: []overlay.Change{
				{
					File: storage + "/append.go", Old: "\tif w.counts == (counts{}) {",
					New: "\tif _, twice := confirmedBefore.LoadOrStore(fmt.Sprint(w.batch.Series), true); twice {\n\t\treturn nil\n\t}\n" +
						"\tif w.counts == (counts{}) {",
				},
				{File: storage + "/confirmedbefore.go", New: "package storage\n\nimport \"sync\"\n\nvar confirmedBefore sync.Map\n"},
			},
		},
		{
			Name: "join a sync that has begun", Breaks: 1, of: storage, tests: "TestRoundBeginsAfterTheCommit",
			changes: []overlay.Change{
				{File: storage + "/walsync.go", Old: "\tr := g.next\n\tg.next = newRound()\n\treturn r\n", New: "\treturn g.next\n"},
				{File: storage + "/walsync.go", Old: "\t\tr.err = g.run()\n", New: "\t\tr.err = g.run()\n\t\tg.mu.Lock()\n\t\tg.next = newRound()\n\t\tg.mu.Unlock()\n"},
			},
		},
		{
			Name: "join a sync that begins before the commit", Breaks: 1, of: storage, tests: "TestRoundIsOneAfterTheCommit",
			changes: []overlay.Change{{
				File: storage + "/append.go", Old: "\terr := s.write(ctx, w)\n\tnext := s.sync.upcoming()\n",
				New: "\tnext := s.sync.upcoming()\n\terr := s.write(ctx, w)\n",
			}},
		},
		{
			Name: "go on after a failed sync", Breaks: 1, of: storage, tests: "TestFailedSyncFences",
			changes: []overlay.Change{{
				File: storage + "/walsync.go", Old: "\tif err := g.syncLogs(); err != nil {\n\t\treturn g.fence.raise(err)", New: "\tif err := g.syncLogs(); err != nil {\n\t\treturn err",
			}},
		},
		{
			Name: "open again whatever is mounted", Breaks: 4, of: storage, tests: "TestAnotherDiskIsNotOpened",
			changes: []overlay.Change{{
				File: storage + "/mark.go", Old: "range s.keeper.marks", New: "range []mark(nil)",
			}},
		},
	}
}

// quorumMistakes count wrongly who holds what.
func quorumMistakes() []Mistake {
	return []Mistake{
		{
			Name: "acknowledge after one copy", Breaks: 1, row: "partition", finds: "lost",
			changes: []overlay.Change{{
				File: "internal/ingest/tally.go", Old: "return c.quorum[0], c.quorum[1]", New: "return 1, c.quorum[1]",
			}},
		},
		{
			Name: "answer 503 without Retry-After", Breaks: 2, row: "partition", finds: "without Retry-After",
			changes: []overlay.Change{{
				File: "internal/api/write.go", Old: `w.Header().Set("Retry-After"`, New: `w.Header().Set("X-Retry-After"`,
			}},
		},
		{
			Name: "vouch for an old copy of a disk", Breaks: 3, row: "disk image of two starts ago", finds: "come together",
			changes: []overlay.Change{{
				File: "internal/node/outdated.go", Old: "\tif seen < own {", New: "\tif s.n != nil || seen < own {",
			}},
		},
		{
			Name: "take nodes of two zones for nodes of one", Breaks: 6, of: "internal/placement", tests: "TestMostCopies",
			changes: []overlay.Change{{
				File: "internal/placement/most.go", Old: "return min(most, m.copies-elsewhere)", New: "return min(most, 1)",
			}},
		},
		{
			Name: "take appends of any epoch", Breaks: 8, of: "internal/ingest", tests: "Test.*(Epoch|Adopts|Table).*",
			changes: []overlay.Change{{
				File: "internal/ingest/owner.go", Old: "if o.now == nil || o.now.Epoch != epoch {", New: "if o.now == nil {",
			}},
		},
	}
}

// gapMistakes forget what a node missed.
func gapMistakes() []Mistake {
	return []Mistake{
		{
			Name: "forget to note a gap", Breaks: 1, row: "partition", finds: "lost",
			changes: []overlay.Change{{
				File: "internal/ingest/cover.go", Old: "\tif len(open) == 0 {\n\t\treturn nil\n\t}\n\t// Where",
				New: "\tif len(open) == 0 || len(open) < 100 {\n\t\treturn nil\n\t}\n\t// Where",
			}},
		},
		{
			Name: "keep a gap in memory only", Breaks: 1, of: "internal/gaps", tests: ".",
			changes: []overlay.Change{{
				File: "internal/gaps/gaps.go", Old: "err := statefile.Save(b.dir, filePrefix+string(s.Peer), s)", New: "err := error(nil)",
			}},
		},
		{
			Name: "serve while a gap is open", Breaks: 3, row: "partitions in turn", finds: "lost",
			changes: []overlay.Change{{
				File: "internal/proof/proof.go", Old: "\tif !s.gaps {\n\t\treturn true\n\t}\n", New: "\tif !s.gaps || len(owners) < 100 {\n\t\treturn true\n\t}\n",
			}},
		},
		{
			Name: "close a gap whose data is not stored", Breaks: 7, of: "internal/handoff", tests: ".",
			changes: []overlay.Change{{
				File: "internal/handoff/taker.go", Old: "\t\tt.samples.WithLabelValues(string(id)).Add(float64(n))\n\t\tif err != nil {\n\t\t\treturn samples, err\n\t\t}\n",
				New: "\t\tt.samples.WithLabelValues(string(id)).Add(float64(n))\n",
			}},
		},
		{
			Name: "forget what is missed during a hand-off", Breaks: 7, of: "internal/gaps", tests: ".",
			changes: []overlay.Change{{
				File: "internal/gaps/gaps.go", Old: "next.Since = min(until, current.missed)", New: "next.Since = until",
			}},
		},
		{
			Name: "offer a gap during its hand-off", Breaks: 7, of: "internal/gaps", tests: ".",
			changes: []overlay.Change{{
				File: "internal/gaps/gaps.go", Old: "return n.firm && n.session == nil && !n.unsure })", New: "return n.firm && !n.unsure })",
			}},
		},
		{
			Name: "offer a gap that may vanish", Breaks: 7, of: "internal/gaps", tests: ".",
			changes: []overlay.Change{{
				File: "internal/gaps/gaps.go", Old: "return n.firm && n.session == nil && !n.unsure })", New: "return n.session == nil && !n.unsure })",
			}},
		},
		{
			Name: "withdraw a note for a peer that failed", Breaks: 7, of: "internal/ingest", tests: ".",
			changes: []overlay.Change{{
				File: "internal/ingest/late.go", Old: "= a.err == nil && !slices", New: "= !slices",
			}},
		},
		{
			Name: "hand off only what is new", Breaks: 7, row: "kill -9 of one", finds: "lost",
			changes: []overlay.Change{{
				File: "internal/handoff/handoff.go", Old: "\tuntil := windowEnd(since, time.Now())\n",
				New: "\tuntil := windowEnd(since, time.Now())\n\tsince = max(since, time.Now().Add(-3*time.Second).UnixMilli())\n",
			}},
		},
		{
			Name: "be ready before all is copied", Breaks: 3, row: "three grow to five, two leave", finds: "lost",
			changes: []overlay.Change{{
				File: "internal/handoff/mover.go", Old: "\t\tif p.Until == math.MaxInt64 || !move.Gains {\n", New: "\t\tif p.Until > math.MinInt64 || !move.Gains {\n",
			}},
		},
	}
}

// answerMistakes spoil what is read.
func answerMistakes() []Mistake {
	return []Mistake{
		{
			Name: "drop every 1000th sample", Breaks: 1, row: "none", finds: "lost",
			changes: []overlay.Change{{
				File: "internal/storage/append.go", Old: "\tif err != nil {\n\t\tw.refuse(i, j, series.Invalid, err.Error())\n\t\treturn nil\n\t}\n",
				New: "\tif err != nil {\n\t\tw.refuse(i, j, series.Invalid, err.Error())\n\t\treturn nil\n\t}\n\tif (p.T+int64(sr.Labels.Hash()))%1000 == 0 {\n\t\treturn nil\n\t}\n",
			}},
		},
		{
			Name: "take a partial answer for complete", Breaks: 6, row: "partition", finds: "lost",
			changes: []overlay.Change{
				{File: "internal/query/tally.go", Old: "t.copies(unanswered) <= t.allowed()", New: "t.copies(unanswered) <= len(t.outcomes)"},
				{File: "internal/query/tally.go", Old: " || failed > 0 && t.lacking() > t.allowed()", New: ""},
			},
		},
		{
			Name: "answer a value that nobody sent", Breaks: 5, row: "none", finds: "invented",
			changes: []overlay.Change{{
				File: "internal/query/lane.go", Old: "func (l *lane) At() (int64, float64) { return l.it.At() }",
				New: "func (l *lane) At() (int64, float64) {\n\tt, v := l.it.At()\n\tif t%13 == 0 {\n\t\tv++\n\t}\n\treturn t, v\n}",
			}},
		},
		{
			Name: "answer a timestamp twice", Breaks: 5, row: "none", finds: "duplicated",
			changes: []overlay.Change{
				{File: "internal/query/lane.go", Old: "\topen   bool\n", New: "\topen   bool\n\ttwice  int64\n"},
				{
					File: "internal/query/lane.go", Old: "func (l *lane) Next() chunkenc.ValueType {\n",
					New: "func (l *lane) Next() chunkenc.ValueType {\n\tif l.open && l.typ != chunkenc.ValNone && l.it.AtT()%13 == 0 && l.twice != l.it.AtT() {\n" +
						"\t\tl.twice = l.it.AtT()\n\t\treturn l.typ\n\t}\n",
				},
			},
		},
	}
}
