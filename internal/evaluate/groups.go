package evaluate

import (
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/schema"

	"github.com/starling-tsdb/starling/internal/pushdown"
)

// groups collect values by the labels that the series of a group have in common, or by series
// where nothing aggregates. Not for concurrent use.
type groups struct {
	*run
	values []pushdown.Values
	// index is by pushdown.Fragment.Key.
	index map[string]int

	// names are those of pushdown.Fragment.Names.
	names   []string
	key     []byte
	builder *labels.Builder
}

func newGroups(r *run) *groups {
	return &groups{run: r, index: map[string]int{}, names: r.Fragment.Names(), builder: labels.NewBuilder(labels.EmptyLabels())}
}

// of returns the values of the group of a series, which are new if it is the first of them.
// They are valid until the next call.
func (g *groups) of(ls labels.Labels) (*pushdown.Values, error) {
	f := g.Fragment
	if f.Op == 0 {
		if f.DropName {
			ls = ls.DropReserved(schema.IsMetadataLabel)
		}
		return g.add(ls)
	}
	g.key = f.Key(ls, g.names, g.key)
	if i, known := g.index[string(g.key)]; known {
		return &g.values[i], nil
	}
	g.index[string(g.key)] = len(g.values)
	g.builder.Reset(ls)
	if f.Without {
		g.builder.Del(g.names...)
	} else {
		g.builder.Keep(g.names...)
	}
	return g.add(g.builder.Labels())
}

// add adds values with a copy of labels, which may be those of a set.
func (g *groups) add(ls labels.Labels) (*pushdown.Values, error) {
	if err := g.hold(g.steps); err != nil {
		return nil, err
	}
	g.values = append(g.values, pushdown.NewValues(g.Fragment.Op, ls.Copy(), g.steps))
	return &g.values[len(g.values)-1], nil
}
