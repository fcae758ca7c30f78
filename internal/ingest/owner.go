package ingest

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/starling-tsdb/starling/internal/proof"
	"github.com/starling-tsdb/starling/internal/series"
	"github.com/starling-tsdb/starling/internal/table"
)

// maxRunningBytes bounds, by estimate, the batches that are being appended: where the disk
// hangs, they must not pile up.
const maxRunningBytes = 512 << 20

// ErrNoTable means that the node is not yet part of a formed cluster.
var ErrNoTable = errors.New("this node is not yet part of a cluster")

// errForgetful is what an owner answers that may have promised to refuse it.
var errForgetful = errors.New("this node's data directory is an old copy: it confirms nothing at an epoch that it may have left before")

// Store confirms what lies on stable storage.
type Store interface {
	// Append stores a batch. An error means that nothing of it is confirmed; without
	// one, everything but the refusals is.
	Append(ctx context.Context, b *series.Batch) (series.Outcome, error)
}

// Gaps are the notes of what peers miss.
type Gaps interface {
	// Offered returns the gaps that a confirmation may carry, for what was stored before
	// the call.
	Offered() []proof.Gap
	// Note returns when a gap for the peer since that time, in milliseconds, is on disk.
	Note(ctx context.Context, peer table.NodeID, since int64) error
	// NoteLate is Note for a peer that may yet confirm what it is noted for. The ticket is
	// for Withdraw; 0 says that the note cannot be withdrawn.
	NoteLate(ctx context.Context, peer table.NodeID, since int64) (ticket uint64, err error)
	Withdraw(peer table.NodeID, ticket uint64)
}

// Owner stores what this node owns, whoever coordinates the write. It is the only way to
// the store, for this node's own coordinator as for peers, and it cannot forward.
type Owner struct {
	store Store
	gaps  Gaps

	mu sync.Mutex
	// refused is the epoch up to which everything is refused.
	refused uint64
	// ended is signalled, under mu, when the last append of an epoch ends.
	ended *sync.Cond
	now   *table.Table
	// running counts the appends under way, by epoch.
	running map[uint64]int
	// bytes is the size of their batches.
	bytes int64
}

// NewOwner returns an owner that refuses everything until it adopts a table.
func NewOwner(store Store, gaps Gaps) *Owner {
	o := &Owner{store: store, gaps: gaps, running: map[uint64]int{}}
	o.ended = sync.NewCond(&o.mu)
	return o
}

// Adopt refuses appends of older epochs from now on, and returns when those that are
// under way have ended: then the node may report the new epoch.
func (o *Owner) Adopt(t *table.Table) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.now == nil || t.Epoch > o.now.Epoch {
		o.now = t
	}
	for o.olderRunning(t.Epoch) {
		o.ended.Wait()
	}
}

// RefuseUntil has the owner confirm and note nothing at an epoch up to the given one: it may
// have forgotten that it had adopted a later one, and with that promised to refuse.
func (o *Owner) RefuseUntil(epoch uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.refused = epoch
}

func (o *Owner) olderRunning(epoch uint64) bool {
	for e := range o.running {
		if e < epoch {
			return true
		}
	}
	return false
}

// Append stores a batch that was planned by the given epoch. Another epoch than the
// node's own is a *table.MismatchError.
func (o *Owner) Append(ctx context.Context, epoch uint64, b *series.Batch) (proof.Confirmation, error) {
	size := b.Bytes()
	if err := o.begin(epoch, size); err != nil {
		return proof.Confirmation{}, err
	}
	defer o.end(epoch, size)
	outcome, err := o.store.Append(ctx, b)
	if err != nil {
		return proof.Confirmation{}, err
	}
	// After the batch is stored: a hand-off that begins from now on finds it.
	return proof.Confirmation{Outcome: outcome, Gaps: o.gaps.Offered()}, nil
}

// Note notes durably that a peer may lack samples since a time, in milliseconds, of those
// that this node confirmed. Another epoch than the node's own is a *table.MismatchError.
func (o *Owner) Note(ctx context.Context, epoch uint64, peer table.NodeID, since int64) error {
	return o.noting(epoch, peer, func() error { return o.gaps.Note(ctx, peer, since) })
}

// NoteLate is Note for a peer that may yet confirm what it is noted for. The ticket is for
// Withdraw; 0 says that the note cannot be withdrawn.
func (o *Owner) NoteLate(ctx context.Context, epoch uint64, peer table.NodeID, since int64) (ticket uint64, err error) {
	err = o.noting(epoch, peer, func() (err error) {
		ticket, err = o.gaps.NoteLate(ctx, peer, since)
		return err
	})
	return ticket, err
}

// Withdraw takes back a late note: the peer has confirmed what it was for.
func (o *Owner) Withdraw(peer table.NodeID, ticket uint64) { o.gaps.Withdraw(peer, ticket) }

func (o *Owner) noting(epoch uint64, peer table.NodeID, note func() error) error {
	if err := o.begin(epoch, 0); err != nil {
		return err
	}
	defer o.end(epoch, 0)
	if !o.table().Member(peer) {
		return fmt.Errorf("node %s, which is said to miss samples, is no member at epoch %d", peer, epoch)
	}
	return note()
}

func (o *Owner) table() *table.Table {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.now
}

func (o *Owner) begin(epoch uint64, size int64) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.now == nil || o.now.Epoch != epoch {
		return &table.MismatchError{Have: o.now, Want: epoch}
	}
	if epoch <= o.refused {
		return errForgetful
	}
	if o.bytes > 0 && o.bytes+size > maxRunningBytes {
		return fmt.Errorf("%d bytes of samples wait for the store already", o.bytes)
	}
	o.running[epoch]++
	o.bytes += size
	return nil
}

func (o *Owner) end(epoch uint64, size int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.bytes -= size
	o.running[epoch]--
	if o.running[epoch] == 0 {
		delete(o.running, epoch)
		o.ended.Broadcast()
	}
}
