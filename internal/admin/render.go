package admin

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/starling-tsdb/starling/internal/api"
	"github.com/starling-tsdb/starling/internal/readable"
)

// Repair renders who compares what it holds.
func Repair(r api.RepairResult) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d nodes compare what they hold; starling cluster status shows how much is left\n", r.Nodes)
	for _, id := range slices.Sorted(maps.Keys(r.Unreached)) {
		fmt.Fprintf(&b, "%s does not: %s\n", id, r.Unreached[id])
	}
	return b.String()
}

// Keyring renders which nodes have which keys.
func Keyring(s *api.KeyringStatus) string {
	var b strings.Builder
	columns(&b, func(w *tabwriter.Writer) {
		fmt.Fprintln(w, "KEY\tHELD BY\tUSED BY")
		for _, k := range s.Keys {
			fmt.Fprintf(w, "%s\t%d of %d\t%d\n", k.Fingerprint, k.Nodes, len(s.Nodes), k.Uses)
		}
	})
	b.WriteString("\n")
	columns(&b, func(w *tabwriter.Writer) {
		fmt.Fprintln(w, "NODE\tID\tKEYS, THE ONE IN USE FIRST")
		for _, n := range s.Nodes {
			keys := strings.Join(n.Keys, " ")
			if n.Error != "" {
				keys = "not done: " + n.Error
			}
			fmt.Fprintf(w, "%s\t%s\t%s\n", cmp.Or(n.Name, n.ID), n.ID, keys)
		}
	})
	return b.String()
}

