package cluster

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"github.com/hashicorp/raft"

	"github.com/starling-tsdb/starling/internal/statefile"
	"github.com/starling-tsdb/starling/internal/table"
)

// This file keeps a node in one generation of the table at a time; see [table.Recovery].
// Each generation has a group of Raft of its own, with a store of its own, and its streams
// take nothing from another's. A node enters a generation with an empty store, or as the one
// that recovered it with the snapshot that the group begins with: so it has promised nothing
// there before. It never goes back. recover.go says how a generation comes about.

// era is a node's place among the generations.
type era struct {
	dir string
	// lock holds a token while the state is used: over syncs, over the end of a group of Raft
	// and the beginning of the next, and over each adoption of a table.
	lock   chan struct{}
	closed bool // the directory is not ours any more
	place

	// apart is place.Apart for readers without the lock.
	apart atomic.Pointer[ApartError]
}

// place is what a node must not forget of the generations.
type place struct {
	// Entered is the recovery of the generation in whose group of Raft the node is; the zero
	// value before the first recovery.
	Entered table.Recovery `json:"entered"`
	// Promised is the greatest generation that the node ever vouched for.
	Promised uint64 `json:"promised,omitempty"`
	// Pledge is the recovery that the node vouches for at present. Until that comes about, or
	// is given up, the node takes part in no group of Raft, and adopts no table of an older
	// generation.
	Pledge *pledge `json:"pledge,omitempty"`
	// Apart is set when the node's table is of a history that a recovery did not continue.
	Apart *ApartError `json:"apart,omitempty"`
}

// pledge names a recovery.
type pledge struct {
	ID         string       `json:"id"`
	Generation uint64       `json:"generation"`
	By         table.NodeID `json:"by"`
}

// fenced tells whether the node may take part in no group of Raft.
func (p *place) fenced() bool { return p.Pledge != nil || p.Apart != nil }

// ApartError says that a node was on the side of the lost when the others recovered: its
// table, and hence its data, are not those that the cluster goes on with. Such a node
// serves nobody.
type ApartError struct {
	// Recovery is what the cluster went through.
	Recovery table.Recovery `json:"recovery"`
	// Epoch is that of the node's own table, 0 if it is lost.
	Epoch uint64 `json:"epoch"`
}

// Error implements error.
func (e *ApartError) Error() string {
	return fmt.Sprintf("the cluster was recovered without this node: it goes on from epoch %d in generation %d (recovery %s), and this node had been at epoch %d of another history; it serves nobody. Stop it, set its directory aside, have it join as a new node with an empty one, and remove or replace its old ID",
		e.Recovery.From, e.Recovery.Generation, e.Recovery.ID, e.Epoch)
}

// errPast refuses the tables of generations that the node has left.
var errPast = errors.New("the table is of a generation that this node has left")

const eraFile = "generation"

// open reads the place of a directory.
func (e *era) open(dir string) error {
	e.dir, e.lock = dir, make(chan struct{}, 1)
	err := statefile.Load(dir, eraFile, &e.place)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w; restore the whole directory from one backup, or empty it and let the node join as a new one", err)
	}
	e.apart.Store(e.Apart)
	return nil
}

// start gives up a recovery that this node began and did not come to the end of: nobody else
// can end it. It deletes the stores of other generations.
func (e *era) start(self table.NodeID) error {
	if e.Pledge != nil && e.Pledge.By == self {
		next := e.place
		next.Pledge = nil
		if err := e.save(next); err != nil {
			return err
		}
	}
	return e.sweep()
}

// save makes a place durable, and then current.
func (e *era) save(next place) error {
	if e.closed {
		return errClosed
	}
	if err := statefile.Save(e.dir, eraFile, next); err != nil {
		return err
	}
	e.place = next
	e.apart.Store(next.Apart)
	return nil
}

// during runs do while nobody else uses the state.
func (e *era) during(do func() error) error {
	e.lock <- struct{}{}
	defer func() { <-e.lock }()
	if e.closed {
		return errClosed
	}
	return do()
}

// now returns the present place.
func (e *era) now() (p place) {
	e.lock <- struct{}{}
	defer func() { <-e.lock }()
	return e.place
}

// close makes later steps fail, once the present one is over.
func (e *era) close() {
	if e.lock == nil {
		return
	}
	e.lock <- struct{}{}
	e.closed = true
	<-e.lock
}

// storeDir is where Raft's store of a generation is.
func (e *era) storeDir() string { return e.storeOf(e.Entered.ID) }

func (e *era) storeOf(recovery string) string {
	if recovery == "" {
		return filepath.Join(e.dir, raftDir)
	}
	return filepath.Join(e.dir, raftDir+"-"+recovery)
}

// sweep deletes what is left of other generations' stores.
func (e *era) sweep() error {
	list, err := os.ReadDir(e.dir)
	if err != nil {
		return err
	}
	for _, entry := range list {
		path := filepath.Join(e.dir, entry.Name())
		if entry.IsDir() && path != e.storeDir() && (entry.Name() == raftDir || strings.HasPrefix(entry.Name(), raftDir+"-")) {
			if err := os.RemoveAll(path); err != nil {
				return fmt.Errorf("delete the Raft store of another generation: %w", err)
			}
		}
	}
	return nil
}

// Apart returns an [ApartError] if this node is not part of the history that the cluster
// goes on with; nil if it is, as far as it has heard.
func (c *Cluster) Apart() error {
	if a := c.era.apart.Load(); a != nil {
		return a
	}
	return nil
}

// consensus is this node's part in the present group of Raft.
func (c *Cluster) consensus() *consensus { return c.current.Load() }

