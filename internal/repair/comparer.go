package repair

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/bits"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"

	"github.com/starling-tsdb/starling/internal/handoff"
	"github.com/starling-tsdb/starling/internal/proof"
	"github.com/starling-tsdb/starling/internal/table"
)

const (
	// PassTime is how long it takes to compare all windows once. Which one is compared when
	// follows from the time of day, so that all owners do it at about the same time and
	// nobody has to remember how far it was.
	PassTime = 24 * time.Hour

	// compareLook is how often a Comparer looks whether a window is due.
	compareLook = 10 * time.Second

	// settle is how long after it was sealed a window is compared: what was missed is handed
	// off until then. It is also how long a window that was compared is left alone, however
	// often somebody asks for it.
	settle = 5 * time.Minute
)

// Twin is another owner of what this node owns.
type Twin interface {
	// Digests sums up what the twin holds of a window that it shares with this node, by
	// ranges of keys. The range is inclusive, in milliseconds.
	Digests(ctx context.Context, window proof.Range) (*proof.Sums, error)
	// Copy returns what the twin holds of some ranges of keys, sorted by labels. The set ends
	// with ctx.
	Copy(ctx context.Context, ranges uint64, window proof.Range) storage.ChunkSeriesSet
	// Compare has the twin compare a window soon.
	Compare(ctx context.Context, window proof.Range) error
}

// Shared says who owns what, by the assignment that queries read by.
type Shared struct {
	Epoch uint64
	// Self is the slot of this node.
	Self int
	// Owners returns the partition key of a series, and the slots of its owners in dst.
	Owners func(ls labels.Labels, dst []int) (key uint64, owners []int)
	// Names are the nodes by slot, empty for none, Twins those that can be asked.
	Names []table.NodeID
	Twins map[int]Twin
}

// ComparedStore is the store of a node that compares.
type ComparedStore interface {
	handoff.Queryable
	ImportBlock(ctx context.Context, mint, maxt int64, set storage.ChunkSeriesSet) (int, error)
	ImportableUntil() int64
}

// ComparerOptions are what a Comparer works with. All are required but Registerer.
type ComparerOptions struct {
	Store ComparedStore
	// Oldest returns the time of the oldest sample, in milliseconds; math.MaxInt64 if there
	// is none.
	Oldest func() int64
	// Shared returns nil while there is nothing to compare.
	Shared     func() *Shared
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Comparer compares what this node holds with the other owners, a window of time after the
// other, and copies what it lacks. Windows are compared once all of them can be imported as
// blocks: what is newer is in the gaps that owners note.
//
// Nothing relies on it: what is acknowledged is on enough owners, or noted. It finds what should
// not be, as disks that lie, and what may be, as values that only some owners took.
type Comparer struct {
	opts    ComparerOptions
	summary *summary

	compared  *prometheus.CounterVec
	differed  prometheus.Counter
	samples   prometheus.Counter
	lastPass  prometheus.Gauge
	remaining prometheus.Gauge

	mu sync.Mutex
	// wanted are the windows that somebody asked to compare, or that were sealed, by their
	// beginning, with the time from which on they are compared.
	wanted map[int64]time.Time
	// done says when a window was last compared with all other owners.
	done map[int64]time.Time

	// sealed is where the windows ended when Run last looked, and passed the window that the
	// daily pass was at. Run's goroutine owns both.
	sealed, passed int64
}

// NewComparer returns a Comparer; Run starts it.
func NewComparer(opts ComparerOptions) *Comparer {
	factory := promauto.With(opts.Registerer)
	c := &Comparer{
		opts: opts, summary: newSummary(), wanted: map[int64]time.Time{}, done: map[int64]time.Time{}, sealed: math.MinInt64, passed: math.MinInt64,
		compared: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "starling_repair_windows_compared_total",
			Help: "Windows of two hours that were compared with the other owners, by the result.",
		}, []string{"result"}),
		differed: factory.NewCounter(prometheus.CounterOpts{
			Name: "starling_repair_ranges_differed_total",
			Help: "Ranges of keys, of 64, of which another owner held something else in a window.",
		}),
		samples: factory.NewCounter(prometheus.CounterOpts{
			Name: "starling_repair_copied_samples_total",
			Help: "Samples that another owner held and this node lacked, or had a lesser value of, and that it copied.",
		}),
		lastPass: factory.NewGauge(prometheus.GaugeOpts{
			Name: "starling_repair_last_full_pass_timestamp_seconds",
			Help: "Since when every window of two hours has been compared with all other owners; 0 if one has not been since the start.",
		}),
		remaining: factory.NewGauge(prometheus.GaugeOpts{
			Name: "starling_repair_windows_wanted",
			Help: "Windows of two hours that are to be compared soon.",
		}),
	}
	for _, result := range []string{equal, differed, failed} {
		c.compared.WithLabelValues(result)
	}
	return c
}