// columns aligns cells that tabs separate.
func columns(b *strings.Builder, write func(w *tabwriter.Writer)) {
	var aligned strings.Builder
	w := tabwriter.NewWriter(&aligned, 0, 0, 2, ' ', 0)
	write(w)
	_ = w.Flush() // a strings.Builder takes everything
	for line := range strings.Lines(aligned.String()) {
		b.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
}

// Status renders the state of the cluster for people to read, as of now.
func Status(s *api.ClusterStatus, now time.Time) string {
	v := view{Flock: readable.FlockOf(s), now: now}
	v.head()
	v.nodes()
	v.transition()
	v.gaps()
	v.damage()
	return v.out.String()
}

// view renders one state.
type view struct {
	readable.Flock
	now time.Time
	out strings.Builder
}

func (v *view) say(format string, args ...any) { fmt.Fprintf(&v.out, format+"\n", args...) }

func (v *view) head() {
	if v.Epoch == 0 {
		v.say("%s belongs to no cluster yet: its log says what it waits for", v.Of(v.Self))
		return
	}
	v.say("Cluster %s at epoch %d, as %s sees it", v.ClusterID, v.Epoch, v.Of(v.Self))
	if v.Generation > 0 {
		v.say("It is in generation %d: it was recovered from the loss of a majority", v.Generation)
	}
	if v.Apart != "" {
		v.say("%s", v.Apart)
	}
	v.say("%d copies of each series, %d confirm a write", v.Copies(), v.WriteQuorum)
	if v.Crowded > 0 {
		v.say("%s of the series have copies in fewer zones than they could: a zone has fewer than half as many nodes as the mean", readable.Percent(v.Crowded))
	}
}

func (v *view) nodes() {
	v.say("")
	columns(&v.out, func(w *tabwriter.Writer) {
		fmt.Fprintln(w, "NODE\tID\tZONE\tSLOT\tSTATE\tEPOCH\tSERIES\tON DISK\tCOPIES")
		for _, n := range v.Nodes {
			slot, series, bytes, share := "-", "?", "?", "-"
			if n.Slot != nil {
				slot = strconv.Itoa(*n.Slot)
			}
			if n.Holds != nil {
				series, bytes = readable.Count(float64(n.Holds.Series)), readable.Size(float64(n.Holds.Bytes))
			}
			if n.Share != nil {
				if share = readable.Percent(n.Share.Current); v.Transition != nil {
					share += " -> " + readable.Percent(n.Share.Target)
				}
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\t%s\t%s\t%s\n", n.Name, v.Prefix(n.ID), v.Zone(n), slot, v.Standing(n), n.Epoch, series, bytes, share)
		}
	})
}

func (v *view) transition() {
	v.say("")
	t := v.Transition
	if t == nil {
		if v.Epoch > 0 {
			v.say("No transition: all copies are where the table says")
		}
		if v.Paused {
			v.say("Paused: the next transition will copy nothing before `starling cluster resume`")
		}
		return
	}
	v.say("Transition: %s %s (epoch %d)", t.Phase, v.Since(v.now), t.Began)
	if v.Paused {
		v.say("Paused: nothing is copied before `starling cluster resume`")
	}
	if len(t.Awaited) > 0 {
		v.say("Waiting for %s", v.Awaiting())
	}
	if len(t.Copying) > 0 {
		columns(&v.out, func(w *tabwriter.Writer) {
			for _, c := range t.Copying {
				fmt.Fprintf(w, "  %s\t%s\n", v.Of(c.Node), progress(c, v.Paused))
			}
		})
	}
	if v.Waiting > 0 {
		v.say("%d more to come when it has ended", v.Waiting)
	}
}

// progress is how far a node's copying is, in cells.
func progress(c api.CopyStatus, paused bool) string {
	done, left := c.Done, readable.Left(c, paused)
	switch {
	case c.Ready:
		done, left = 1, "ready"
	case c.Silent:
		return "?\t\tit does not answer"
	case c.Started == nil:
		return fmt.Sprintf("%s\t0%%\tit has not begun", bar(0))
	}
	cells := []string{bar(done), fmt.Sprintf("%d%%", int(100*done)), left}
	return strings.Join(append(cells, readable.Figures(c)...), "\t")
}

// gaps are those that any node notes which answers.
func (v *view) gaps() {
	for _, n := range v.Nodes {
		for _, g := range n.Gaps {
			since := "any time"
			if g.Since != "" {
				since = g.Since
			}
			doing := "to be handed off when it is back"
			if g.HandingOff {
				doing = "being handed off"
			}
			v.say("Gap: %s lacks samples since %s, noted %s ago by %s: about %s (%s), %s",
				v.Of(g.Peer), since, readable.Span(v.now.Sub(g.Opened)), v.Of(n.ID), readable.Count(float64(g.SamplesLeft)), readable.Size(float64(g.BytesLeft)), doing)
		}
	}
}

func (v *view) damage() {
	for _, d := range v.Damage {
		suspect := ""
		if d.Suspect {
			suspect = ", suspect"
		}
		v.say("Damage on %s: %s %s, found %s%s: %s", v.Of(v.Self), d.Kind, d.Name, d.Found.UTC().Format(readable.Clock), suspect, d.Detail)
	}
	for _, n := range v.Nodes {
		if n.Damaged > 0 && n.ID != v.Self {
			v.say("Damage on %s: ranges of time that it makes good from other owners: %d; ask it for details", v.Of(n.ID), n.Damaged)
		}
		if n.Comparing > 0 {
			v.say("Repair: %s is to compare %d windows of two hours with the other owners", v.Of(n.ID), n.Comparing)
		}
	}
}

// Summary renders how far the cluster is, on one line.
func Summary(s *api.ClusterStatus) string {
	t := s.Transition
	if t == nil {
		return fmt.Sprintf("epoch %d: no transition", s.Epoch)
	}
	line := fmt.Sprintf("epoch %d: %s", s.Epoch, t.Phase)
	if len(t.Copying) > 0 {
		done, left := 1.0, 0.0
		for _, c := range t.Copying {
			done, left = min(done, c.Done), max(left, c.SecondsLeft)
		}
		line += fmt.Sprintf(", %d%%", int(100*done))
		if left > 0 && !s.Paused {
			line += ", about " + readable.Span(readable.Seconds(left)) + " left"
		}
	}
	if s.Paused {
		line += ", paused"
	}
	if len(t.Awaited) > 0 {
		line += ", waiting for " + readable.FlockOf(s).List(t.Awaited)
	}
	return line
}

// Plan renders what a command would do.
func Plan(p *api.ClusterPlan) string {
	var ids, given []string
	for _, n := range p.Nodes {
		ids, given = append(ids, n.ID), append(given, n.Name)
	}
	names := readable.NamesOf(ids, given)
	var b strings.Builder
	if len(p.Slots) > 0 {
		columns(&b, func(w *tabwriter.Writer) {
			fmt.Fprintln(w, "SLOT\tNOW\tTHEN")
			for _, s := range p.Slots {
				now, then := occupant(names, s.Before), occupant(names, s.After)
				if s.Before.Zone != s.After.Zone && now == then {
					now, then = now+" in zone "+readable.Dash(s.Before.Zone), then+" in zone "+readable.Dash(s.After.Zone)
				}
				fmt.Fprintf(w, "%d\t%s\t%s\n", s.Slot, now, then)
			}
		})
		b.WriteString("\n")
	}
	columns(&b, func(w *tabwriter.Writer) {
		fmt.Fprintln(w, "NODE\tID\tCOPIES NOW\tTHEN")
		for _, n := range p.Nodes {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", readable.Dash(n.Name), names.Prefix(n.ID), readable.Percent(n.Before), readable.Percent(n.After))
		}
	})
	b.WriteString("\n")
	if len(p.Moves) == 0 {
		b.WriteString("Nothing is copied\n")
	} else {
		columns(&b, func(w *tabwriter.Writer) {
			fmt.Fprintln(w, "FROM\tTO\tCOPIES\tSERIES\tON DISK")
			for _, m := range p.Moves {
				from := "nobody"
				if m.From != "" {
					from = names.Of(m.From)
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", from, names.Of(m.To), readable.Percent(m.Share), readable.Count(float64(m.Series)), readable.Size(float64(m.Bytes)))
			}
		})
		fmt.Fprintf(&b, "\n%s of all copies are made anew, %s at the least: about %s series and %s\n",
			readable.Percent(p.Share), readable.Percent(p.Optimum), readable.Count(float64(p.Series)), readable.Size(float64(p.Bytes)))
		fmt.Fprintf(&b, "That takes about %s at %s/s from each node\n", readable.Span(readable.Seconds(p.Seconds)), readable.Size(float64(p.BytesPerSecond)))
	}
	for _, w := range p.Warnings {
		fmt.Fprintf(&b, "Warning: %s\n", w)
	}
	return b.String()
}

// Recovery renders what a recovery would do.
func Recovery(p *api.RecoveryPlan) string {
	var b strings.Builder
	say := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	say("Gone:     %s", nameNodes(p.Gone))
	say("Go on:    %s", nameNodes(p.Survivors))
	say("Table:    of epoch %d, continued as epoch %d", p.Epoch, p.Next)
	say("")
	say("%d of the %d voters are gone: if they only stopped, start them instead, and nothing has to be recovered", p.LostVoters, p.Voters)
	say("Changes of the cluster that only those who are gone have agreed on after epoch %d are not continued", p.Epoch)
	whole, short := 0.0, 0.0
	for k, share := range p.Losses {
		if k >= p.WriteQuorum {
			short += share
		}
		if k == len(p.Losses)-1 {
			whole = share
		}
	}
	say("%s of all series have %d or more of their %d owners among the gone: what only those confirmed is missing until they are back",
		readable.Percent(short), p.WriteQuorum, len(p.Losses)-1)
	say("%s of all series have no other owner", readable.Percent(whole))
	say("Whoever comes back takes part again, unless it was at a later epoch than %d: such a node says so in its log, and serves nobody", p.Epoch)
	return b.String()
}

func nameNodes(nodes []api.NamedNode) string {
	var ids, given []string
	for _, n := range nodes {
		ids, given = append(ids, n.ID), append(given, n.Name)
	}
	return readable.Dash(readable.NamesOf(ids, given).List(ids))
}

func occupant(names readable.Names, s api.SlotStatus) string {
	switch {
	case s.Node == "":
		return "-"
	case s.Removed:
		return names.Of(s.Node) + " (given up)"
	}
	return names.Of(s.Node)
}
