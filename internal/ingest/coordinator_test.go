package ingest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/starling-tsdb/starling/internal/proof"
	"github.com/starling-tsdb/starling/internal/series"
	"github.com/starling-tsdb/starling/internal/table"
)

// node is an owner whose answers a test chooses.
type node struct {
	owner    *Owner
	mu       sync.Mutex
	delay    time.Duration
	err      error
	refusals []series.Refusal
	stored   []*series.Batch
	gaps     []proof.Gap
	asked    int // for notes
	noteErr  error
	hangs    bool // when it is asked for a note
}

func (n *node) Offered() []proof.Gap {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.gaps)
}

// Note implements Gaps.
func (n *node) Note(ctx context.Context, peer table.NodeID, since int64) error {
	if n.hangs {
		<-ctx.Done()
		return ctx.Err()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.asked++
	if n.noteErr != nil {
		return n.noteErr
	}
	n.gaps = append(n.gaps, proof.Gap{Peer: peer, Since: since})
	return nil
}

// NoteLate implements Gaps.
func (n *node) NoteLate(ctx context.Context, peer table.NodeID, since int64) (ticket uint64, err error) {
	return 0, n.Note(ctx, peer, since)
}

// Withdraw implements Gaps.
func (*node) Withdraw(table.NodeID, uint64) {}

func (n *node) store(ctx context.Context, b *series.Batch) (series.Outcome, error) {
	select {
	case <-time.After(n.delay):
	case <-ctx.Done():
		return series.Outcome{}, ctx.Err()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.err != nil {
		return series.Outcome{}, n.err
	}
	n.stored = append(n.stored, b)
	return series.Outcome{Refusals: n.refusals}, nil
}

type storeFunc func(context.Context, *series.Batch) (series.Outcome, error)

func (f storeFunc) Append(ctx context.Context, b *series.Batch) (series.Outcome, error) {
	return f(ctx, b)
}

// replica reaches the owner of a node directly.
type replica struct{ owner *Owner }

func (r replica) Append(ctx context.Context, t *table.Table, b *series.Batch) (proof.Confirmation, error) {
	return r.owner.Append(ctx, t.Epoch, b)
}

func (r replica) Note(ctx context.Context, t *table.Table, peer table.NodeID, since int64) error {
	return r.owner.Note(ctx, t.Epoch, peer, since)
}

func (r replica) NoteLate(ctx context.Context, t *table.Table, peer table.NodeID, since int64) (ticket uint64, err error) {
	return r.owner.NoteLate(ctx, t.Epoch, peer, since)
}

func (r replica) Withdraw(_ context.Context, _ *table.Table, peer table.NodeID, ticket uint64) error {
	r.owner.Withdraw(peer, ticket)
	return nil
}

// panicking is an owner whose way panics.
type panicking struct{ replica }

func (panicking) Append(context.Context, *table.Table, *series.Batch) (proof.Confirmation, error) {
	panic("corrupt")
}

// modulo places a series on the slots after its number of labels: enough for tests that
// need parts of different content.
type modulo struct{ slots, copies int }

func (m modulo) SeriesOwners(s *series.Series, dst []int) []int {
	dst = dst[:0]
	start := len(s.Labels.Get("n"))
	for i := range m.copies {
		dst = append(dst, (start+i)%m.slots)
	}
	return dst
}

func (m modulo) FamilyOwners(family string, dst []int) []int {
	dst = dst[:0]
	for i := range m.copies {
		dst = append(dst, (len(family)+i)%m.slots)
	}
	return dst
}

type cluster struct {
	nodes map[table.NodeID]*node
	table *table.Table
	*Coordinator
}

func newCluster(t testing.TB, size int) *cluster {
	t.Helper()
	c := &cluster{nodes: map[table.NodeID]*node{}, table: &table.Table{
		ClusterID: "c", Epoch: 1, KeyVersion: table.KeyVersion, Current: table.Assignment{ReplicationFactor: 3},
	}}
	for i := range size {
		id := table.NodeID(fmt.Sprintf("node-%d", i))
		n := &node{}
		n.owner = NewOwner(storeFunc(n.store), n)
		c.nodes[id] = n
		c.table.Current.Slots = append(c.table.Current.Slots, table.Slot{Node: id})
	}
	c.adopt(c.table)
	c.Coordinator = New(Options{
		Table: func() (*table.Table, []Placement) {
			return c.table, []Placement{modulo{slots: size, copies: c.table.Current.Copies()}}
		},
		Replica: func(id table.NodeID) Replica { return replica{c.nodes[id].owner} },
		Timeout: 10 * time.Second,
		Grace:   50 * time.Millisecond,
		Logger:  slog.New(slog.DiscardHandler),
	})
	t.Cleanup(c.Close)
	return c
}

func (c *cluster) adopt(t *table.Table) {
	c.table = t
	for _, n := range c.nodes {
		n.owner.Adopt(t)
	}
}

func batch(names ...string) *series.Batch {
	b := &series.Batch{}
	for _, n := range names {
		b.Series = append(b.Series, series.Series{
			Labels:  labels.FromStrings("__name__", "up", "n", n),
			Samples: []series.Sample{{T: 1000, V: 1}, {T: 2000, V: 2}},
		})
	}
	return b
}

func TestWriteWaitsForAllOwnersWhenTheyAreWell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		c.nodes["node-2"].delay = 30 * time.Millisecond
		start := time.Now()
		res, err := c.Write(t.Context(), batch("a"))
		if err != nil || res.Written.Samples != 2 {
			t.Fatalf("Write = %+v, %v", res, err)
		}
		if took := time.Since(start); took != 30*time.Millisecond {
			t.Errorf("answered after %s, want 30ms: within the grace all copies are waited for", took)
		}
	})
}

func TestWriteAnswersAtQuorumAfterGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		slow := c.nodes["node-2"]
		slow.delay = 5 * time.Second
		start := time.Now()
		if _, err := c.Write(t.Context(), batch("a")); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took != 50*time.Millisecond {
			t.Errorf("answered after %s, want the grace of 50ms", took)
		}
		time.Sleep(5 * time.Second)
		slow.mu.Lock()
		defer slow.mu.Unlock()
		if len(slow.stored) != 1 {
			t.Error("the straggler lost its copy when the client was answered")
		}
	})
}

// Where a quorum takes long, the remaining owner is given time in proportion.
func TestGraceGrowsWithTheTimeOfTheQuorum(t *testing.T) {
	for _, tc := range []struct{ quorum, last, want time.Duration }{
		{10 * time.Millisecond, 55 * time.Millisecond, 55 * time.Millisecond},
		{10 * time.Millisecond, 200 * time.Millisecond, 60 * time.Millisecond},
		{100 * time.Millisecond, 490 * time.Millisecond, 490 * time.Millisecond},
		{100 * time.Millisecond, 600 * time.Millisecond, 500 * time.Millisecond},
		{time.Second, 4 * time.Second, 3 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t, 3)
			for i, delay := range []time.Duration{tc.quorum, tc.quorum, tc.last} {
				c.nodes[table.NodeID(fmt.Sprint("node-", i))].delay = delay
			}
			start := time.Now()
			if _, err := c.Write(t.Context(), batch("a")); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(start); took != tc.want {
				t.Errorf("quorum after %s, the last owner after %s: answered after %s, want %s", tc.quorum, tc.last, took, tc.want)
			}
			noted := c.nodes["node-0"].asked > 0
			if late := tc.last > tc.want; noted != late {
				t.Errorf("quorum after %s, the last owner after %s: noted is %v", tc.quorum, tc.last, noted)
			}
			time.Sleep(tc.last)
		})
	}
}

func TestWriteIsShortWithTwoOwnersDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		c.nodes["node-1"].err = errors.New("disk on fire")
		c.nodes["node-2"].delay = time.Hour
		_, err := c.Write(t.Context(), batch("a", "bb"))
		var short *ShortError
		if !errors.As(err, &short) || short.Samples != 4 || short.Total != 4 {
			t.Fatalf("Write: %v, want 4 of 4 samples short", err)
		}
		if want := "node node-1: disk on fire"; len(short.Causes) != 2 || short.Causes[0] != want {
			t.Errorf("causes %q, want %q first", short.Causes, want)
		}
	})
}

// With five nodes and three copies, each series has its own owners.
func TestWriteCountsPerSeries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 5)
		c.nodes["node-1"].err = errors.New("down")
		c.nodes["node-2"].err = errors.New("down")
		_, err := c.Write(t.Context(), batch("", "1", "22", "333", "4444"))
		// Owners by slot: 012, 123, 234, 340, 401. The first two have two owners down.
		var short *ShortError
		if !errors.As(err, &short) || short.Samples != 4 || short.Total != 10 {
			t.Fatalf("Write: %v, want 4 of 10 samples short", err)
		}
		stored := c.nodes["node-0"].stored[0]
		if len(stored.Series) != 3 {
			t.Errorf("node-0 got %d series, want 3", len(stored.Series))
		}
	})
}