// newConsensus makes a part in the group of the present generation.
func (c *Cluster) newConsensus(store *raftStore) *consensus {
	return &consensus{
		self: c.id.Node, store: store, patient: newPatientStore(store.log, c.cfg.Timing.Complain, c.log),
		timing: c.cfg.Timing, log: c.log, hlog: c.raftLogger(),
		fsm: &machine{offer: c.seat.offer}, group: c.streams.join(c.era.Entered.ID),
	}
}

// takePart begins to take part in the present generation, if the node is in a cluster and may. The
// era's lock is held.
func (c *Cluster) takePart() error {
	if c.era.fenced() || c.clusterID() == "" {
		return nil
	}
	if c.consensus().over() {
		store, err := openRaftStore(c.era.storeDir(), c.raftLogger())
		if err != nil {
			return err
		}
		c.current.Store(c.newConsensus(store))
	}
	return c.consensus().start(c.founders())
}

// founders are set on the founder of a cluster, as long as it is in its first generation.
func (c *Cluster) founders() []founder {
	if c.era.Entered.ID != "" {
		return nil
	}
	return c.birth.Founders
}

// endRaft ends all part in Raft, for good.
func (c *Cluster) endRaft() {
	c.era.close()
	c.consensus().stop()
}

// admit tells whether a table may be adopted, and has the node enter the generation of one that
// continues its history. The era's lock is held.
func (c *Cluster) admit(t *table.Table) error {
	own, generation := c.Table(), table.Generation(t.Epoch)
	switch {
	case c.era.Apart != nil:
		return c.era.Apart
	case own != nil && own.Epoch >= t.Epoch:
		return nil // it will not be adopted
	case generation < c.era.Entered.Generation, c.era.Pledge != nil && generation < c.era.Pledge.Generation:
		return fmt.Errorf("%w: epoch %d", errPast, t.Epoch)
	case own != nil && !own.Precedes(t), own == nil && c.birth.Joined && t.Recovery().ID != c.era.Entered.ID:
		return c.notOurs(own, t)
	case t.Recovery() == c.era.Entered:
		return nil
	}
	return c.enter(t, nil)
}

// notOurs refuses a table that does not continue this node's, or that cannot be told to since
// this node's own is lost.
func (c *Cluster) notOurs(own, t *table.Table) error {
	epoch := uint64(0)
	if own != nil {
		epoch = own.Epoch
	}
	if own != nil && table.Generation(t.Epoch) == table.Generation(epoch) {
		return fmt.Errorf("%w: two recoveries were made apart from each other, %s and this node's %s; stop all nodes of one side and have them join as new ones, with empty directories",
			ErrForeign, t.Recovery().ID, nameRecovery(own.Recovery().ID))
	}
	next := c.era.place
	next.Apart = &ApartError{Recovery: t.Recovery(), Epoch: epoch}
	c.era.apart.Store(next.Apart) // even if it cannot be written down
	c.consensus().stop()
	c.log.Error("this node serves nobody from now on", "err", next.Apart)
	if err := c.era.save(next); err != nil {
		return errors.Join(next.Apart, err)
	}
	return next.Apart
}

// enter has the node take part in the generation of a table. It is servers that the group begins
// with, on the one node that recovers it. The era's lock is held.
//
// The store is there before it is written down that the node entered, and is used only after:
// so an interrupted step can be made again, and no store that was in use is taken for a new one.
func (c *Cluster) enter(t *table.Table, servers []raft.Server) error {
	c.consensus().stop()
	r := t.Recovery()
	err := makeRaftStore(c.era.storeOf(r.ID), c.id.Node, t, servers, c.raftLogger())
	if err == nil {
		next := c.era.place
		next.Entered, next.Promised = r, max(next.Promised, r.Generation)
		if next.Pledge != nil && next.Pledge.Generation <= r.Generation {
			next.Pledge = nil
		}
		err = c.era.save(next)
	}
	if err == nil {
		c.log.Warn("the cluster was recovered: this node goes on in another generation", "generation", r.Generation, "recovery", r.ID, "from_epoch", r.From)
		if err := c.era.sweep(); err != nil {
			c.log.Warn("the store of the last generation is left over; the next start deletes it", "err", err)
		}
	}
	// Where that failed this is the old generation, as far as the node may take part in it.
	if again := c.takePart(); again != nil {
		c.log.Error("this node does not take part in Raft yet; it is tried again", "err", again)
	}
	if err != nil {
		return fmt.Errorf("enter generation %d: %w", r.Generation, err)
	}
	return nil
}

// makeRaftStore makes the store that a node enters a generation with: empty, or with the table
// and the servers that the group begins with.
func makeRaftStore(dir string, self table.NodeID, t *table.Table, servers []raft.Server, log *raftLog) (err error) {
	defer recoverInto(&err, "make the Raft store "+dir)
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("delete an unfinished Raft store: %w", err)
	}
	store, err := openRaftStore(dir, log)
	if err != nil {
		return err
	}
	defer store.log.close()
	if len(servers) > 0 {
		b, err := table.Encode(t)
		if err != nil {
			return err
		}
		_, trans := raft.NewInmemTransport("") // it is asked how addresses are written
		sink, err := store.snaps.Create(1, 1, 1, raft.Configuration{Servers: servers}, 1, trans)
		if err != nil {
			return fmt.Errorf("write the first Raft snapshot: %w", err)
		}
		if err := snapshot(b).Persist(sink); err != nil {
			return fmt.Errorf("write the first Raft snapshot: %w", err)
		}
		if err := store.log.SetUint64([]byte(termKey), 1); err != nil {
			return fmt.Errorf("write the Raft term: %w", err)
		}
	}
	return statefile.Save(dir, ownerFile, self)
}