// The results of comparing a window.
const (
	equal    = "equal"
	differed = "differed"
	failed   = "failed"
)

// Compare has the windows of a range be compared soon, as far as they are sealed, and the others
// once they are. The range is inclusive, in milliseconds.
func (c *Comparer) Compare(r proof.Range) {
	span := handoff.WindowSpan.Milliseconds()
	first := max(r.Min, c.opts.Oldest())
	last := min(r.Max, time.Now().UnixMilli())
	c.mu.Lock()
	defer c.mu.Unlock()
	for start := handoff.WindowStart(first); first <= last && start <= last; start += span {
		c.want(start, c.done[start].Add(settle))
	}
}

// want has a window be compared from a time on. It is called with mu held.
func (c *Comparer) want(start int64, from time.Time) {
	if was, ok := c.wanted[start]; !ok || from.Before(was) {
		c.wanted[start] = from
	}
	c.remaining.Set(float64(len(c.wanted)))
}

// Wanted returns how many windows are to be compared soon.
func (c *Comparer) Wanted() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.wanted)
}

// Run compares windows as they are due, until ctx ends.
func (c *Comparer) Run(ctx context.Context) {
	for pause := compareLook; handoff.Pause(ctx, pause); {
		start, ok := c.next(time.Now())
		if !ok {
			pause = compareLook
			continue
		}
		pause = 0
		if err := c.compare(ctx, start); err != nil && ctx.Err() == nil {
			pause = compareLook
			c.opts.Logger.Warn("A window was not compared with all other owners; it is tried again", "from", time.UnixMilli(start).UTC(), "err", err)
		}
	}
}

// next returns the window that is due, if one is, and takes it off the list.
func (c *Comparer) next(now time.Time) (start int64, ok bool) {
	span := handoff.WindowSpan.Milliseconds()
	sealed := c.opts.Store.ImportableUntil()
	if sealed == math.MinInt64 {
		return 0, false
	}
	sealed = handoff.WindowStart(sealed)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sealed > math.MinInt64 {
		for s := c.sealed; s < sealed; s += span {
			c.want(s, now.Add(settle))
		}
	}
	c.sealed = sealed
	first := c.opts.Oldest()
	if first >= sealed {
		return 0, false
	}
	first = handoff.WindowStart(first)
	c.account(first, sealed, now)
	for s, from := range c.wanted {
		if s < sealed && !from.After(now) && (!ok || s < start) {
			start, ok = s, true
		}
	}
	if !ok {
		start, ok = c.inPass(first, sealed, now)
	}
	if ok {
		delete(c.wanted, start)
		c.remaining.Set(float64(len(c.wanted)))
	}
	return start, ok
}

// inPass returns the window that the daily pass is at, if it is not compared yet. Where many
// are due at once, none is left out. It is called with mu held.
func (c *Comparer) inPass(first, sealed int64, now time.Time) (start int64, ok bool) {
	span := handoff.WindowSpan.Milliseconds()
	windows := (sealed - first) / span
	at := first + windows*(now.UnixMilli()%PassTime.Milliseconds())/PassTime.Milliseconds()*span
	switch last := sealed - span; {
	case c.passed < first:
		c.passed = at - span
	case c.passed > at && c.passed < last:
		at = last // what is left of the pass before
	case c.passed > at:
		c.passed = first - span
	}
	for c.passed < at {
		c.passed += span
		if _, later := c.wanted[c.passed]; !later && now.Sub(c.done[c.passed]) > PassTime/2 {
			return c.passed, true
		}
	}
	return 0, false
}

