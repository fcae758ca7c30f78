package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/starling-tsdb/starling/internal/table"
)

// voters is how many nodes vote in Raft: those in the first occupied slots of the assignment
// that queries read by. Two of five may be lost, and more would only make each change slower.
// A node that does not own yet may turn out never to come, and one that leaves will be
// stopped: neither may be what a majority depends on.
const voters = 5

// errNotLeader answers what only Raft's leader can do.
var errNotLeader = errors.New("this node is not Raft's leader")

// consensus runs Raft on a node that belongs to a cluster.
type consensus struct {
	self    table.NodeID
	store   *raftStore
	patient *patientStore // store.log as Raft uses it
	fsm     *machine
	group   *group
	timing  Timing
	log     *slog.Logger
	hlog    hclog.Logger

	mu      sync.Mutex
	raft    *raft.Raft // nil until start
	trans   *transport
	stopped bool
	elected bool           // electAtOnce did its work
	waiting sync.WaitGroup // for entries of the log; nobody begins to once stopped

	caughtUp uint64 // the last term that catchUp waited in; only catchUp uses it
}

// start begins to take part. founders is set on the founder of the cluster: it writes
// the first configuration into an empty log, so that those who vouched can elect. If it
// cannot be written, start may be called again; other errors are fatal.
func (c *consensus) start(founders []founder) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.raft != nil || c.stopped {
		return nil
	}
	conf := c.config()
	if c.trans == nil {
		c.trans = newTransport(raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
			Stream: c.group, MaxPool: 3, Timeout: c.timing.Stream, Logger: c.hlog,
			MsgpackUseNewTimeFormat: true,
		}), c.store.log, c.log)
	}
	if err := c.bootstrap(conf, c.trans, founders); err != nil {
		return err
	}
	r, err := c.newRaft(conf)
	if err != nil {
		return &fatalError{fmt.Errorf("start Raft: %w", err)}
	}
	c.raft = r
	return nil
}

// newRaft starts Raft, which panics on some damage.
func (c *consensus) newRaft(conf *raft.Config) (r *raft.Raft, err error) {
	defer recoverInto(&err, "read the Raft store")
	return raft.NewRaft(conf, c.fsm, c.patient, c.patient, c.store.snaps, c.trans)
}

// electAtOnce makes this node a candidate without the wait for a leader that there
// cannot be: when it is the only voter, or when nothing is in the log but its own first
// configuration, and all the voters take part. It does so once, and if the election
// fails Raft's timeouts go on as usual.
func (c *consensus) electAtOnce(takesPart func(table.NodeID) bool) {
	c.mu.Lock()
	r, trans, elected := c.raft, c.trans, c.elected
	c.mu.Unlock()
	if r == nil || elected || r.State() != raft.Follower || c.leader() != "" {
		return
	}
	f := r.GetConfiguration()
	if f.Error() != nil {
		return
	}
	votes, others := false, false
	for _, s := range f.Configuration().Servers {
		switch {
		case s.Suffrage != raft.Voter:
		case s.ID == raft.ServerID(c.self):
			votes = true
		case !takesPart(table.NodeID(s.ID)):
			return
		default:
			others = true
		}
	}
	if !votes || (others && r.LastIndex() > 1) {
		return
	}
	c.mu.Lock()
	c.elected = true
	c.mu.Unlock()
	var resp raft.TimeoutNowResponse
	err := trans.TimeoutNow(raft.ServerID(c.self), raft.ServerAddress(c.self), &raft.TimeoutNowRequest{RPCHeader: raft.RPCHeader{
		ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(c.self), Addr: []byte(c.self),
	}}, &resp)
	if err != nil {
		c.log.Debug("the election is left to Raft's timeouts", "err", err)
	}
}

func (c *consensus) config() *raft.Config {
	conf := raft.DefaultConfig()
	conf.LocalID = raft.ServerID(c.self)
	conf.Logger = c.hlog
	conf.HeartbeatTimeout = c.timing.Election
	conf.ElectionTimeout = c.timing.Election
	conf.LeaderLeaseTimeout = c.timing.Election * 2 / 3
	// How soon followers hear of a commit, and how often the leader sends something to
	// each of them. Peers hand over new tables with their requests, so it may be slow.
	conf.CommitTimeout = 200 * time.Millisecond
	conf.SnapshotThreshold, conf.TrailingLogs = 64, 64
	conf.ShutdownOnRemove = false
	conf.NoLegacyTelemetry = true
	return conf
}

