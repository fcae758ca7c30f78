package page

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/starling-tsdb/starling/internal/api"
	"github.com/starling-tsdb/starling/internal/readable"
)

// maxEvents is how many events are shown.
const maxEvents = 50

// Tones are how well something is; each is a class of the style sheet.
const (
	well  = "well"
	note  = "note"
	alarm = "alarm"
	grave = "grave"
)

// flockView is the state of the cluster as the page shows it.
type flockView struct {
	Title, Self string
	// Tone is that of the gravest matter.
	Tone    string
	At      string
	Cluster string
	Epoch   uint64
	Facts   []fact
	Matters []matter

	Zones      bool // whether any node has one
	Nodes      []nodeRow
	Slots      []slotRow
	Moving     bool
	Spread     spreadView
	Gaps       []gapRow
	Transition *transitionView
	Repair     []repairRow
	Damage     []damageRow
	Events     []eventRow
}

// fact is a figure of the whole cluster.
type fact struct{ Label, Value, More string }

// matter is something that an operator should know.
type matter struct{ Tone, Text string }

// bar is a part of a whole, for people to see. Width is from 0 to 100.
type bar struct {
	Width float64
	Tone  string
}

func barOf(part, whole float64, tone string) bar {
	if whole <= 0 {
		return bar{0, tone}
	}
	return bar{min(100, max(0, 100*part/whole)), tone}
}

// flocks puts a state into rows.
type flocks struct {
	readable.Flock
	now time.Time
}

func newFlockView(s *api.ClusterStatus, now time.Time) *flockView {
	f := flocks{readable.FlockOf(s), now}
	v := &flockView{
		Self: f.Of(s.Self), At: now.UTC().Format(readable.Clock), Cluster: s.ClusterID, Epoch: s.Epoch,
		Facts: f.facts(), Matters: f.matters(), Nodes: f.nodes(), Slots: f.slots(), Moving: s.Transition != nil, Spread: f.spread(),
		Gaps: f.gaps(), Transition: f.transition(), Repair: f.repair(), Damage: f.damage(), Events: f.events(),
	}
	v.Tone = well
	for _, m := range v.Matters {
		if slices.Index(tones, m.Tone) > slices.Index(tones, v.Tone) {
			v.Tone = m.Tone
		}
	}
	v.Title = v.Self
	if v.Tone == grave || v.Tone == alarm {
		v.Title = "(!) " + v.Title
	}
	for _, n := range s.Nodes {
		v.Zones = v.Zones || n.Zone != ""
	}
	return v
}

// tones are in the order of their gravity.
var tones = []string{well, note, alarm, grave}

func (f flocks) facts() []fact {
	there, series, bytes, rate := 0, uint64(0), uint64(0), 0.0
	for _, n := range f.Nodes {
		if n.State == alive {
			there++
		}
		if n.Holds != nil {
			series, bytes = series+n.Holds.Series, bytes+n.Holds.Bytes
		}
		if n.Load != nil {
			rate += n.Load.SamplesPerSecond
		}
	}
	nodes := fact{"nodes alive", fmt.Sprintf("%d of %d", there, len(f.Nodes)), ""}
	if f.Epoch == 0 {
		return []fact{nodes}
	}
	return []fact{
		nodes,
		{"copies of each series", fmt.Sprint(f.Copies()), fmt.Sprintf("%d confirm a write", f.WriteQuorum)},
		{"samples/s stored", readable.Count(rate), "all copies"},
		{"series in memory", readable.Count(float64(series)), "all copies"},
		{"on disk", readable.Size(float64(bytes)), "all copies"},
	}
}

// alive is the state of nodes that gossip hears, in the words of the API.
const alive = "alive"

// nodeRow is a node.
type nodeRow struct {
	Name, Prefix, Version string
	Self, Silent          bool
	Zone, Slot            string
	Tone, Standing, Why   string
	Epoch                 uint64
	Behind                bool
	Rate, CPU, Memory     string
	Series, Bytes         string
	Disk                  string
	CPUBar, MemoryBar     *bar
	DiskBar               *bar
	HTTP                  string
}

func (f flocks) nodes() []nodeRow {
	rows := make([]nodeRow, len(f.Nodes))
	for i, n := range f.Nodes {
		row := nodeRow{
			Name: n.Name, Prefix: f.Prefix(n.ID), Version: n.Version, Self: n.ID == f.Self, Silent: f.silent(n),
			Zone: strings.NewReplacer("->", "→", "- ", "– ").Replace(f.Zone(n)), Slot: "–", Tone: well, Standing: f.Standing(n), Epoch: n.Epoch, Behind: n.Epoch != f.Epoch, HTTP: n.Addresses.HTTP,
			Rate: "–", CPU: "–", Memory: "–", Series: "–", Bytes: "–", Disk: "–",
		}
		if n.Slot != nil {
			row.Slot = fmt.Sprint(*n.Slot)
		}
		switch {
		case n.State != alive:
			row.Tone = grave
		case row.Silent:
			row.Tone, row.Why = alarm, "unreachable from here"
		case n.Unready != "":
			row.Tone, row.Why = alarm, "not ready: "+n.Unready
		}
		if n.Holds != nil {
			row.Series, row.Bytes = readable.Count(float64(n.Holds.Series)), readable.Size(float64(n.Holds.Bytes))
		}
		row.load(n.Load)
		rows[i] = row
	}
	return rows
}

