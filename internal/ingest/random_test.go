package ingest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/starling-tsdb/starling/internal/proof"
	"github.com/starling-tsdb/starling/internal/series"
	"github.com/starling-tsdb/starling/internal/table"
)

// listed places series "0", "1", … of a batch on the slots listed for each, and metadata on
// those of the first.
type listed [][]int

func (l listed) SeriesOwners(s *series.Series, dst []int) []int {
	i, _ := strconv.Atoi(s.Labels.Get("n"))
	return append(dst[:0], l[i]...)
}

func (l listed) FamilyOwners(_ string, dst []int) []int { return append(dst[:0], l[0]...) }

// world is a table with nodes whose answers are drawn at random. It records what they store
// and note.
type world struct {
	table      *table.Table
	placements []listed
	batch      *series.Batch
	nodes      map[table.NodeID]*actor

	mu     sync.Mutex
	faults []string
}

// owners returns the owners of a series by each assignment, those that are removed as well.
func (w *world) owners(i int) [][]*actor {
	var by [][]*actor
	for a, assignment := range w.table.Writing() {
		var list []*actor
		for _, slot := range w.placements[a][i] {
			list = append(list, w.nodes[assignment.Slots[slot].Node])
		}
		by = append(by, list)
	}
	return by
}

// randomWorld draws a table, most often one in a transition, a batch, and how nodes answer.
func randomWorld(rng *rand.Rand) *world {
	w := &world{batch: &series.Batch{}, nodes: map[table.NodeID]*actor{}}
	w.table = randomTable(rng)
	for i := range 1 + rng.IntN(4) {
		s := series.Series{Labels: labels.FromStrings("__name__", "up", "n", strconv.Itoa(i))}
		for range 1 + rng.IntN(3) {
			s.Samples = append(s.Samples, series.Sample{T: 1000 * (1 + rng.Int64N(4))})
		}
		w.batch.Series = append(w.batch.Series, s)
	}
	for _, a := range w.table.Writing() {
		var occupied []int
		for slot, s := range a.Slots {
			if s.Node != "" {
				occupied = append(occupied, slot)
				w.nodes[s.Node] = nil
			}
		}
		var l listed
		for range w.batch.Series {
			rng.Shuffle(len(occupied), func(i, j int) { occupied[i], occupied[j] = occupied[j], occupied[i] })
			l = append(l, slices.Clone(occupied[:a.Copies()]))
		}
		w.placements = append(w.placements, l)
	}
	ids := make([]table.NodeID, 0, len(w.nodes))
	for id := range w.nodes {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	trouble, deaf := rng.Float64(), rng.IntN(3) == 0
	for _, id := range ids {
		w.nodes[id] = w.randomActor(rng, id, trouble, deaf)
	}
	return w
}

// randomTable draws slots with holes and removed nodes, and a target that some of the nodes
// have left and others joined.
func randomTable(rng *rand.Rand) *table.Table {
	t := &table.Table{ClusterID: "c", Epoch: 1, KeyVersion: table.KeyVersion}
	a := &t.Current
	a.ReplicationFactor = 1 + rng.IntN(5)
	next := 0
	join := func(a *table.Assignment) {
		a.Slots = append(a.Slots, table.Slot{Node: table.NodeID(fmt.Sprint("n", next))})
		next++
	}
	for join(a); len(a.Slots) < 7 && rng.IntN(6) != 0; join(a) {
		if rng.IntN(8) == 0 {
			a.Slots = append(a.Slots, table.Slot{})
		}
	}
	spare := a.Copies() - a.WriteQuorum()
	if rng.IntN(8) == 0 {
		spare = len(a.Slots) // a loss was accepted
	}
	for range rng.IntN(spare + 1) {
		if s := &a.Slots[rng.IntN(len(a.Slots))]; s.Node != "" && len(a.Nodes()) > 1 && rng.IntN(2) == 0 {
			s.Removed = true
		}
	}
	if rng.IntN(5) == 0 && a.Removed() == 0 {
		return t
	}
	target := table.Assignment{ReplicationFactor: a.ReplicationFactor, Slots: slices.Clone(a.Slots)}
	if rng.IntN(4) == 0 {
		target.ReplicationFactor = 1 + rng.IntN(5)
	}
	for i := range target.Slots {
		switch s := &target.Slots[i]; {
		case s.Removed || rng.IntN(4) == 0:
			*s = table.Slot{}
			if rng.IntN(2) == 0 {
				s.Node = table.NodeID(fmt.Sprint("n", next))
				next++
			}
		}
	}
	for len(target.Nodes()) == 0 || rng.IntN(3) == 0 {
		join(&target)
	}
	t.Transition = &table.Transition{Phase: table.Copying, Began: 1, Target: target}
	return t
}

// randomActor draws how a node answers: the more trouble, the worse; deaf nodes may fail to
// note.
func (w *world) randomActor(rng *rand.Rand, id table.NodeID, trouble float64, deaf bool) *actor {
	a := &actor{world: w, id: id, refuses: map[item]series.Reason{}, stored: map[item]bool{}}
	unlucky := func() bool { return rng.Float64() < trouble/2 }
	if unlucky() {
		switch rng.IntN(4) {
		case 0:
			a.err = errors.New("down")
		case 1:
			a.delay = silent
		case 2:
			a.delay = time.Duration(rng.IntN(100)) * time.Millisecond
		case 3:
			a.delay = 5 * time.Second
		}
	}
	for i := range w.batch.Series {
		for j := range w.batch.Series[i].Samples {
			if unlucky() && rng.IntN(2) == 0 {
				a.refuses[item{series: i, index: j}] = []series.Reason{series.Invalid, series.Conflict, series.Limit}[rng.IntN(3)]
			}
		}
	}
	for _, peer := range w.table.Nodes() {
		if peer != id && unlucky() {
			a.gaps = append(a.gaps, proof.Gap{Peer: peer, Since: 1000 * rng.Int64N(6)})
		}
	}
	if deaf && unlucky() {
		a.noteErr = errors.New("no space left on device")
		a.hangs = rng.IntN(2) == 0
	}
	return a
}

// left is how many owners of a series are not removed.
func (w *world) left(a, i int) (n int) {
	for _, slot := range w.placements[a][i] {
		if !w.table.Writing()[a].Slots[slot].Removed {
			n++
		}
	}
	return n
}

// expect returns what a write must come to, by the answers of all owners.
func (w *world) expect(it item) verdict {
	v := written
	for a, owners := range w.owners(it.series) {
		assignment := w.table.Writing()[a]
		var said votes
		for slot, o := range owners {
			reason, refuses := o.refuses[it]
			switch {
			case assignment.Slots[w.placements[a][it.series][slot]].Removed || o.err != nil || o.delay == silent:
				said.failed++
			case refuses && reason == series.Conflict:
				said.conflict++
			case refuses:
				said.invalid++
			default:
				said.stored++
			}
		}
		write, read := assignment.Quorums(w.left(a, it.series))
		switch got := decide(said, assignment.Copies(), write, read); {
		case got == short || v == short:
			v = short
		case got == refused || v == refused:
			v = refused
		}
	}
	return v
}

// check returns an error if an acknowledged sample is not safe by one of the assignments.
func (w *world) check(it item, t int64) error {
	for a, owners := range w.owners(it.series) {
		quorum, _ := w.table.Writing()[a].Quorums(w.left(a, it.series))
		var holders []*actor
		for _, o := range owners {
			if o.holds(it) {
				holders = append(holders, o)
			}
		}
		if len(holders) < quorum {
			return fmt.Errorf("assignment %d: %d owners hold it, the quorum is %d", a, len(holders), quorum)
		}
		for _, o := range owners {
			if o.holds(it) || o.conflicts(it) || !w.table.Member(o.id) {
				continue
			}
			notes := 0
			for _, h := range holders {
				if h.noted(o.id, t) {
					notes++
				}
			}
			if notes < quorum {
				return fmt.Errorf("assignment %d: %s lacks it, %d holders note that, the quorum is %d", a, o.id, notes, quorum)
			}
		}
	}
	return nil
}

// Whatever the owners answer: what a write acknowledges is safe by each assignment, and what
// can be written is.
func TestWritesOfRandomTransitions(t *testing.T) {
	seeds, least := uint64(6_000), 30
	if testing.Short() {
		seeds, least = 600, 3
	}
	seen := map[string]int{}
	for seed := range seeds {
		synctest.Test(t, func(t *testing.T) {
			w := randomWorld(rand.New(rand.NewPCG(7, seed)))
			outcome, err := w.try(t.Context())
			if err != nil {
				t.Fatalf("seed %d: %v\ntable %+v\nplacements %v", seed, err, w.table, w.placements)
			}
			seen[outcome]++
		})
	}
	for _, outcome := range []string{"written", "refused", "short", "not noted"} {
		if seen[outcome] < least {
			t.Errorf("%s: %d times of %v: hardly tested", outcome, seen[outcome], seen)
		}
	}
}

// try writes the batch and judges the outcome, also when the stragglers have come.
func (w *world) try(ctx context.Context) (outcome string, err error) {
	defer time.Sleep(time.Minute)
	c := New(Options{
		Table: func() (*table.Table, []Placement) {
			var placements []Placement
			for _, l := range w.placements {
				placements = append(placements, l)
			}
			return w.table, placements
		},
		Replica: func(id table.NodeID) Replica {
			if !w.table.Member(id) {
				w.nodes[id].fault("asked, though it is removed")
			}
			return w.nodes[id]
		},
		Timeout: 10 * time.Second, Grace: 50 * time.Millisecond, Logger: slog.New(slog.DiscardHandler),
	})
	defer c.Close()
	start := time.Now()
	res, err := c.Write(ctx, w.batch)
	late := time.Since(start) >= c.opts.Timeout
	count, wrong := w.count(res, err)
	if wrong != nil {
		return "", wrong
	}
	outcome, wrong = w.judge(res, err, count, late)
	if wrong != nil {
		return "", wrong
	}
	time.Sleep(time.Minute)
	if _, wrong := w.count(res, err); wrong != nil {
		return "", fmt.Errorf("in the end: %w", wrong)
	}
	for _, a := range w.nodes {
		if peer, ok := a.needless(); ok {
			return "", fmt.Errorf("%s still notes a gap for %s, which has confirmed all, only late", a.id, peer)
		}
	}
	return outcome, nil
}

// count returns how many samples should come to each verdict. An error says that they did not,
// or are not safe.
func (w *world) count(res series.Result, err error) (map[verdict]int, error) {
	w.mu.Lock()
	faults := slices.Clone(w.faults)
	w.mu.Unlock()
	if len(faults) > 0 {
		return nil, errors.New(faults[0])
	}
	count := map[verdict]int{}
	for i := range w.batch.Series {
		for j, s := range w.batch.Series[i].Samples {
			it := item{series: i, index: j}
			v := w.expect(it)
			count[v]++
			if listed := slices.ContainsFunc(res.Refused, func(r series.Refusal) bool { return r.Series == i && r.Item == j }); listed != (v == refused) {
				return nil, fmt.Errorf("sample %d of series %d: refused %v, want verdict %d", j, i, listed, v)
			}
			if err != nil || v != written {
				continue
			}
			if err := w.check(it, s.T); err != nil {
				return nil, fmt.Errorf("sample %d of series %d is not safe: %w", j, i, err)
			}
		}
	}
	return count, nil
}

// judge compares the outcome with how many samples should come to each verdict. A write that
// became certain late has no time for notes.
func (w *world) judge(res series.Result, err error, count map[verdict]int, late bool) (outcome string, _ error) {
	var lacking *ShortError
	switch {
	case err != nil && !errors.As(err, &lacking):
		return "", err
	case res.Written.Samples != count[written]:
		return "", fmt.Errorf("%d samples written, want %d", res.Written.Samples, count[written])
	case count[short] > 0 && (lacking == nil || lacking.Samples != count[short]):
		return "", fmt.Errorf("%w, want %d samples to be short", err, count[short])
	case count[short] > 0:
		return "short", nil
	case err != nil && late:
		return "late", nil
	case err != nil:
		for _, a := range w.nodes {
			if a.hangs || a.noteErr != nil {
				return "not noted", nil
			}
		}
		return "", fmt.Errorf("%w, though everybody notes what it is asked to", err)
	case count[refused] > 0:
		return "refused", nil
	}
	return "written", nil
}
