package handoff

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/starling-tsdb/starling/internal/proof"
	"github.com/starling-tsdb/starling/internal/series"
)

// errNotKept says that samples were copied and stored, and are lacking all the same.
var errNotKept = errors.New("samples that were copied are not found in the own store")

// Copied counts what was copied.
type Copied struct {
	// Samples were lacking and are stored.
	Samples int
	// Bytes are those of the chunks that came from other nodes.
	Bytes int64
	Verdict
}

// Verdict says what a window that was copied compares like.
type Verdict string

// The verdicts.
const (
	// Equal windows have the same digests here as on the owners.
	Equal Verdict = "equal"
	// More than the owners have is here: nothing of theirs is lacking.
	More Verdict = "more"
	// Unread windows could not be compared, for damage in the own store.
	Unread Verdict = "unread"
)

// Hold has this node hold, synced, what a window holds for it. It compares digests first, so
// that nothing travels that is here already, and again after the copying, by what the own store
// answers then. Where they still differ, as more is written meanwhile, it looks at each sample
// of those ranges of keys: what one look found lacking and stored must not be lacking in the
// next one.
//
// What it returns beside an error is stored.
func (c *Copier) Hold(ctx context.Context, o Owners, proven *proof.Proof, w proof.Window) (total Copied, err error) {
	defer func() { total.Bytes = c.received.Swap(0) }()
	var before lacking
	for look := range looks {
		if w.Since = max(w.Since, c.opts.Store.Horizon().At()); w.Since >= w.Until {
			break // expired
		}
		ranges, readable, err := c.differing(ctx, o, proven, w, look == 0)
		if err != nil {
			return total, err
		}
		if ranges == 0 {
			total.Verdict = Equal
			return total, c.opts.Store.Sync(ctx)
		}
		if look > 0 && !readable {
			total.Verdict = Unread
			return total, nil
		}
		var found lacking
		if look > 0 {
			found = lacking{}
		}
		n, err := c.copy(ctx, o, proven, w, ranges, found)
		total.Samples += n
		if err != nil {
			return total, err
		}
		if lost := found.and(before); lost > 0 {
			return total, fmt.Errorf("%w: %d from %s on", errNotKept, lost, time.UnixMilli(w.Since).UTC().Format(time.RFC3339))
		}
		if look > 0 && len(found) == 0 {
			break // this node has all that they have, and more
		}
		before = found
	}
	total.Verdict = More
	return total, nil
}

// looks is how often a window is looked at: for copying, for what is lacking after that, and
// for whether that was stored.
const looks = 3

// lacking are samples that the own store lacks, by hashes. A nil one takes no notes.
type lacking map[uint64]struct{}

// mostLacking bounds the memory of it.
const mostLacking = 1 << 20

func (l lacking) add(ls labels.Labels, samples []series.Sample) {
	if l == nil {
		return
	}
	hash := ls.Hash()
	for i := range samples {
		if len(l) < mostLacking {
			l[hash^uint64(samples[i].T)*0x9e3779b97f4a7c15] = struct{}{}
		}
	}
}

// and counts what is in both.
func (l lacking) and(other lacking) (n int) {
	for hash := range l {
		if _, both := other[hash]; both {
			n++
		}
	}
	return n
}

// differing returns the ranges of keys in which this node holds something else of a window than
// the nodes of a proof serve: first by chunks as they are encoded, and by samples where those
// differ. It is not readable if the own store lacks samples for damage; then, and at first where
// it has nothing, nobody is asked.
func (c *Copier) differing(ctx context.Context, o Owners, proven *proof.Proof, w proof.Window, first bool) (ranges uint64, readable bool, err error) {
	ranges = proof.AllRanges
	for _, encoded := range []bool{true, false} {
		own, err := c.sumUp(ctx, o, proven, w, ranges, encoded)
		if errors.Is(err, c.opts.Damaged) {
			return proof.AllRanges, false, nil
		}
		if err != nil {
			return 0, true, err
		}
		holds := func(sums *proof.Sums) bool { return *sums != proof.Sums{} }
		if first && encoded && !slices.ContainsFunc(own, holds) {
			break
		}
		asked := ranges
		ranges = 0
		for i, n := range proven.Nodes {
			if c.isSelf(o, n.Slot) {
				continue
			}
			theirs, err := o.Origins[n.Slot].Sum(ctx, proven, asked, w.Since, w.Until-1, encoded)
			if err != nil {
				return 0, true, c.avoid(ctx, o.From.Slots[n.Slot].Node, err)
			}
			ranges |= own[i].Differing(theirs)
		}
		if ranges == 0 {
			break
		}
	}
	return ranges, true, nil
}

// sumUp sums up what this node holds of what each node of a proof serves, in some ranges of keys.
func (c *Copier) sumUp(ctx context.Context, o Owners, proven *proof.Proof, w proof.Window, ranges uint64, encoded bool) ([]*proof.Sums, error) {
	sums, shares := make([]*proof.Sums, len(proven.Nodes)), make([]*proof.Share, len(proven.Nodes))
	for i, n := range proven.Nodes {
		sums[i], shares[i] = new(proof.Sums), proven.Share(o.From, n.Slot)
	}
	var into []*proof.Sums
	err := Sum(ctx, c.opts.Store, proof.Range{Min: w.Since, Max: w.Until - 1}, Everything(), encoded, func(ls labels.Labels) (uint64, []*proof.Sums) {
		key, owners, wanted := o.Placed(ls)
		into = into[:0]
		if !wanted || ranges>>proof.KeyRange(key)&1 == 0 {
			return key, nil
		}
		for i, share := range shares {
			if share.Serves(owners) {
				into = append(into, sums[i])
			}
		}
		return key, into
	})
	return sums, err
}

func (c *Copier) isSelf(o Owners, slot int) bool { return o.From.Slots[slot].Node == c.opts.Self }
