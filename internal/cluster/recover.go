package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/starling-tsdb/starling/internal/table"
)

// This file is the way out when a majority of the voters is gone for good: the survivors go
// on from their newest table, in another generation.
//
// The node that an operator asks makes up the first table of the generation and has every
// member that answers vouch for it, itself first. Who vouches has that written down, has
// left its group of Raft for good unless the recovery is given up, adopts no table that the
// first one might not continue, and vouches for no other recovery with that number or a
// smaller one. When all have vouched, that node alone enters the generation; that is
// the moment at which it comes about, and one write of its place. The others follow as any
// node does that hears of a newer table.
//
// A recovery that cannot get all vouches is given up, durably, by the node that began it, and
// the others ask until they know. If that node is lost meanwhile, another recovery
// has a greater number: what the lost one may have entered is no part of that history.

// ErrNotRecoverable marks why a recovery was not begun, or was given up.
var ErrNotRecoverable = errors.New("the cluster cannot be recovered here and now")

// survey is what a node says of itself before a recovery.
type survey struct {
	Table *table.Table `json:"table,omitempty"`
	Place place        `json:"place"`
	// Leader is Raft's as far as the node knows. Voters are those of the newest
	// configuration in its log, which ends with Index; nil if it is in no group, or has none.
	Leader table.NodeID   `json:"leader,omitempty"`
	Voters []table.NodeID `json:"voters,omitempty"`
	Index  uint64         `json:"index,omitempty"`
}

// pledgeRequest asks a node to vouch for a recovery.
type pledgeRequest struct {
	By table.NodeID `json:"by"`
	// First is the first table of the generation.
	First *table.Table `json:"first"`
}

func (c *Cluster) survey() survey {
	s := survey{Table: c.Table(), Place: c.era.now(), Leader: c.consensus().leader()}
	r := c.consensus().running()
	if r == nil {
		return s
	}
	f := r.GetConfiguration()
	if f.Error() != nil {
		return s
	}
	s.Index = f.Index()
	for _, server := range f.Configuration().Servers {
		if server.Suffrage == raft.Voter {
			s.Voters = append(s.Voters, table.NodeID(server.ID))
		}
	}
	return s
}

// pledge has this node vouch for a recovery.
func (c *Cluster) pledge(p pledgeRequest) error {
	if p.First == nil {
		return errors.New("vouch for a recovery: no table")
	}
	if err := p.First.Validate(); err != nil {
		return fmt.Errorf("vouch for a recovery: %w", err)
	}
	return c.era.during(func() error {
		r, own := p.First.Recovery(), c.Table()
		switch {
		case p.First.ClusterID != c.clusterID() || r.ID == "":
			return fmt.Errorf("%w: the recovery is of cluster %s", ErrForeign, p.First.ClusterID)
		case c.era.Apart != nil:
			return c.era.Apart
		case c.era.Pledge != nil && c.era.Pledge.ID == r.ID:
			return nil
		case c.era.Promised >= r.Generation:
			return fmt.Errorf("%w: node %s vouches, or has vouched, for another recovery with number %d, and not for one with number %d: is another one under way? Try again", ErrNotRecoverable, c.id.Node, c.era.Promised, r.Generation)
		case own == nil:
			return fmt.Errorf("%w: node %s has no table", ErrNotRecoverable, c.id.Node)
		case !own.Precedes(p.First):
			return fmt.Errorf("%w: node %s is at epoch %d, the recovery would go on from %d: try it there", ErrNotRecoverable, c.id.Node, own.Epoch, r.From)
		case c.consensus().leading():
			return fmt.Errorf("%w: node %s is Raft's leader", ErrNotRecoverable, c.id.Node)
		}
		next := c.era.place
		next.Promised, next.Pledge = r.Generation, &pledge{ID: r.ID, Generation: r.Generation, By: p.By}
		if err := c.era.save(next); err != nil {
			return err
		}
		c.consensus().stop()
		c.log.Warn("this node vouches for a recovery, and takes no part in Raft until that is done or given up", "recovery", r.ID, "generation", r.Generation, "by", p.By)
		return nil
	})
}

// unpledge has this node vouch no more for a recovery that was given up.
func (c *Cluster) unpledge(id string) error {
	return c.era.during(func() error {
		if c.era.Pledge == nil || c.era.Pledge.ID != id {
			return nil
		}
		next := c.era.place
		next.Pledge = nil
		if err := c.era.save(next); err != nil {
			return err
		}
		c.log.Warn("a recovery was given up: this node takes part in Raft again", "recovery", id)
		return c.takePart()
	})
}

