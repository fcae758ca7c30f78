package ingest

import (
	"github.com/starling-tsdb/starling/internal/series"
	"github.com/starling-tsdb/starling/internal/table"
)

// Placement tells which slots of one assignment hold the copies of a series.
type Placement interface {
	// SeriesOwners appends the slots of all copies to dst[:0].
	SeriesOwners(s *series.Series, dst []int) []int
	// FamilyOwners does the same for the metadata of a metric family.
	FamilyOwners(family string, dst []int) []int
}

// part is what one owner gets of a batch.
type part struct {
	node  table.NodeID
	batch *series.Batch
	// index maps the part's series to the whole batch's; nil if they are the same.
	index []int
	// owned tells by which assignments the node owns each of the part's series, a bit for
	// each assignment; nil if there is but one.
	owned []uint8
}

func (p *part) at(i int) int {
	if p.index == nil {
		return i
	}
	return p.index[i]
}

// in tells whether the node owns the part's i-th series by an assignment.
func (p *part) in(assignment, i int) bool {
	return p.owned == nil || p.owned[i]&(1<<assignment) != 0
}

// add makes a series of the whole batch part of this one, by an assignment. Series come in
// order.
func (p *part) add(i int, s *series.Series, assignment int, several bool) {
	last := len(p.index) - 1
	if last < 0 || p.index[last] != i {
		p.batch.Series = append(p.batch.Series, *s)
		p.index = append(p.index, i)
		last++
		if several {
			p.owned = append(p.owned, 0)
		}
	}
	if several {
		p.owned[last] |= 1 << assignment
	}
}

// addMetadata adds the metadata of a family. The assignments come one after the other, so that
// it is added twice in a row, if at all.
func (p *part) addMetadata(m series.Metadata) {
	if n := len(p.batch.Metadata); n > 0 && p.batch.Metadata[n-1] == m {
		return
	}
	p.batch.Metadata = append(p.batch.Metadata, m)
}

// plan is a batch cut into one part per owner.
type plan struct {
	parts []*part
	// gone are the parts of nodes that are removed: nobody confirms them.
	gone []*part
}

// split cuts a batch by the assignments of a table, each with its placement. Where every
// node owns everything, all parts share the batch.
func split(b *series.Batch, assignments []*table.Assignment, placements []Placement) plan {
	if a := assignments[0]; len(assignments) == 1 && a.Copies() == a.Owners() && a.Removed() == 0 {
		var whole plan
		for _, id := range a.Nodes() {
			whole.parts = append(whole.parts, &part{node: id, batch: b})
		}
		return whole
	}
	c := newCut(assignments)
	var owners []int
	for i := range b.Series {
		for a, placement := range placements {
			owners = placement.SeriesOwners(&b.Series[i], owners)
			for _, o := range owners {
				c.bySlot[a][o].add(i, &b.Series[i], a, len(assignments) > 1)
			}
		}
	}
	for _, m := range b.Metadata {
		for a, placement := range placements {
			owners = placement.FamilyOwners(m.Family, owners)
			for _, o := range owners {
				c.bySlot[a][o].addMetadata(m)
			}
		}
	}
	return c.plan()
}

// cut holds the parts while a batch is being cut.
type cut struct {
	parts   []*part
	removed map[*part]bool
	bySlot  [][]*part // by assignment
}

// seat is a node in an assignment. One that was removed and returns owns nothing by the current
// assignment, and like others by the target.
type seat struct {
	node    table.NodeID
	removed bool
}

func newCut(assignments []*table.Assignment) *cut {
	c := &cut{removed: map[*part]bool{}}
	bySeat := map[seat]*part{}
	for _, a := range assignments {
		bySlot := make([]*part, len(a.Slots))
		for slot, s := range a.Slots {
			if s.Node == "" {
				continue
			}
			at := seat{s.Node, s.Removed}
			p := bySeat[at]
			if p == nil {
				p = &part{node: s.Node, batch: &series.Batch{}, index: []int{}}
				bySeat[at], c.removed[p] = p, s.Removed
				c.parts = append(c.parts, p)
			}
			bySlot[slot] = p
		}
		c.bySlot = append(c.bySlot, bySlot)
	}
	return c
}

// plan leaves out who owns nothing of the batch.
func (c *cut) plan() plan {
	var out plan
	for _, p := range c.parts {
		switch {
		case len(p.index) == 0 && len(p.batch.Metadata) == 0:
		case c.removed[p]:
			out.gone = append(out.gone, p)
		default:
			out.parts = append(out.parts, p)
		}
	}
	return out
}