// bootstrap writes the founders into an empty log. A crash may have left the term
// without the entry; then nothing happened yet and the term is taken back.
func (c *consensus) bootstrap(conf *raft.Config, trans raft.Transport, founders []founder) error {
	last, err := c.store.log.LastIndex()
	if err != nil {
		return fmt.Errorf("read the Raft log: %w", err)
	}
	snaps, err := c.store.snaps.List()
	if err != nil {
		return fmt.Errorf("list the Raft snapshots: %w", err)
	}
	if len(founders) == 0 || last > 0 || len(snaps) > 0 {
		return nil
	}
	if err := c.store.log.SetUint64([]byte(termKey), 0); err != nil {
		return fmt.Errorf("write the Raft term: %w", err)
	}
	var servers raft.Configuration
	for i, f := range founders {
		servers.Servers = append(servers.Servers, server(f.ID, i < voters))
	}
	if err := raft.BootstrapCluster(conf, c.store.log, c.store.log, c.store.snaps, trans, servers); err != nil {
		return fmt.Errorf("write the first Raft configuration: %w", err)
	}
	return nil
}

func server(id table.NodeID, voter bool) raft.Server {
	s := raft.Server{ID: raft.ServerID(id), Address: raft.ServerAddress(id), Suffrage: raft.Nonvoter}
	if voter {
		s.Suffrage = raft.Voter
	}
	return s
}

// running returns Raft, or nil before the node is in a cluster.
func (c *consensus) running() *raft.Raft {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped {
		return nil
	}
	return c.raft
}

// over tells whether stop was called.
func (c *consensus) over() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stopped
}

// catchUp returns the term that this node leads in, once it has applied all that earlier
// leaders agreed on: before, it may not know who has joined. It waits for that once a term.
// It is called by one goroutine at a time.
func (c *consensus) catchUp(ctx context.Context) (term uint64, err error) {
	r := c.running()
	if r == nil || r.State() != raft.Leader {
		return 0, errNotLeader
	}
	term = r.CurrentTerm()
	if term == c.caughtUp {
		return term, nil
	}
	ctx, cancel := context.WithTimeout(ctx, c.timing.Call)
	defer cancel()
	if err := c.await(ctx, func() error { return r.Barrier(c.timing.Call).Error() }); err != nil {
		return 0, fmt.Errorf("apply what earlier leaders agreed on: %w", err)
	}
	if !leads(r, term) {
		return 0, errNotLeader
	}
	c.caughtUp = term
	return term, nil
}

// leads tells whether the node leads in a term. The term is read twice, because a node
// that leads again does so in another one.
func leads(r *raft.Raft, term uint64) bool {
	return r.CurrentTerm() == term && r.State() == raft.Leader && r.CurrentTerm() == term
}

