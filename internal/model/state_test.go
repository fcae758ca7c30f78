package model

import (
	"fmt"
	"math/bits"
	"strings"
)

// maxNodes, maxWrites and maxReads are what a state has room for.
const (
	maxNodes  = 5
	maxWrites = 4
	maxReads  = 3
)

// set is a set of nodes or of samples, by number.
type set uint8

// setOf returns the set of some numbers.
func setOf(list []uint8) (s set) {
	for _, i := range list {
		s = s.with(i)
	}
	return s
}

func (s set) has(i uint8) bool     { return s&(1<<i) != 0 }
func (s set) with(i uint8) set     { return s | 1<<i }
func (s set) without(i uint8) set  { return s &^ (1 << i) }
func (s set) len() int             { return bits.OnesCount8(uint8(s)) }
func (s set) holds(other set) bool { return other&^s == 0 }
func (s set) String() string       { return "{" + strings.Join(s.list(), " ") + "}" }
func (s set) list() (list []string) { // of what is in it, in ascending order
	for i := range uint8(8) {
		if s.has(i) {
			list = append(list, fmt.Sprint(i))
		}
	}
	return list
}

// instant is a sample's time. never, as the beginning of a gap, says that there is none; as
// the end of a window, that it has no end.
type instant uint8

const never instant = 255

// sample is sent once or, in a retry, several times. Its number is its value.
type sample struct {
	series int
	at     instant
}

// query is what a read asks for: a series, up to a time.
type query struct {
	series int
	until  instant
}

// gap is what node x notes for node y.
type gap struct {
	x, y  uint8
	since instant
}

// scenario says what may happen, and how often.
type scenario struct {
	nodes uint8
	// owners holds the owners of each series, in the order of the copies.
	owners [][]uint8
	// samples are those that are sent, by number.
	samples []sample
	// writes are the samples that they send: the same one twice is a retry.
	writes []uint8
	reads  []query
	// crashes, losses, damages and refusals bound how often a node crashes, loses its disk,
	// finds that its store is damaged, and refuses a sample for its age. After a loss or
	// damage a node counts as missing; both together stay within RF-W.
	crashes, losses, damages, refusals uint8
	// gaps are those that are open from the beginning: what one node notes for another, for
	// a write long ago.
	gaps []gap
	// handoffs bounds how many begin.
	handoffs uint8
	// prompt takes two steps in one where nothing is known to go wrong between them: a
	// confirmation arrives as it is sent, a window is read as the hand-off begins, and each
	// window is a session. It makes room for more writes.
	prompt bool
	// late has notes be taken back: owners go on to confirm a write after it was acknowledged,
	// and a note that was taken for one of them is then withdrawn.
	late bool
}

func (sc *scenario) copies(series int) int      { return len(sc.owners[series]) }
func (sc *scenario) writeQuorum(series int) int { return sc.copies(series)/2 + 1 }

// answerQuorum is how many nodes may not be missing from a read.
func (sc *scenario) answerQuorum() int {
	q := sc.writeQuorum(0)
	for s := range sc.owners {
		q = min(q, sc.writeQuorum(s))
	}
	return q
}

// ownersOf returns the owners of a series as a set.
func (sc *scenario) ownersOf(series int) set {
	var s set
	for _, n := range sc.owners[series] {
		s = s.with(n)
	}
	return s
}

// matching returns the samples that a query asks for.
func (sc *scenario) matching(q query) set {
	var found set
	for i, s := range sc.samples {
		if s.series == q.series && s.at <= q.until {
			found = found.with(uint8(i))
		}
	}
	return found
}

// window returns the samples that both nodes own with times from one instant to before
// another.
func (sc *scenario) window(x, m uint8, from, end instant) set {
	var found set
	for i, s := range sc.samples {
		owners := sc.ownersOf(s.series)
		if owners.has(x) && owners.has(m) && s.at >= from && s.at < end {
			found = found.with(uint8(i))
		}
	}
	return found
}