// account says since when all windows have been compared, and forgets those that are gone. It is
// called with mu held.
func (c *Comparer) account(first, sealed int64, now time.Time) {
	for s := range c.done {
		if s < first {
			delete(c.done, s)
		}
	}
	since := now
	for s := first; s < sealed; s += handoff.WindowSpan.Milliseconds() {
		if at := c.done[s]; at.Before(since) {
			since = at
		}
	}
	if since.IsZero() {
		c.lastPass.Set(0)
		return
	}
	c.lastPass.Set(float64(since.UnixMilli()) / 1000)
}

// compare compares a window with all other owners, and copies from each what this node lacks.
func (c *Comparer) compare(ctx context.Context, start int64) error {
	s := c.opts.Shared()
	if s == nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.want(start, time.Now().Add(compareLook))
		return nil
	}
	window := proof.Range{Min: start, Max: start + handoff.WindowSpan.Milliseconds() - 1}
	var failures []error
	result := equal
	for slot, name := range s.Names {
		if name == "" || slot == s.Self {
			continue
		}
		different, err := c.with(ctx, s, slot, window)
		if err != nil {
			failures = append(failures, fmt.Errorf("node %s: %w", name, err))
		}
		if different {
			result = differed
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(failures) > 0 {
		c.compared.WithLabelValues(failed).Inc()
		c.want(start, time.Now().Add(settle))
		return errors.Join(failures...)
	}
	c.compared.WithLabelValues(result).Inc()
	c.done[start] = time.Now()
	return nil
}

// with compares a window with the owner in a slot.
func (c *Comparer) with(ctx context.Context, s *Shared, slot int, window proof.Range) (different bool, err error) {
	ctx, cancel := context.WithCancel(ctx) // ends the stream
	defer cancel()
	twin := s.Twins[slot]
	if twin == nil {
		return false, errors.New("it is not reached")
	}
	theirs, err := twin.Digests(ctx, window)
	if err != nil {
		return false, err
	}
	own, err := c.sums(ctx, s, window)
	if err != nil {
		return false, err
	}
	ranges := own.of(slot).Differing(theirs)
	if ranges == 0 {
		return false, nil
	}
	c.differed.Add(float64(bits.OnesCount64(ranges)))
	n, err := c.copy(ctx, twin, ranges, window)
	c.samples.Add(float64(n))
	c.opts.Logger.Info("Two owners held different samples, or values", "other", s.Names[slot], "from", time.UnixMilli(window.Min).UTC(), "copied", n, "err", err)
	if err != nil {
		return true, err
	}
	// It may lack what this node has.
	return true, twin.Compare(ctx, window)
}

// copy stores what a twin holds, and this node lacks.
func (c *Comparer) copy(ctx context.Context, twin Twin, ranges uint64, window proof.Range) (int, error) {
	q, err := c.opts.Store.Querier(window.Min, window.Max)
	if err != nil {
		return 0, err
	}
	lacking := newLackingSet(ctx, twin.Copy(ctx, ranges, window), q, window)
	n, err := c.opts.Store.ImportBlock(ctx, window.Min, window.Max+1, lacking)
	c.summary.forget(window)
	return n, errors.Join(err, lacking.close())
}

// sums returns the digests of a window.
func (c *Comparer) sums(ctx context.Context, s *Shared, window proof.Range) (sums, error) {
	return c.summary.get(ctx, s.Epoch, window, func() (sums, error) { return sumUp(ctx, c.opts.Store, window, s) })
}

// Digests sums up what this node holds of a window for series that it shares with another
// owner. Another epoch than that of Shared is an error.
func (c *Comparer) Digests(ctx context.Context, epoch uint64, peer table.NodeID, window proof.Range) (*proof.Sums, error) {
	s := c.opts.Shared()
	if s == nil || s.Epoch != epoch {
		return nil, fmt.Errorf("this node does not compare at epoch %d", epoch)
	}
	for slot, name := range s.Names {
		if name == peer && slot != s.Self {
			sums, err := c.sums(ctx, s, window)
			if err != nil {
				return nil, err
			}
			return sums.of(slot), nil
		}
	}
	return nil, fmt.Errorf("node %s shares nothing with this one", peer)
}