// silent nodes are heard by gossip, and have not said how they are.
func (f flocks) silent(n api.NodeStatus) bool {
	return n.State == alive && n.Holds == nil && n.Load == nil && f.Epoch > 0
}

func (row *nodeRow) load(l *api.LoadStatus) {
	if l == nil {
		return
	}
	row.Rate = readable.Count(l.SamplesPerSecond)
	row.CPU = fmt.Sprintf("%.2f of %d", l.CPU, l.CPUs)
	cpu := barOf(l.CPU, float64(l.CPUs), well)
	row.CPUBar = &cpu
	row.Memory = readable.Size(float64(l.Memory))
	if l.MemoryLimit > 0 {
		row.Memory += " of " + readable.Size(float64(l.MemoryLimit))
		memory := barOf(float64(l.Memory), float64(l.MemoryLimit), well)
		row.MemoryBar = &memory
	}
	if l.DiskSize > 0 {
		row.Disk = readable.Size(float64(l.DiskFree)) + " free of " + readable.Size(float64(l.DiskSize))
		disk := barOf(float64(l.DiskSize-min(l.DiskFree, l.DiskSize)), float64(l.DiskSize), diskTone(l))
		row.DiskBar = &disk
	}
}

// diskTone is how well it is with a disk, before a node refuses writes by itself.
func diskTone(l *api.LoadStatus) string {
	switch free := float64(l.DiskFree) / float64(max(1, l.DiskSize)); {
	case l.DiskSize == 0 || free >= 0.15:
		return well
	case free >= 0.05:
		return alarm
	}
	return grave
}

// slotRow is a slot of the table.
type slotRow struct {
	Slot                   int
	Node, Zone             string
	Then, ThenZone         string
	Hole, Removed, Changes bool
}

func (f flocks) slots() []slotRow {
	occupant := func(s api.SlotStatus) string {
		switch {
		case s.Node == "":
			return "hole"
		case s.Removed:
			return f.Of(s.Node) + ", given up"
		}
		return f.Of(s.Node)
	}
	var then []api.SlotStatus
	if f.Transition != nil {
		then = f.Transition.Slots
	}
	rows := make([]slotRow, max(len(f.Slots), len(then)))
	for i := range rows {
		row := slotRow{Slot: i, Hole: true, Node: "–", Zone: "–", Then: "–", ThenZone: "–"}
		if i < len(f.Slots) {
			s := f.Slots[i]
			row.Node, row.Zone, row.Hole, row.Removed = occupant(s), readable.Dash(s.Zone), s.Node == "", s.Removed
		}
		if i < len(then) {
			row.Then, row.ThenZone = occupant(then[i]), readable.Dash(then[i].Zone)
		}
		row.Changes = f.Transition != nil && (row.Then != row.Node || row.ThenZone != row.Zone)
		rows[i] = row
	}
	return rows
}

// spreadView is how evenly copies lie.
type spreadView struct {
	Rows []spreadRow
	// Mean is where the mean is on the bars, from 0 to 100.
	Mean    float64
	Summary string
}

type spreadRow struct {
	Name, Share, Then, Series string
	Bar                       bar
}

func (f flocks) spread() spreadView {
	var v spreadView
	sum, most, owners := 0.0, 0.0, 0
	for _, n := range f.Nodes {
		if n.Share != nil && n.Share.Current > 0 {
			sum, most, owners = sum+n.Share.Current, max(most, n.Share.Current), owners+1
		}
	}
	if owners == 0 {
		return v
	}
	mean := sum / float64(owners)
	v.Mean = 100 * mean / most
	v.Summary = fmt.Sprintf("The fullest node has %.2f times the mean.", most/mean)
	for _, n := range f.Nodes {
		if n.Share == nil {
			continue
		}
		row := spreadRow{Name: f.Of(n.ID), Share: readable.Percent(n.Share.Current), Series: "–", Bar: barOf(n.Share.Current, most, well)}
		if f.Transition != nil {
			row.Then = readable.Percent(n.Share.Target)
		}
		if n.Holds != nil {
			row.Series = readable.Count(float64(n.Holds.Series))
		}
		v.Rows = append(v.Rows, row)
	}
	return v
}

// gapRow is what one node notes that another lacks.
type gapRow struct {
	Peer, By, Since, Open, About string
	HandingOff                   bool
}

func (f flocks) gaps() (rows []gapRow) {
	for _, n := range f.Nodes {
		for _, g := range n.Gaps {
			rows = append(rows, gapRow{
				Peer: f.Of(g.Peer), By: f.Of(n.ID), Since: sinceOf(g), Open: readable.Span(f.now.Sub(g.Opened)), HandingOff: g.HandingOff,
				About: readable.Amount(g.SamplesLeft, g.BytesLeft),
			})
		}
	}
	slices.SortStableFunc(rows, func(a, b gapRow) int { return strings.Compare(a.Peer, b.Peer) })
	return rows
}

