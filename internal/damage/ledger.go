package damage

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/starling-tsdb/starling/internal/statefile"
)

const (
	// Dir is the folder of a data directory in which everything of this package lies:
	// the notes, the list of verified blocks, and what was taken out of service.
	Dir = "damage"

	notesFile    = "notes"
	verifiedFile = "verified"
)

// Options say how to keep the ledger of a data directory.
type Options struct {
	// DataDir is the TSDB's directory. Required.
	DataDir string
	// Fsync makes a file or directory durable; (*os.File).Sync if nil.
	Fsync func(*os.File) error
	// Now defaults to time.Now.
	Now func() time.Time
	// Logger defaults to none.
	Logger *slog.Logger
	// Registerer may be nil.
	Registerer prometheus.Registerer
}

func (o *Options) complete() {
	if o.Fsync == nil {
		o.Fsync = (*os.File).Sync
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
}

// Ledger is the durable list of damaged ranges of one data directory. All methods may be
// called by many goroutines at once.
type Ledger struct {
	opts    Options
	found   *prometheus.CounterVec
	current atomic.Pointer[[]Range] // never changed in place
	// findings counts what was found, or known before; it grows before current changes.
	findings atomic.Uint64

	scrubbing sync.Mutex // one scrub at a time

	mu sync.Mutex // orders changes, and is held while the file is written
}

// Open reads the notes in the data directory. If the notes themselves are damaged, nobody
// knows what they said: they are set aside and everything counts as damaged.
func Open(o Options) (*Ledger, error) {
	o.complete()
	f := promauto.With(o.Registerer)
	l := &Ledger{opts: o, found: f.NewCounterVec(prometheus.CounterOpts{
		Name: "starling_storage_damage_found_total",
		Help: "Findings of damage since the start, by the part of the data directory.",
	}, []string{"kind"})}
	for _, k := range kinds() {
		l.found.WithLabelValues(string(k))
	}
	for _, suspect := range []bool{false, true} {
		f.NewGaugeFunc(prometheus.GaugeOpts{
			Name:        "starling_storage_damaged_ranges",
			Help:        "Ranges of time for which this node may lack samples because of damage. Suspect ones come from a torn log and lack only what was not confirmed.",
			ConstLabels: prometheus.Labels{"suspect": fmt.Sprint(suspect)},
		}, func() float64 { return float64(count(l.Ranges(), suspect)) })
	}
	l.current.Store(&[]Range{})
	if err := o.mkdir(); err != nil {
		return nil, err
	}
	return l, l.load()
}

func count(rs []Range, suspect bool) int {
	n := 0
	for _, r := range rs {
		if r.Suspect == suspect {
			n++
		}
	}
	return n
}

func (l *Ledger) load() error {
	var rs []Range
	err := l.opts.read(notesFile, &rs)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, statefile.ErrDamaged):
		path := l.opts.path(notesFile)
		if err := os.Rename(path, path+".damaged"); err != nil {
			return err
		}
		return l.Add(Range{
			MinTime: math.MinInt64, MaxTime: math.MaxInt64, Kind: Notes, Name: filepath.Join(Dir, notesFile), Found: l.opts.Now(),
			Detail: fmt.Sprintf("%v; what was noted as damaged is not known any more", err),
		})
	case err != nil:
		return err
	}
	l.findings.Add(uint64(len(rs)))
	l.current.Store(&rs)
	for _, r := range rs {
		l.opts.Logger.Warn("Part of the data is damaged, as noted earlier", attributes(r)...)
	}
	return nil
}

// Ranges returns the damaged ranges. The slice is shared: it must not be changed. It costs
// no more than a look.
func (l *Ledger) Ranges() []Range { return *l.current.Load() }

// Findings counts what was found since the ledger was opened, and what was known then. It
// never falls, and has grown when Ranges says more than before.
func (l *Ledger) Findings() uint64 { return l.findings.Load() }

// noted tells whether a block is noted.
func (l *Ledger) noted(id ulid.ULID) bool {
	return slices.ContainsFunc(l.Ranges(), func(r Range) bool { return r.Kind == Block && r.Name == id.String() })
}

