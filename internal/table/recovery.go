package table

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// A majority of those who agree on the table can be gone for good. Then the survivors
// continue its history from the newest table they have: in another generation, with
// another group of Raft, whose epochs are above all that the lost ones can have agreed on.
// Why that is safe is in docs/adr/0011-recovery.md.

// generationEpochs is how many epochs a generation has: the epoch says the generation, so
// that whoever compares epochs prefers the newer generation. A table that changed every
// second would use them up in thirty years.
const generationEpochs = 1_000_000_000

// maxGeneration keeps epochs below 2^53, so that JSON and metrics show them exactly.
const maxGeneration = 1<<53/generationEpochs - 1

// maxRecoveryID bounds the ID of a recovery, which names a directory and stands in lines.
const maxRecoveryID = 64

// Recovery is how a generation came about.
type Recovery struct {
	// ID was made for this recovery. Two that were made apart from each other may have one
	// number.
	ID string `json:"id"`
	// Generation is above those of all before.
	Generation uint64 `json:"generation"`
	// From is the epoch of the table that was continued.
	From uint64 `json:"from"`
}

// FirstEpoch is that of the first table of a generation.
func FirstEpoch(generation uint64) uint64 { return generation * generationEpochs }

// Generation is that of an epoch, 0 before the first recovery.
func Generation(epoch uint64) uint64 { return epoch / generationEpochs }

// Recovery returns the one that the table's generation came from; the zero value if there
// was none.
func (t *Table) Recovery() Recovery {
	if len(t.Recoveries) == 0 {
		return Recovery{}
	}
	return t.Recoveries[len(t.Recoveries)-1]
}

// Recover returns the first table of a generation that continues t. Nodes and placement
// stay; the phase of a transition begins anew, so that no report of older generations counts.
func Recover(t *Table, id string, generation uint64) (*Table, error) {
	next := t.clone()
	next.Recoveries = append(slices.Clone(t.Recoveries), Recovery{ID: id, Generation: generation, From: t.Epoch})
	next.Epoch = FirstEpoch(generation)
	if next.Transition != nil {
		next.Transition.Began = next.Epoch
	}
	if err := next.Validate(); err != nil {
		return nil, fmt.Errorf("recover from epoch %d: %w", t.Epoch, err)
	}
	return next, nil
}

// Precedes tells whether next is a later table of the history that t belongs to. If it is of
// a later generation and does not continue t, then t, or a table before it, was agreed on by
// those whom the recovery took for lost.
func (t *Table) Precedes(next *Table) bool {
	if next.ClusterID != t.ClusterID || next.Epoch <= t.Epoch {
		return false
	}
	if Generation(next.Epoch) == Generation(t.Epoch) {
		return slices.Equal(t.Recoveries, next.Recoveries)
	}
	// A generation that has changed nothing yet places as that which it continued.
	past, epoch := t.Recoveries, t.Epoch
	for n := len(past); n > 0 && epoch == FirstEpoch(past[n-1].Generation); n-- {
		epoch, past = past[n-1].From, past[:n-1]
	}
	shared := len(past)
	return len(next.Recoveries) > shared && slices.Equal(past, next.Recoveries[:shared]) && epoch <= next.Recoveries[shared].From
}

// Lineage names the history that the table belongs to, as far as its epochs are its own:
// the cluster, and the generation's recovery if there was one.
func (t *Table) Lineage() string {
	if len(t.Recoveries) == 0 {
		return t.ClusterID
	}
	return t.ClusterID + "/" + t.Recovery().ID
}

func (t *Table) validateRecoveries() error {
	var before Recovery
	for _, r := range t.Recoveries {
		switch {
		case !recoveryID(r.ID):
			return fmt.Errorf("recovery ID %.80q is not made of up to %d letters and digits", r.ID, maxRecoveryID)
		case r.Generation <= before.Generation || r.Generation > maxGeneration:
			return fmt.Errorf("generation %d after %d, the greatest is %d", r.Generation, before.Generation, maxGeneration)
		case r.From == 0 || Generation(r.From) != before.Generation:
			return fmt.Errorf("generation %d goes on from epoch %d, which is not of generation %d", r.Generation, r.From, before.Generation)
		}
		before = r
	}
	if Generation(t.Epoch) != before.Generation {
		return fmt.Errorf("epoch %d is not of generation %d", t.Epoch, before.Generation)
	}
	return nil
}

func recoveryID(id string) bool {
	return id != "" && len(id) <= maxRecoveryID && !strings.ContainsFunc(id, func(r rune) bool { return !alphanumeric(r) })
}

func alphanumeric(r rune) bool {
	return r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z'
}

// errLastEpoch keeps a generation from epochs that a recovery may use.
var errLastEpoch = errors.New("the epochs of this generation are used up")