// state is comparable and has no padding, so that it hashes as the bytes it is.
type state struct {
	nodes  [maxNodes]node
	pairs  [maxNodes][maxNodes]pair // what x notes for m, and the hand-off from x to m
	writes [maxWrites]write
	reads  [maxReads]read
	acked  set // samples

	crashes, losses, damages, refusals, handoffs uint8 // that may still come
}

// node is what lies in its store.
type node struct {
	synced, unsynced set
	// missing says that the node lost its disk or found damage: until it is rebuilt, which
	// is not in the model, it takes writes and counts in no read.
	missing bool
}

// phases of a hand-off, at the node x that notes the gap.
const (
	offered  uint8 = iota // no session: confirmations carry the gap
	opened                // a session: not offered from here on
	windowed              // the store was read; the window is on its way
	sent                  // the window has arrived at m
	early                 // the store was read, and the gap is still offered: with StopBeforeRead off
)

// phases of a window, at the node m that it is for.
const (
	nothing  uint8 = iota
	received       // stored
	advanced       // synced, and the word of it on its way to x
)

// pair is what node x notes for node m, and the hand-off that it makes.
type pair struct {
	gap instant // since when m may lack samples, or never
	// disk is what is synced of that: the same but with NoteSynced or OfferSynced off, and
	// after all notes were withdrawn.
	disk instant
	late uint8 // notes that can be withdrawn
	firm bool  // the gap is there until it is handed off; else until all notes are withdrawn

	phase  uint8
	end    instant // of the window
	missed instant // the earliest note that came since the window was read
	data   set     // samples of the window

	stage uint8   // of the window at m
	got   instant // its end
	old   bool    // it is not x's present window: with SessionChecked or WindowChecked off
	last  bool    // nor of x's present session
	next  instant // what is being saved: with HeldWhileSaving off; never if nothing is
	busy  bool    // something is being saved
}

// phases of an append.
const (
	underway   uint8 = iota
	judged           // its offer was read, it is not stored: with OfferAfterStore off
	stored           // waits for a sync
	duplicate        // was there before: with DuplicateSynced off
	confirming       // the confirmation is under way
	confirmed        // has arrived at the coordinator
	refused          // for its age
	failed           // the owner crashed
)

// write is one coordinator's.
type write struct {
	at      [maxNodes]uint8
	offers  [maxNodes]set // peers for which that owner's confirmation offers a gap early enough
	noted   [maxNodes]set // peers for which that owner said that it noted a gap
	pending [maxNodes]set // notes that are not synced: with NoteSynced, OfferSynced or NoteMarksAtSync off
	late    [maxNodes]set // peers for which that owner's note can be withdrawn
	acked   bool
}

// phases of a read.
const (
	waiting uint8 = iota
	asking        // round one
	serving       // round two
	done
	over // a node refused
)

// read is one coordinator's, and the client's.
type read struct {
	phase    uint8
	needed   set // acknowledged before it began
	answered set // nodes that answered round one
	gaps     [maxNodes]set
	data     [maxNodes]set // read in round one: with SecondRound off
	servers  set           // nodes that serve the series
	served   set           // nodes that answered round two
	result   set
}

func (m *machine) start() state {
	sc := m.scenario
	s := state{crashes: sc.crashes, losses: sc.losses, damages: sc.damages, refusals: sc.refusals, handoffs: sc.handoffs}
	for x := range s.pairs {
		for p := range s.pairs[x] {
			s.pairs[x][p] = pair{gap: never, disk: never, missed: never, end: never, got: never, next: never}
		}
	}
	for _, g := range sc.gaps {
		p := &s.pairs[g.x][g.y]
		p.gap, p.disk, p.firm = g.since, g.since, true
	}
	return s
}

// holds returns what a node would answer with now.
func (n *node) holds() set { return n.synced | n.unsynced }
