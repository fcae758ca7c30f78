package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/prometheus/prometheus/tsdb/fileutil"

	"github.com/starling-tsdb/starling/internal/statefile"
	"github.com/starling-tsdb/starling/internal/table"
)

var (
	// ErrForeign marks what belongs to another cluster, or to none.
	ErrForeign = errors.New("not of this cluster")
	// errClosed answers after Run ended.
	errClosed = errors.New("the node is stopping")
)

// Cluster is this node's part in the cluster. Its methods may be called by any number of
// goroutines, unless they say otherwise.
type Cluster struct {
	cfg Config
	id  identity
	// starts is how often this node has started, as far as its peers know.
	starts  atomic.Uint64
	log     *slog.Logger
	quiet   *throttle
	count   *metrics
	peers   *registry
	streams *streams
	lock    fileutil.Releaser
	gossip  *gossip

	birth birth
	seat  seat
	era   era
	// current is this node's part in Raft. It is replaced with the generation, and stopped
	// while the node vouches for a recovery.
	current atomic.Pointer[consensus]

	advertised atomic.Pointer[advertised] // nil until Run knows it
	tender     chan struct{}              // wakes lead
	closeOnce  sync.Once
}

type advertised struct {
	ip     netip.Addr
	gossip string
}

// New opens or makes what a node keeps on disk. It talks to nobody. Either Run or Close
// has to be called.
func New(cfg Config) (*Cluster, error) {
	cfg, err := cfg.fill()
	if err != nil {
		return nil, err
	}
	c := &Cluster{
		cfg: cfg, log: cfg.Logger.With("component", "cluster"),
		quiet: newThrottle(3 * cfg.Timing.Complain), tender: make(chan struct{}, 1),
	}
	if c.cfg.Ready == nil {
		c.cfg.Ready = c.present
	}
	store, err := c.open()
	if err != nil {
		c.release()
		return nil, err
	}
	if c.count, err = newMetrics(c, cfg.Registerer); err != nil {
		c.release()
		return nil, err
	}
	c.gossip = &gossip{
		cfg: &c.cfg, self: c.id, peers: c.peers, log: c.log, quiet: c.quiet, count: c.count,
		describe: c.metadata, table: c.Table, change: make(chan struct{}, 1), dialing: make(map[string]bool),
	}
	c.streams = &streams{
		listener: cfg.RaftListener, dial: cfg.Dial, address: c.Address, cluster: c.clusterID,
		self: c.id.Node, timeout: cfg.Timing.Stream, log: c.log, quiet: c.quiet,
		done: make(chan struct{}), open: make(map[net.Conn]*group),
	}
	c.current.Store(c.newConsensus(store))
	if c.era.fenced() {
		c.consensus().stop()
	}
	return c, nil
}

func (c *Cluster) raftLogger() *raftLog {
	return &raftLog{log: c.log, quiet: c.quiet, name: "raft"}
}

// open takes possession of the directory and reads it.
func (c *Cluster) open() (*raftStore, error) {
	dir := c.cfg.Dir
	if err := statefile.MakeDir(dir); err != nil {
		return nil, fmt.Errorf("open the cluster directory: %w", err)
	}
	lock, _, err := fileutil.Flock(filepath.Join(dir, lockFile))
	if err != nil {
		return nil, fmt.Errorf("lock %s: is another process using it? %w", dir, err)
	}
	c.lock = lock
	if err := c.era.open(dir); err != nil {
		return nil, err
	}
	store, err := openRaftStore(c.era.storeDir(), c.raftLogger())
	if err != nil {
		return nil, err
	}
	if c.id, err = openIdentity(dir, store); err != nil {
		return nil, err
	}
	c.starts.Store(c.id.Boots)
	if c.cfg.Advertise.Name == "" {
		c.cfg.Advertise.Name = string(c.id.Node)
	}
	if err := c.era.start(c.id.Node); err != nil {
		return nil, err
	}
	if c.peers, err = loadPeers(dir, c.log); err != nil {
		return nil, fmt.Errorf("read the remembered peers: %w", err)
	}
	if err := c.openBirth(store); err != nil {
		return nil, err
	}
	return store, c.openTable()
}

// openBirth reads what the node knows of the birth of its cluster.
func (c *Cluster) openBirth(store *raftStore) error {
	newID, err := newULID()
	if err != nil {
		return err
	}
	c.birth = birth{
		dir: c.cfg.Dir, lock: make(chan struct{}, 1),
		formation: formation{self: c.id.Node, zone: c.cfg.Advertise.Zone, expect: c.cfg.expect(), newCluster: newID},
	}
	err = statefile.Load(c.cfg.Dir, foundingFile, &c.birth.founding)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w; restore the whole directory from one backup, or empty it and let the node join as a new one", err)
	}
	c.birth.publish()
	used, err := store.used()
	if err != nil {
		return fmt.Errorf("read the Raft store: %w", err)
	}
	if used && c.clusterID() == "" {
		return fmt.Errorf("%w: %s has a Raft store that was in use, and no file %q that says in which cluster; restore the whole directory from one backup, or empty it and let the node join as a new one",
			errLost, c.cfg.Dir, foundingFile)
	}
	return nil
}