// abide has a node that vouches ask whether the recovery is still wanted, and one that takes no
// part in Raft though it may begin to.
func (c *Cluster) abide(ctx context.Context) error {
	p := c.era.now().Pledge
	if p == nil {
		if c.consensus().running() == nil {
			return c.era.during(c.takePart)
		}
		return nil
	}
	address, known := c.Address(p.By)
	if !known || p.By == c.id.Node {
		return nil
	}
	var s survey
	if err := c.call(ctx, p.By, address, opSurvey, struct{}{}, &s); err != nil {
		if c.quiet.allow("pledge") {
			c.log.Warn("this node vouches for a recovery and hears nothing from the node that began it; if that is lost, too, recover again here",
				"recovery", p.ID, "by", p.By, "err", err)
		}
		return err
	}
	underWay := s.Place.Pledge != nil && s.Place.Pledge.ID == p.ID
	if underWay || s.Place.Entered.ID == p.ID || s.Place.Promised < p.Generation {
		return nil
	}
	// It may have gone on to a later generation than that which this node vouches for.
	if s.Table != nil && slices.ContainsFunc(s.Table.Recoveries, func(r table.Recovery) bool { return r.ID == p.ID }) {
		return nil
	}
	return c.unpledge(p.ID)
}

// RecoveryPlan is what a recovery would do.
type RecoveryPlan struct {
	// Epoch is that of the table that is continued, Next the first one of the new generation.
	Epoch, Next uint64
	// Survivors are the members that answer, this one included, and Gone those that do not.
	Survivors, Gone []table.NodeID
	// Voters are those of Raft's group as far as the survivors know.
	Voters []table.NodeID

	generation uint64
}

// PlanRecovery asks all members and says what a recovery from this node would do. An error
// that wraps [ErrNotRecoverable] says why there can be none.
func (c *Cluster) PlanRecovery(ctx context.Context) (*RecoveryPlan, error) {
	own := c.Table()
	if err := c.Apart(); err != nil {
		return nil, err
	}
	if own == nil || !own.Member(c.id.Node) {
		return nil, fmt.Errorf("%w: node %s is no member by any table it has", ErrNotRecoverable, c.id.Node)
	}
	alive := map[table.NodeID]bool{}
	for _, m := range c.Members() {
		alive[m.ID] = m.State == Alive
	}
	return planRecovery(c.id.Node, own, c.surveys(ctx, own), alive)
}

// surveys asks all members at once.
func (c *Cluster) surveys(ctx context.Context, t *table.Table) map[table.NodeID]survey {
	answers := map[table.NodeID]survey{c.id.Node: c.survey()}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, id := range t.Nodes() {
		address, known := c.Address(id)
		if !known || id == c.id.Node {
			continue
		}
		wg.Go(func() {
			var s survey
			if err := c.call(ctx, id, address, opSurvey, struct{}{}, &s); err != nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			answers[id] = s
		})
	}
	wg.Wait()
	return answers
}

// planRecovery is PlanRecovery without the network: from what the members answered, and whom
// gossip takes for alive.
func planRecovery(self table.NodeID, own *table.Table, answers map[table.NodeID]survey, alive map[table.NodeID]bool) (*RecoveryPlan, error) {
	plan := &RecoveryPlan{Epoch: own.Epoch, Voters: votersOf(own, answers)}
	refuse := func(format string, args ...any) (*RecoveryPlan, error) {
		return nil, fmt.Errorf("%w: %w", ErrNotRecoverable, fmt.Errorf(format, args...))
	}
	for _, id := range slices.Sorted(maps.Keys(answers)) {
		s := answers[id]
		plan.generation = max(plan.generation, s.Place.Promised, s.Place.Entered.Generation, table.Generation(own.Epoch))
		switch p := s.Place.Pledge; {
		case s.Table != nil && s.Table.Epoch > own.Epoch && s.Place.Apart == nil:
			return refuse("node %s has a newer table, of epoch %d, and this one has epoch %d: recover there", id, s.Table.Epoch, own.Epoch)
		case s.Leader != "":
			return refuse("node %s hears a leader of Raft, node %s", id, s.Leader)
		case p != nil && p.By != self && answers[p.By].Place.Pledge != nil && answers[p.By].Place.Pledge.ID == p.ID:
			return refuse("node %s has begun a recovery: wait for its end", p.By)
		}
	}
	there := 0
	for _, id := range plan.Voters {
		if s, answered := answers[id]; answered && !s.Place.fenced() || !answered && alive[id] {
			there++
		}
	}
	if 2*there > len(plan.Voters) {
		return refuse("%d of the %d voters are there, and that is a majority: they elect a leader by themselves", there, len(plan.Voters))
	}
	for _, id := range own.Nodes() {
		s, answered := answers[id]
		switch {
		case answered && s.Table != nil && s.Place.Apart == nil:
			plan.Survivors = append(plan.Survivors, id)
		case !answered && alive[id]:
			return refuse("node %s does not answer, and gossip takes it for alive: stop it if it is lost, or wait", id)
		default:
			plan.Gone = append(plan.Gone, id)
		}
	}
	plan.generation++
	plan.Next = table.FirstEpoch(plan.generation)
	return plan, nil
}