func TestWriteRefusesByReadQuorum(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 5)
		invalid := series.Refusal{Series: 0, Item: 1, Reason: series.Invalid, Message: "too old sample"}
		// Slots 2, 3, 4 own "22"; on node-2 it is the third series of its part, on node-3 the second.
		onTwo, onThree := invalid, invalid
		onTwo.Series, onThree.Series = 2, 1
		c.nodes["node-2"].refusals = []series.Refusal{onTwo}
		res, err := c.Write(t.Context(), batch("", "1", "22", "333", "4444"))
		if err != nil || len(res.Refused) != 0 || res.Written.Samples != 10 {
			t.Fatalf("one owner refuses: %+v, %v; want all 10 written", res, err)
		}
		c.nodes["node-3"].refusals = []series.Refusal{onThree}
		res, err = c.Write(t.Context(), batch("", "1", "22", "333", "4444"))
		if err != nil || res.Written.Samples != 9 {
			t.Fatalf("two owners refuse: %+v, %v; want 9 written", res, err)
		}
		if len(res.Refused) != 1 || res.Refused[0].Series != 2 || res.Refused[0].Item != 1 {
			t.Errorf("refused %+v, want item 1 of series 2", res.Refused)
		}
	})
}

func TestWritePlansAnewWhenTheTableChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		next := *c.table
		next.Epoch++
		for _, n := range c.nodes {
			n.owner.Adopt(&next)
		}
		old := c.table
		calls := 0
		c.opts.Table = func() (*table.Table, []Placement) {
			calls++
			if calls > 1 {
				return &next, []Placement{modulo{3, 3}}
			}
			return old, []Placement{modulo{3, 3}}
		}
		if _, err := c.Write(t.Context(), batch("a")); err != nil || calls < 2 {
			t.Fatalf("Write: %v after the table was read %d times, want success with the newer one", err, calls)
		}
	})
}

func TestOwnerAdoptsAfterOlderAppendsEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1)
		n := c.nodes["node-0"]
		n.delay = time.Second
		go func() {
			if _, err := n.owner.Append(t.Context(), 1, batch("a")); err != nil {
				t.Error(err)
			}
		}()
		synctest.Wait()
		start := time.Now()
		next := *c.table
		next.Epoch = 2
		n.owner.Adopt(&next)
		if took := time.Since(start); took != n.delay {
			t.Errorf("epoch 2 was adopted after %s, want %s: when the append of epoch 1 had ended", took, n.delay)
		}
		var mismatch *table.MismatchError
		if _, err := n.owner.Append(t.Context(), 1, batch("a")); !errors.As(err, &mismatch) {
			t.Errorf("append of epoch 1 at epoch 2: %v, want a mismatch", err)
		}
	})
}

func TestPanicOfAnOwnerIsItsFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		healthy := c.opts.Replica
		c.opts.Replica = func(id table.NodeID) Replica {
			if id == "node-1" {
				return panicking{}
			}
			return healthy(id)
		}
		if res, err := c.Write(t.Context(), batch("a")); err != nil || res.Written.Samples != 2 {
			t.Errorf("Write = %+v, %v", res, err)
		}
	})
}

// While this node adopts a table, the local owner refuses plans by the older one. The write
// waits for the newer instead of giving up.
func TestWriteWaitsForTheTable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1)
		old, next := c.table, *c.table
		next.Epoch++
		c.nodes["node-0"].owner.Adopt(&next)
		published := time.Now().Add(2 * time.Second)
		c.opts.Table = func() (*table.Table, []Placement) {
			if time.Now().Before(published) {
				return old, []Placement{modulo{1, 1}}
			}
			return &next, []Placement{modulo{1, 1}}
		}
		if _, err := c.Write(t.Context(), batch("a")); err != nil {
			t.Error(err)
		}
	})
}

func TestOwnerBoundsWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1)
		n := c.nodes["node-0"]
		n.delay = time.Hour
		large := &series.Batch{Series: []series.Series{{
			Labels: labels.FromStrings("__name__", "m"), Samples: make([]series.Sample, maxRunningBytes/100),
		}}}
		for range 3 {
			go func() { _, _ = n.owner.Append(t.Context(), 1, large) }()
		}
		synctest.Wait()
		if _, err := n.owner.Append(t.Context(), 1, large); err == nil {
			t.Error("batches pile up without a bound")
		}
		time.Sleep(2 * time.Hour)
		n.owner.mu.Lock()
		defer n.owner.mu.Unlock()
		if n.owner.bytes != 0 {
			t.Errorf("%d bytes are counted when nothing runs", n.owner.bytes)
		}
	})
}

func TestMetadataAloneNeedsNoQuorum(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 5)
		for _, n := range c.nodes {
			n.err = errors.New("down")
		}
		if _, err := c.Write(t.Context(), &series.Batch{Metadata: []series.Metadata{{Family: "up"}}}); err != nil {
			t.Fatal(err)
		}
	})
}