// openTable reads the adopted table. A damaged one is set aside and the node has none
// until the leader, who has all that was ever committed, hands it the newest: so it does
// not go back, and needs nobody's help.
func (c *Cluster) openTable() error {
	path := filepath.Join(c.cfg.Dir, tableFile)
	c.seat = newSeat(path, c.cfg.Adopt)
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the table: %w", err)
	}
	t, err := table.Decode(b)
	if errors.Is(err, table.ErrCorrupt) {
		c.log.Error("the table file is damaged; it is set aside and the node serves nothing until Raft's leader has handed it the table",
			"file", path, "aside", path+".damaged", "err", err)
		if err := os.Rename(path, path+".damaged"); err != nil {
			return fmt.Errorf("set the damaged table aside: %w", err)
		}
		return statefile.SyncDir(c.cfg.Dir)
	}
	if err != nil {
		return fmt.Errorf("read the table %s: %w", path, err)
	}
	if own := c.clusterID(); t.ClusterID != own {
		return fmt.Errorf("%w: the table in %s is of cluster %s, the node belongs to %s; restore the whole directory from one backup, or empty it and let the node join as a new one",
			errLost, path, t.ClusterID, nameCluster(own))
	}
	c.seat.table.Store(t)
	return nil
}

// expect is how many fresh nodes found a cluster, 0 to wait for one.
func (c *Config) expect() int {
	if len(c.Find.Join) == 0 {
		return max(c.Find.BootstrapExpect, 1)
	}
	return c.Find.BootstrapExpect
}

// release closes what New opened.
func (c *Cluster) release() {
	c.closeOnce.Do(func() {
		c.count.unregister()
		c.birth.close()
		c.era.close()
		c.seat.close()
		if c.lock != nil {
			if err := c.lock.Release(); err != nil {
				c.log.Warn("unlock the cluster directory", "err", err)
			}
		}
	})
}

// Close lets go of the directory if Run is not going to be called.
func (c *Cluster) Close() { c.release() }

// Run takes part in the cluster until ctx ends. Then it hands over Raft's leadership,
// leaves gossip in order, which changes no table, and closes everything, with the
// listener and the gossip transport of the configuration. It is called once.
func (c *Cluster) Run(ctx context.Context) error {
	defer c.release()
	if err := c.appear(ctx); err != nil {
		if t := c.cfg.GossipTransport; t != nil {
			err = errors.Join(err, t.Shutdown())
		}
		return errors.Join(err, c.streams.close())
	}
	c.log.Info("node started", "node", c.id.Node, "starts", c.id.Boots, "gossip", c.gossip.addr, "cluster", c.clusterID())
	c.streams.run()

	work, cancel := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { c.gossip.rejoin(work) })
	wg.Go(func() { c.gossip.announce(work) })
	wg.Go(func() { c.adoptOffers(work) })
	wg.Go(func() { c.follow(work) })
	wg.Go(func() { c.keepZone(work) })
	wg.Go(func() { c.lead(work) })
	wg.Go(func() {
		if err := c.settleIn(work); err != nil {
			cancel(err)
		}
	})
	<-work.Done()
	err := context.Cause(work)
	if ctx.Err() != nil {
		err = nil
	}
	cancel(nil)

	c.endRaft()
	wg.Wait()
	c.gossip.stop()
	if closeErr := c.streams.close(); closeErr != nil {
		c.log.Debug("close the Raft listener", "err", closeErr)
	}
	if saveErr := c.peers.save(c.cfg.Dir); saveErr != nil {
		c.log.Warn("remember the peers", "err", saveErr)
	}
	return err
}

// appear finds the node's address and starts gossip.
func (c *Cluster) appear(ctx context.Context) error {
	ip, err := c.cfg.advertiseIP(ctx)
	if err != nil {
		return err
	}
	if err := c.cfg.Advertised(ip); err != nil {
		return err
	}
	c.gossip.ip = ip
	c.advertised.Store(&advertised{ip: ip})
	if err := c.gossip.start(ctx); err != nil {
		return err
	}
	c.advertised.Store(&advertised{ip: ip, gossip: c.gossip.addr})
	return nil
}

// Self is this node's ID.
func (c *Cluster) Self() table.NodeID { return c.id.Node }

// metadata is what gossip says of this node.
func (c *Cluster) metadata() metadata {
	a := c.cfg.Advertise
	m := metadata{
		Cluster: c.clusterID(), Zone: a.Zone, Name: a.Name, Version: a.Version,
		RPC: uint16(a.RPCPort), HTTP: uint16(a.HTTPPort), Expect: uint16(c.cfg.expect()),
	}
	if t := c.Table(); t != nil {
		m.Epoch, m.Ready = t.Epoch, c.cfg.Ready()
	}
	if n := c.starts.Load(); n != c.id.Boots {
		m.Starts = n
	}
	return m
}