// OutOfService returns the first range, if there is one, for which this node must not answer
// alone: it overlaps mint to maxt, both inclusive, and is not just suspect.
func (l *Ledger) OutOfService(mint, maxt int64) (Range, bool) {
	rs := l.Ranges()
	i := slices.IndexFunc(rs, func(r Range) bool { return !r.Suspect && r.Overlaps(mint, maxt) })
	if i < 0 {
		return Range{}, false
	}
	return rs[i], true
}

// Add notes ranges durably before it returns. A range with the kind, the name and the
// suspicion of one that is noted widens that. Each is logged and counted as found.
func (l *Ledger) Add(rs ...Range) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	next := slices.Clone(l.Ranges())
	for _, r := range rs {
		r.Found = r.Found.UTC().Round(0)
		i := slices.IndexFunc(next, func(n Range) bool { return n.Kind == r.Kind && n.Name == r.Name && n.Suspect == r.Suspect })
		if i < 0 {
			next = append(next, r)
			continue
		}
		next[i].MinTime, next[i].MaxTime = min(next[i].MinTime, r.MinTime), max(next[i].MaxTime, r.MaxTime)
	}
	l.findings.Add(uint64(len(rs)))
	for _, r := range rs {
		l.found.WithLabelValues(string(r.Kind)).Inc()
		if r.Suspect {
			l.opts.Logger.Warn("The end of a log was torn by a crash; what was confirmed is there", attributes(r)...)
		} else {
			l.opts.Logger.Error("Damage found: the range is out of service on this node", attributes(r)...)
		}
	}
	return l.store(next)
}

// Drop takes the ranges out for which gone is true, durably.
func (l *Ledger) Drop(gone func(Range) bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	next := slices.DeleteFunc(slices.Clone(l.Ranges()), gone)
	if len(next) == len(l.Ranges()) {
		return nil
	}
	return l.store(next)
}

// ErrFoundMore is what Mended answers when it does not know what has been mended.
var ErrFoundMore = errors.New("more damage was found meanwhile")

// Mended says that what a range may lack of samples before a time, in milliseconds, is there
// again, and has been since Findings returned so many: what is left of the range, if
// anything, begins there; math.MaxInt64 is the end. It is durable when Mended returns.
func (l *Ledger) Mended(r Range, until int64, findings uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.findings.Load() != findings {
		return ErrFoundMore
	}
	next := slices.Clone(l.Ranges())
	i := slices.Index(next, r)
	if i < 0 {
		return nil // dropped meanwhile
	}
	if until <= r.MaxTime && until < math.MaxInt64 {
		next[i].MinTime = max(until, r.MinTime)
		return l.store(next)
	}
	l.opts.Logger.Info("What was damaged is made good and in service again", attributes(r)...)
	return l.store(slices.Delete(next, i, i+1))
}

// store makes rs the list. The list counts even if it cannot be written: then the error
// says that it does not outlive the process.
func (l *Ledger) store(rs []Range) error {
	if slices.Equal(rs, l.Ranges()) {
		return nil
	}
	l.current.Store(&rs)
	if err := l.opts.write(notesFile, rs); err != nil {
		return fmt.Errorf("note damage in %s: %w", l.opts.path(notesFile), err)
	}
	return nil
}

func attributes(r Range) []any {
	return []any{"kind", string(r.Kind), "name", r.Name, "from", clock(r.MinTime), "to", clock(r.MaxTime), "detail", r.Detail}
}

// path returns where a file of this package lies.
func (o *Options) path(name ...string) string {
	return filepath.Join(append([]string{o.DataDir, Dir}, name...)...)
}

// mkdir makes the folder of this package.
func (o *Options) mkdir() error {
	if err := os.Mkdir(o.path(), 0o777); err == nil {
		return o.sync(o.DataDir)
	} else if !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// read decodes a file; the error is fs.ErrNotExist or statefile.ErrDamaged, or the disk's.
func (o *Options) read(name string, into any) error {
	b, err := os.ReadFile(o.path(name))
	if err != nil {
		return err
	}
	return statefile.Decode("damage-"+name, b, into)
}

// write replaces a file durably.
func (o *Options) write(name string, v any) error {
	b, err := statefile.Encode("damage-"+name, v)
	if err != nil {
		return err
	}
	return statefile.ReplaceWith(o.path(name), bytes.NewReader(b), o.Fsync)
}

// sync makes the file or directory at path durable.
func (o *Options) sync(path string) error { return statefile.SyncPath(path, o.Fsync) }
