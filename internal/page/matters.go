package page

import (
	"fmt"
	"slices"
	"strings"

	"github.com/starling-tsdb/starling/internal/api"
	"github.com/starling-tsdb/starling/internal/readable"
)

// matters are what an operator should know, the gravest first.
func (f flocks) matters() []matter {
	var list []matter
	say := func(tone, format string, args ...any) {
		list = append(list, matter{tone, fmt.Sprintf(format, args...)})
	}
	if f.Epoch == 0 {
		say(note, "%s belongs to no cluster yet: its log says what it waits for.", f.Of(f.ClusterStatus.Self))
		return list
	}
	if f.Apart != "" {
		say(grave, "%s", f.Apart)
	}
	away := 0
	for _, n := range f.Nodes {
		if f.owns(n.ID) && n.State != alive {
			away++
		}
		f.nodeMatters(n, say)
	}
	if short := f.Copies() - f.WriteQuorum + 1; away >= short {
		say(grave, "%d owners are away: series that have %d or more of their %d copies there take no writes.", away, short, f.Copies())
	}
	if away >= f.WriteQuorum {
		say(grave, "%d owners are away: queries of series that have %d or more of their copies there answer 503.", away, f.WriteQuorum)
	}
	for peer, by := range f.noters() {
		say(alarm, "%s lacks samples, which %s will hand over.", f.Of(peer), strings.Join(by, ", "))
	}
	if f.Crowded > 0 {
		say(alarm, "%s of the series have copies in fewer zones than they could: a zone has fewer than half as many nodes as the mean.", readable.Percent(f.Crowded))
	}
	if t := f.Transition; t != nil {
		say(note, "Copies are on the way to other nodes: the transition is %s.", t.Phase)
	}
	if f.Paused {
		say(note, "Transitions are paused: nothing is copied before `starling cluster resume`.")
	}
	if f.Generation > 0 {
		say(note, "The cluster was recovered from the loss of a majority: it is in generation %d.", f.Generation)
	}
	if versions := f.versions(); len(versions) > 1 {
		say(note, "Nodes run different versions: %s.", strings.Join(versions, ", "))
	}
	slices.SortStableFunc(list, func(a, b matter) int { return slices.Index(tones, b.Tone) - slices.Index(tones, a.Tone) })
	return list
}

// nodeMatters are those of one node.
func (f flocks) nodeMatters(n api.NodeStatus, say func(tone, format string, args ...any)) {
	name := f.Of(n.ID)
	switch {
	case n.State != alive && f.owns(n.ID):
		say(alarm, "%s is %s, and keeps its slot.", name, n.State)
		return
	case n.State != alive:
		return
	case f.silent(n):
		say(alarm, "%s is unreachable: it does not answer this node.", name)
		return
	case n.Unready != "":
		say(alarm, "%s is not ready: %s.", name, n.Unready)
	}
	if n.Epoch != f.Epoch {
		say(alarm, "%s is at epoch %d.", name, n.Epoch)
	}
	if n.Load != nil {
		if tone := diskTone(n.Load); tone != well {
			say(tone, "The disk of %s is almost full: %s are free.", name, readable.Size(float64(n.Load.DiskFree)))
		}
	}
	if n.Damaged > 0 {
		say(alarm, "%s found damage, and makes it good from other owners.", name)
	}
}

// owns tells whether a node has a slot now and is not given up.
func (f flocks) owns(id string) bool {
	return slices.ContainsFunc(f.Slots, func(s api.SlotStatus) bool { return s.Node == id && !s.Removed })
}

// noters yields whom samples are missing to, with the names of those who note that.
func (f flocks) noters() func(yield func(peer string, by []string) bool) {
	return func(yield func(string, []string) bool) {
		for _, peer := range f.Nodes {
			var by []string
			for _, n := range f.Nodes {
				if slices.ContainsFunc(n.Gaps, func(g api.GapStatus) bool { return g.Peer == peer.ID }) {
					by = append(by, f.Of(n.ID))
				}
			}
			if len(by) > 0 && !yield(peer.ID, by) {
				return
			}
		}
	}
}

// versions are those that alive nodes run.
func (f flocks) versions() (list []string) {
	for _, n := range f.Nodes {
		if n.State == alive && n.Version != "" && !slices.Contains(list, n.Version) {
			list = append(list, n.Version)
		}
	}
	return list
}