// sinceOf is the time of the oldest sample that may be missing.
func sinceOf(g api.GapStatus) string {
	t, err := time.Parse(time.RFC3339, g.Since)
	if err != nil {
		return cmp.Or(g.Since, "any time")
	}
	return t.UTC().Format(readable.Clock)
}

// transitionView is how far the way to another assignment is.
type transitionView struct {
	Phase, Since, Awaiting, More string
	Copying, Paused              bool
	Rows                         []copyRow
}

type copyRow struct {
	Name, Done, State, Figures string
	Bar                        bar
}

func (f flocks) transition() *transitionView {
	t := f.Transition
	if t == nil {
		return nil
	}
	v := &transitionView{Phase: t.Phase, Copying: t.Phase == "copying", Paused: f.Paused, Since: f.Since(f.now)}
	if v.Phase != "" {
		v.Phase = strings.ToUpper(v.Phase[:1]) + v.Phase[1:]
	}
	if len(t.Awaited) > 0 {
		v.Awaiting = f.Awaiting()
	}
	if f.Waiting > 0 {
		v.More = fmt.Sprintf("Changes that wait for it to end: %d.", f.Waiting)
	}
	for _, c := range t.Copying {
		v.Rows = append(v.Rows, f.copying(c))
	}
	return v
}

func (f flocks) copying(c api.CopyStatus) copyRow {
	row := copyRow{
		Name: f.Of(c.Node), Done: fmt.Sprintf("%d%%", int(100*c.Done)), Bar: barOf(c.Done, 1, note),
		State: readable.Left(c, f.Paused), Figures: strings.Join(readable.Figures(c), ", "),
	}
	switch {
	case c.Ready:
		row.Done, row.State, row.Bar = "100%", "ready", barOf(1, 1, well)
	case c.Silent:
		row.Done, row.State, row.Figures = "–", "it does not answer", ""
	case c.Started == nil:
		row.State, row.Figures = "it has not begun", ""
	}
	return row
}

// repairRow is how far a node compares what it holds with others, and what it makes good.
type repairRow struct {
	Name, Done, Text string
	Bar              bar
}

func (f flocks) repair() (rows []repairRow) {
	for _, n := range f.Nodes {
		if n.Comparing > 0 {
			all := max(n.Windows, n.Comparing)
			rows = append(rows, repairRow{
				Name: f.Of(n.ID), Done: fmt.Sprintf("%d%%", 100*(all-n.Comparing)/all), Bar: barOf(float64(all-n.Comparing), float64(all), note),
				Text: fmt.Sprintf("compares its copies: %d of about %d windows of two hours to go", n.Comparing, all),
			})
		}
		if n.Damaged > 0 {
			rows = append(rows, repairRow{Name: f.Of(n.ID), Done: "–", Text: fmt.Sprintf("makes damage good from other owners: ranges of time to go: %d", n.Damaged)})
		}
	}
	return rows
}

// damageRow is a range of time for which this node may lack samples.
type damageRow struct{ Kind, Name, From, To, Found, Detail string }

func (f flocks) damage() (rows []damageRow) {
	for _, d := range f.Damage {
		if d.Suspect {
			d.Detail = "suspect: " + d.Detail
		}
		rows = append(rows, damageRow{
			Kind: d.Kind, Name: d.Name, From: millis(d.MinTime), To: millis(d.MaxTime), Found: d.Found.UTC().Format(readable.Clock), Detail: d.Detail,
		})
	}
	return rows
}

// millis is the time of a sample. The ends of what has none are far away.
func millis(ms int64) string {
	t := time.UnixMilli(ms).UTC()
	if y := t.Year(); y < 1 || y > 9999 {
		return "any time"
	}
	return t.Format(readable.Minute)
}

// eventRow is something that this node told.
type eventRow struct {
	Time, When, Tone, Level, Text, Detail string
	Count                                 int
}

func (f flocks) events() []eventRow {
	var named []string
	for _, n := range f.Nodes {
		if n.ID != "" {
			named = append(named, n.ID, f.Of(n.ID))
		}
	}
	names := strings.NewReplacer(named...)
	var rows []eventRow
	for _, e := range f.Events[:min(len(f.Events), maxEvents)] {
		tone := map[string]string{"warn": alarm, "error": grave}[e.Level]
		when := e.Time.UTC().Format(time.TimeOnly)
		if f.now.Sub(e.Time) > 12*time.Hour {
			when = e.Time.UTC().Format(readable.Minute)
		}
		rows = append(rows, eventRow{
			Time: e.Time.UTC().Format(time.RFC3339), When: when, Tone: cmp.Or(tone, well), Level: e.Level, Text: e.Text, Detail: names.Replace(e.Detail), Count: e.Count,
		})
	}
	return rows
}
