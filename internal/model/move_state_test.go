package model

// moveScenario says what may happen in a model of transitions, and how often. It knows no
// times: all reads want all of their series.
type moveScenario struct {
	nodes  uint8
	copies int
	// series holds the order in which each series prefers the slots.
	series [][]uint8
	// samples holds the series of each sample, by number.
	samples []int
	writes  []uint8 // the samples that they send
	reads   []int   // the series that they want
	slots   assignment
	// commands are given in this order, one after the other, at any time.
	commands []command
	// crashes bounds how often a node crashes. With losses a node that is to be removed may
	// be lost for good, before or after. One of the fragile nodes may find its store damaged,
	// or one of the aged that its directory is an old copy.
	crashes, losses uint8
	fragile, aged   set
	// late leaders act on what a node said of itself before it found damage.
	late     bool
	handoffs uint8
	// eager coordinators ask for notes before enough owners have confirmed, as if the gaps
	// had been offered.
	eager bool
	// gaps are open from the beginning, for writes long ago.
	gaps [][2]uint8
}

// maxSeries is what a state has room for.
const maxSeries = 2

// moveState is comparable and has no padding, so that it hashes as the bytes it is.
type moveState struct {
	nodes  [maxNodes]moveNode
	pairs  [maxNodes][maxNodes]movePair // what x notes for y, and the hand-off from x to y
	writes [maxWrites]moveWrite
	reads  [maxReads]moveRead
	log    [maxEpochs]uint8 // the tables, by epoch
	newest uint8            // the last epoch
	next   uint8            // command
	acked  set              // samples
	// fragile and aged are the nodes of which one may still find damage, or an old copy.
	fragile, aged set
	// proposed is the phase that the leader wants to end: with AdvanceForEpoch off.
	proposed uint8

	crashes, losses, handoffs uint8 // that may still come
}

// moveNode is a node with its store.
type moveNode struct {
	synced, unsynced set
	epoch            uint8
	disk             uint8 // the epoch that is synced: the same but with TableSynced off
	reported         uint8 // what others may have heard: the same but with TableSynced off
	ready            uint8 // the epoch with which the phase began for which it is a ready target owner, or 0
	damaged          uint8 // the epoch that it found damage at and makes it good after, or 0
	old              uint8 // 1 if its directory is an old copy
	gone             uint8 // 1 if it is lost for good
	copies           [maxSeries]moveCopy
}

// renewed is a series that was made good in an earlier phase: not copied for the present one.
const renewed = over + 1

// moveCopy is what a target owner, or one that is damaged, does about a series, at its epoch.
// Of what it gains or lost it makes a proven read; for what it retains, the answers are those
// without a gap for it.
type moveCopy struct {
	phase    uint8 // asking, serving, done or renewed
	answered set
	noted    set // owners for which one of those notes a gap
	servers  set
	served   set
	early    [maxNodes]set // read with the answers: with CopySecondRound off
}

// phases of a hand-off.
const (
	noSession uint8 = iota
	onItsWay        // the store was read
	taken           // stored at the peer
	kept            // and synced
)

// movePair is what node x notes for node y, and the hand-off that it makes.
type movePair struct {
	gap    uint8 // 1 if there is one
	phase  uint8
	missed uint8 // 1 if a note came during the hand-off
	data   set
}

// accepted is an append whose epoch was compared: with AppendsBeforeNext off.
const accepted = failed + 1

// moveWrite is one coordinator's.
type moveWrite struct {
	at    [maxNodes]uint8
	known [maxNodes]set // peers for which that owner is known to note a gap
	epoch uint8         // 0 before it begins
	acked uint8
}

// broken is a read whose result is wrong.
const broken = over + 1

// moveRead is one coordinator's, and the client's.
type moveRead struct {
	phase    uint8
	epoch    uint8
	needed   set // acknowledged before it began
	answered set
	noted    set // owners for which one of those notes a gap
	servers  set
	served   set
	result   set
}

func (m *mover) start() moveState {
	sc := m.scenario
	s := moveState{crashes: sc.crashes, losses: sc.losses, fragile: sc.fragile, aged: sc.aged, handoffs: sc.handoffs, newest: 1}
	s.log[1] = m.number(moveTable{current: sc.slots, target: sc.slots})
	for x := range s.nodes {
		if x < int(sc.nodes) {
			s.nodes[x].epoch, s.nodes[x].disk, s.nodes[x].reported = 1, 1, 1
		}
	}
	for _, g := range sc.gaps {
		s.pairs[g[0]][g[1]].gap = 1
	}
	return s
}

func (n *moveNode) holds() set { return n.synced | n.unsynced }

// of returns the samples of a series.
func (sc *moveScenario) of(series int) (found set) {
	for i, of := range sc.samples {
		if of == series {
			found = found.with(uint8(i))
		}
	}
	return found
}

// ownedBy returns the samples of the series that a node owns by one of some assignments.
func (m *mover) ownedBy(x uint8, assignments ...[]owned) (found set) {
	for series := range m.scenario.series {
		for _, a := range assignments {
			if a[series].set.has(x) {
				found |= m.samples[series]
			}
		}
	}
	return found
}
