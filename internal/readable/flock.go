package readable

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/starling-tsdb/starling/internal/api"
)

// Flock is what one node says of the cluster, with what follows from it in words.
type Flock struct {
	*api.ClusterStatus
	Names
}

// FlockOf names the nodes of a state.
func FlockOf(s *api.ClusterStatus) Flock {
	ids, given := make([]string, len(s.Nodes)), make([]string, len(s.Nodes))
	for i, n := range s.Nodes {
		ids[i], given[i] = n.ID, n.Name
	}
	return Flock{s, NamesOf(ids, given)}
}

// Copies is how many there are of each series now.
func (f Flock) Copies() int {
	owners := 0
	for _, slot := range f.Slots {
		if slot.Node != "" {
			owners++
		}
	}
	return min(f.ReplicationFactor, owners)
}

// Zone is where a node is, and where it is to be counted when the transition has ended.
func (f Flock) Zone(n api.NodeStatus) string {
	if f.Transition != nil {
		for _, s := range f.Transition.Slots {
			if s.Node == n.ID && s.Zone != n.Zone {
				return Dash(n.Zone) + " -> " + Dash(s.Zone)
			}
		}
	}
	return Dash(n.Zone)
}

// Standing is what gossip says of a node, and which way it goes.
func (f Flock) Standing(n api.NodeStatus) string {
	in := func(slots []api.SlotStatus) (owns, removed bool) {
		i := slices.IndexFunc(slots, func(s api.SlotStatus) bool { return s.Node == n.ID })
		return i >= 0, i >= 0 && slots[i].Removed
	}
	owns, removed := in(f.Slots)
	will := owns
	if f.Transition != nil {
		will, _ = in(f.Transition.Slots)
	}
	switch {
	case removed:
		return n.State + ", given up"
	case will && !owns:
		return n.State + ", joining"
	case owns && !will:
		return n.State + ", leaving"
	case !owns:
		return n.State + ", owns nothing"
	}
	return n.State
}

// Awaiting says whom the next phase of the transition waits for, and why.
func (f Flock) Awaiting() string {
	list := make([]string, len(f.Transition.Awaited))
	for i, id := range f.Transition.Awaited {
		why := "to copy"
		if j := slices.IndexFunc(f.Nodes, func(n api.NodeStatus) bool { return n.ID == id }); j >= 0 {
			switch n := f.Nodes[j]; {
			case n.State != "alive":
				why = "it is " + n.State
			case n.Epoch < f.Transition.Began:
				why = fmt.Sprintf("it is at epoch %d", n.Epoch)
			}
		}
		list[i] = fmt.Sprintf("%s (%s)", f.Of(id), why)
	}
	return strings.Join(list, ", ")
}

// Since says since when the transition has been in its phase.
func (f Flock) Since(now time.Time) string {
	since := f.Transition.Since
	if since == nil {
		return "for longer than all nodes have run"
	}
	return fmt.Sprintf("since %s, for %s", since.UTC().Format(Clock), Span(now.Sub(*since)))
}

// Figures are what a copying has moved and has yet to move, how fast, and up to which time: as much
// of that as is known.
func Figures(c api.CopyStatus) []string {
	figures := []string{Amount(c.Samples, c.Bytes)}
	if c.Ready {
		return figures
	}
	if c.BytesLeft > 0 {
		figures[0] += ", about " + Size(float64(c.BytesLeft)) + " to come"
	}
	if c.BytesPerSecond > 0 {
		figures = append(figures, Size(c.BytesPerSecond)+"/s")
	}
	if c.Until != nil {
		figures = append(figures, "all before "+c.Until.UTC().Format(Minute))
	}
	return figures
}

// Left says how long a copying that has begun will take, and why that is not known.
func Left(c api.CopyStatus, paused bool) string {
	switch {
	case paused:
		return "paused"
	case c.Done == 1:
		return "closing gaps"
	case c.SecondsLeft > 0:
		return "about " + Span(Seconds(c.SecondsLeft)) + " left"
	}
	return "time left unknown"
}

// Dash stands for what is empty.
func Dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