// await returns what do returns, or ends with ctx. What do waits for is an entry of Raft's
// log: it is applied, or leadership is lost. Raft forgets those that are on their way to
// the state machine when it is shut down, so stop lets them come through before.
func (c *consensus) await(ctx context.Context, do func() error) error {
	done := make(chan error, 1)
	c.mu.Lock()
	stopped := c.stopped
	if !stopped {
		c.waiting.Go(func() { done <- do() })
	}
	c.mu.Unlock()
	if stopped {
		return raft.ErrRaftShutdown
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *consensus) leading() bool {
	r := c.running()
	return r != nil && r.State() == raft.Leader
}

// leader returns the leader as far as this node knows.
func (c *consensus) leader() table.NodeID {
	r := c.running()
	if r == nil {
		return ""
	}
	_, id := r.LeaderWithID()
	return table.NodeID(id)
}

// apply runs a command as the leader and returns the table that includes it. The error
// is errNotLeader if another node has to be asked, or asked again, also when ctx ended;
// what errors.Is finds of package table is final.
func (c *consensus) apply(ctx context.Context, cmd table.Command) (*table.Table, error) {
	r := c.running()
	if r == nil || r.State() != raft.Leader {
		return nil, errNotLeader
	}
	// Followers may run an older version. Whatever is in the log has to be valid.
	t, err := c.fsm.table()
	if err == nil {
		_, err = table.Apply(t, cmd)
	}
	if errors.Is(err, errNewer) { // tend is about to hand over to somebody who knows
		return nil, fmt.Errorf("%w that can change the table: %w", errNotLeader, err)
	}
	if errors.Is(err, table.ErrCommand) {
		return nil, err
	}
	data, err := encodeCommand(cmd)
	if err != nil {
		return nil, err
	}
	var response any
	err = c.await(ctx, func() error {
		f := r.Apply(data, c.timing.Call)
		if err := f.Error(); err != nil {
			return err
		}
		response = f.Response()
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNotLeader, err)
	}
	a, ok := response.(applied)
	if !ok {
		return nil, fmt.Errorf("apply to the table: unexpected answer %T", response)
	}
	return a.t, a.err
}

// tend makes one step to bring Raft's servers in line with the table, as the leader in a
// term that catchUp returned, and tells whether there was one to make. hasLog tells whether
// a server has the log up to an index.
func (c *consensus) tend(ctx context.Context, term uint64, hasLog func(id table.NodeID, index uint64) bool) (stepped bool, err error) {
	r := c.running()
	if r == nil {
		return false, errNotLeader
	}
	t, err := c.fsm.table()
	if err != nil {
		return false, errors.Join(err, r.LeadershipTransfer().Error())
	}
	if t == nil {
		return false, nil
	}
	f := r.GetConfiguration()
	if err := f.Error(); err != nil {
		return false, err
	}
	if !leads(r, term) { // else the servers may be newer than the table
		return false, errNotLeader
	}
	vote := t.Reading().Nodes()
	step := nextServer(t.Nodes(), vote[:min(len(vote), voters)], f.Configuration().Servers)
	if step.do == "" {
		return false, nil
	}
	return true, c.changeServer(ctx, r, step, f.Index(), hasLog)
}

// changeServer makes a step from the servers of an index of the log.
func (c *consensus) changeServer(ctx context.Context, r *raft.Raft, step serverStep, index uint64, hasLog func(id table.NodeID, index uint64) bool) error {
	if step.id == c.self && (step.do == removeServer || step.do == demoteServer) {
		// Another one does it, or nobody would lead until the others notice.
		return r.LeadershipTransfer().Error()
	}
	id, addr := raft.ServerID(step.id), raft.ServerAddress(step.id)
	if step.do == promoteServer && !hasLog(step.id, r.CommitIndex()) {
		return fmt.Errorf("node %s cannot vote before it has Raft's log", step.id)
	}
	c.log.Info("change Raft's servers", "do", step.do, "node", step.id)
	return c.await(ctx, func() error {
		switch step.do {
		case addServer:
			// Never as a voter at once: until it has the log it would count in the quorum
			// and confirm nothing.
			return r.AddNonvoter(id, addr, index, c.timing.Stream).Error()
		case promoteServer:
			return r.AddVoter(id, addr, index, c.timing.Stream).Error()
		case removeServer:
			return r.RemoveServer(id, index, c.timing.Stream).Error()
		case demoteServer:
			return r.DemoteVoter(id, index, c.timing.Stream).Error()
		default:
			return fmt.Errorf("change Raft's servers: no step %q", step.do)
		}
	})
}

type serverStep struct {
	do serverChange
	id table.NodeID
}

type serverChange string

const (
	addServer     serverChange = "add"
	promoteServer serverChange = "make a voter"
	demoteServer  serverChange = "make a follower"
	removeServer  serverChange = "remove"
)

// nextServer compares the members, and those of them who shall vote, with Raft's servers and
// returns the most urgent change. Those who are no members go first: they are removed for
// good, so that a quorum may need nobody but them. New voters come before old ones cease to
// be, so that the quorum does not shrink in between.
func nextServer(members, vote []table.NodeID, servers []raft.Server) serverStep {
	has := make(map[table.NodeID]raft.ServerSuffrage)
	for _, s := range servers {
		has[table.NodeID(s.ID)] = s.Suffrage
	}
	for _, id := range members {
		if _, ok := has[id]; !ok {
			return serverStep{addServer, id}
		}
	}
	for _, s := range servers {
		if id := table.NodeID(s.ID); !slices.Contains(members, id) {
			return serverStep{removeServer, id}
		}
	}
	for _, id := range vote {
		if has[id] != raft.Voter {
			return serverStep{promoteServer, id}
		}
	}
	for _, s := range servers {
		if id := table.NodeID(s.ID); s.Suffrage == raft.Voter && !slices.Contains(vote, id) {
			return serverStep{demoteServer, id}
		}
	}
	return serverStep{}
}

// stop hands leadership over, if there is somebody to take it, and stops Raft.
func (c *consensus) stop() {
	c.mu.Lock()
	r, trans, before := c.raft, c.trans, c.stopped
	c.stopped = true
	c.mu.Unlock()
	if before {
		return
	}
	if r == nil {
		c.patient.close()
		if trans != nil {
			_ = trans.Close()
		}
		_ = c.group.Close()
		return
	}
	if r.State() == raft.Leader {
		ctx, cancel := context.WithTimeout(context.Background(), c.timing.Leave)
		c.handOver(ctx, r)
		cancel()
	}
	c.settle()
	down := r.Shutdown()
	// Raft may be waiting for its disk, and for nodes that are gone.
	c.patient.close()
	_ = c.group.Close()
	if err := down.Error(); err != nil {
		c.log.Warn("stop Raft", "err", err)
	}
}

// settle waits until nobody waits for an entry of the log: without a majority until Raft
// gives up leading, and no longer than a call to a peer may take.
func (c *consensus) settle() {
	done := make(chan struct{})
	go func() { c.waiting.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(c.timing.Call):
		c.log.Warn("stop Raft while entries of its log are still on their way")
	}
}

func (c *consensus) handOver(ctx context.Context, r *raft.Raft) {
	f := r.GetConfiguration()
	if f.Error() != nil {
		return
	}
	others := slices.ContainsFunc(f.Configuration().Servers, func(s raft.Server) bool {
		return s.Suffrage == raft.Voter && s.ID != raft.ServerID(c.self)
	})
	if !others {
		return
	}
	done := make(chan error, 1)
	go func() { done <- r.LeadershipTransfer().Error() }()
	select {
	case err := <-done:
		if err != nil {
			c.log.Info("Raft's leadership was not handed over; another leader will be elected", "err", err)
		}
	case <-ctx.Done():
	}
}