// votersOf returns the voters of the newest generation that anybody knows, as far as its logs
// tell; else those whom the table wants.
func votersOf(t *table.Table, answers map[table.NodeID]survey) []table.NodeID {
	var best survey
	for _, s := range answers {
		newer := s.Place.Entered.Generation > best.Place.Entered.Generation
		same := s.Place.Entered.Generation == best.Place.Entered.Generation
		if s.Voters != nil && (best.Voters == nil || newer || same && s.Index > best.Index) {
			best = s
		}
	}
	if best.Voters != nil {
		return best.Voters
	}
	nodes := t.Reading().Nodes()
	return nodes[:min(len(nodes), voters)]
}

// Recover carries out a plan of PlanRecovery, if all is still as it was then, and returns when
// this node has adopted the first table of the new generation. An error that wraps
// [ErrNotRecoverable] is a refusal: nothing was changed, or it was undone.
func (c *Cluster) Recover(ctx context.Context, epoch uint64, survivors []table.NodeID) error {
	plan, err := c.PlanRecovery(ctx)
	if err != nil {
		return err
	}
	if plan.Epoch != epoch || !slices.Equal(plan.Survivors, survivors) {
		return fmt.Errorf("%w: it is not as it was: now nodes %v answer, at epoch %d; look again", ErrNotRecoverable, plan.Survivors, plan.Epoch)
	}
	id, err := newULID()
	if err != nil {
		return err
	}
	first, err := table.Recover(c.Table(), id, plan.generation)
	if err != nil {
		return err
	}
	c.log.Warn("an operator has the cluster recovered", "recovery", id, "generation", plan.generation, "epoch", epoch, "survivors", plan.Survivors, "gone", plan.Gone)
	if err := c.gather(ctx, first, plan.Survivors); err != nil {
		c.giveUp(id, plan.Survivors)
		return err
	}
	if err := c.found(first, plan.Survivors); err != nil {
		c.giveUp(id, plan.Survivors)
		return err
	}
	if err := c.adopt(first); err != nil {
		return fmt.Errorf("the cluster is recovered, and this node has not adopted epoch %d yet: %w", first.Epoch, err)
	}
	return nil
}

// gather has all survivors vouch, this node first: it must not begin another recovery itself.
func (c *Cluster) gather(ctx context.Context, first *table.Table, survivors []table.NodeID) error {
	p := pledgeRequest{By: c.id.Node, First: first}
	if err := c.pledge(p); err != nil {
		return err
	}
	errs := make([]error, len(survivors))
	var wg sync.WaitGroup
	for i, id := range survivors {
		if id == c.id.Node {
			continue
		}
		address, _ := c.Address(id)
		wg.Go(func() {
			if err := c.call(ctx, id, address, opPledge, p, &struct{}{}); err != nil {
				errs[i] = fmt.Errorf("%w: %w", ErrNotRecoverable, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// found enters the generation that all survivors vouched for: from here on it is there.
func (c *Cluster) found(first *table.Table, survivors []table.NodeID) error {
	var servers []raft.Server
	for i, id := range survivors {
		servers = append(servers, server(id, i < voters))
	}
	return c.era.during(func() error {
		if p := c.era.Pledge; p == nil || p.ID != first.Recovery().ID {
			return fmt.Errorf("%w: this node has come to vouch for another recovery meanwhile", ErrNotRecoverable)
		}
		return c.enter(first, servers)
	})
}

// giveUp ends a recovery that did not come about: for this node durably, and the others, who
// ask it now and then, are told at once.
func (c *Cluster) giveUp(id string, survivors []table.NodeID) {
	if err := c.unpledge(id); err != nil {
		c.log.Error("a recovery is not given up yet; the next start does it", "recovery", id, "err", err)
		return
	}
	var wg sync.WaitGroup
	for _, to := range survivors {
		address, known := c.Address(to)
		if !known || to == c.id.Node {
			continue
		}
		wg.Go(func() {
			if err := c.call(context.Background(), to, address, opRelease, id, &struct{}{}); err != nil {
				c.log.Debug("a node that vouches for a recovery was not told that it is given up; it asks", "node", to, "err", err)
			}
		})
	}
	wg.Wait()
}
