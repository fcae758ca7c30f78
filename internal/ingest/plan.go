package ingest

import (
	"github.com/starling-tsdb/starling/internal/series"
	"github.com/starling-tsdb/starling/internal/table"
)

// Placement tells which slots hold the copies of a series under one table.
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
}

func (p *part) at(i int) int {
	if p.index == nil {
		return i
	}
	return p.index[i]
}

// split cuts a batch into one part per owner. Where every owning node owns everything,
// all parts share the batch.
func split(b *series.Batch, t *table.Table, placement Placement) []*part {
	parts := make([]*part, 0, t.Owners())
	if t.Copies() == t.Owners() {
		for _, s := range t.Slots {
			if s.Owns() {
				parts = append(parts, &part{node: s.Node, batch: b})
			}
		}
		return parts
	}
	bySlot := make([]*part, len(t.Slots))
	slot := func(i int) *part {
		if bySlot[i] == nil {
			bySlot[i] = &part{node: t.Slots[i].Node, batch: &series.Batch{}, index: []int{}}
		}
		return bySlot[i]
	}
	owners := make([]int, 0, t.Copies())
	for i := range b.Series {
		owners = placement.SeriesOwners(&b.Series[i], owners)
		for _, o := range owners {
			p := slot(o)
			p.batch.Series = append(p.batch.Series, b.Series[i])
			p.index = append(p.index, i)
		}
	}
	for _, m := range b.Metadata {
		owners = placement.FamilyOwners(m.Family, owners)
		for _, o := range owners {
			p := slot(o)
			p.batch.Metadata = append(p.batch.Metadata, m)
		}
	}
	for _, p := range bySlot {
		if p != nil {
			parts = append(parts, p)
		}
	}
	return parts
}
