// Package gaps keeps a node's notes of what its peers may lack: one small durable file per
// peer, however long the peer is away. The samples themselves lie in the node's store.
//
// A gap is open from its first note until a hand-off that missed nothing has ended. While
// a hand-off reads the store the gap is not offered to writers, so that whoever relies on
// it says so by a note, which the hand-off then sees.
//
// Most peers that have not confirmed in time do so a little later. A gap of late notes only is
// not offered and not handed off: it vanishes with the last of them that is withdrawn, and is
// as any other once one of them is not. The protocol is in docs/adr/0008-gaps-and-proof.md and
// docs/adr/0017-late-notes.md.
package gaps

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/starling-tsdb/starling/internal/proof"
	"github.com/starling-tsdb/starling/internal/statefile"
	"github.com/starling-tsdb/starling/internal/table"
)

const (
	// filePrefix precedes the peer's ID in the name of a note.
	filePrefix = "gap-"

	// slack is how much earlier a gap begins than the sample that opened it, so that
	// senders whose clocks differ a little do not each move it.
	slack = 2 * time.Minute

	// sessionTimeout ends a hand-off that nobody has gone on with.
	sessionTimeout = time.Minute

	// forever is the beginning of a gap whose note is damaged.
	forever = math.MinInt64
)

// ErrSession says that a hand-off is not the present one of its gap: it has to begin again.
var ErrSession = errors.New("the hand-off has ended")

// Options say how to open a book.
type Options struct {
	// Dir is made if it is missing.
	Dir string
	// Logger and Registerer may be nil.
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Book holds the gaps that a node notes. All methods may be called concurrently.
type Book struct {
	dir    string
	logger *slog.Logger
	// offered are the gaps that confirmations carry. Each append reads it.
	offered atomic.Pointer[[]proof.Gap]
	// writing is held, by a token in it, while a note is written, so that notes reach the
	// disk in the order in which they hold.
	writing chan struct{}

	mu    sync.Mutex
	notes map[table.NodeID]*note
	// last is the number of the last window, or of the last late note. It begins at random, so
	// that what was meant for an earlier run of this node is none of the present ones.
	last uint64
}

// saved is a note as it lies on disk.
type saved struct {
	Peer table.NodeID `json:"peer"`
	// Since is the time of the oldest sample that the peer may lack, in milliseconds.
	Since int64 `json:"sinceMs"`
	// Opened is when the gap was noted first.
	Opened time.Time `json:"opened"`
}

// note is a gap: a firm one, that is open until it is handed off; a late one, until the last
// of its late notes is withdrawn; or one that lingers, which is not open.
type note struct {
	saved
	firm bool
	// late are the notes that can be withdrawn, with the timers that end this. None if firm.
	late map[uint64]*time.Timer
	// lingering removes the file of a gap that lingers; nil if it does not.
	lingering *time.Timer
	session   *session // the hand-off that is under way, or nil
	// unsure is set while it is not known what lies on disk: the last change of the note
	// failed, and may have come to pass all the same.
	unsure bool
}

// session is a hand-off. It reads one window of time after the other.
type session struct {
	number uint64 // of the present window
	// missed is the oldest time that was noted since the window began.
	missed  int64
	timeout *time.Timer
	// busy keeps the session from timing out while its gap is being written: what it read
	// must not be offered before that is decided.
	busy bool
}

// Open reads the notes there are. A damaged one becomes a gap without a beginning: the peer
// is handed all it owns.
func Open(o Options) (*Book, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	b := &Book{dir: o.Dir, logger: o.Logger, writing: make(chan struct{}, 1), notes: map[table.NodeID]*note{}, last: rand.Uint64()}
	if err := statefile.MakeDir(o.Dir); err != nil {
		return nil, fmt.Errorf("gap notes: %w", err)
	}
	entries, err := os.ReadDir(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("gap notes: %w", err)
	}
	for _, e := range entries {
		peer, ok := strings.CutPrefix(e.Name(), filePrefix)
		if !ok || strings.HasSuffix(peer, ".tmp") {
			continue
		}
		n, err := b.read(table.NodeID(peer))
		if err != nil {
			return nil, fmt.Errorf("gap notes: %w", err)
		}
		b.notes[n.Peer] = &note{saved: n, firm: true}
	}
	b.publish()
	if o.Registerer != nil {
		o.Registerer.MustRegister(collector{b})
	}
	return b, nil
}

func (b *Book) read(peer table.NodeID) (saved, error) {
	var s saved
	err := statefile.Load(b.dir, filePrefix+string(peer), &s)
	if err == nil && s.Peer != peer {
		err = fmt.Errorf("%w: it names peer %q", statefile.ErrDamaged, s.Peer)
	}
	if errors.Is(err, statefile.ErrDamaged) {
		path := filepath.Join(b.dir, filePrefix+string(peer))
		b.logger.Error("A gap note is damaged: the peer will be handed all that it owns", "peer", peer, "file", path, "err", err)
		opened := time.Now()
		if info, err := os.Stat(path); err == nil {
			opened = info.ModTime()
		}
		return saved{Peer: peer, Since: forever, Opened: opened}, nil
	}
	return s, err
}

// Offered returns the open gaps that a confirmation may carry, for a part that was stored
// before the call. The caller must not change them.
func (b *Book) Offered() []proof.Gap { return *b.offered.Load() }

// Noted returns all gaps that queries have to know of, sorted by peer: open ones and late ones.
func (b *Book) Noted() []proof.Gap {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.listed(func(n *note) bool { return n.firm || len(n.late) > 0 })
}

// Open returns the gaps that have to be handed off, sorted by peer.
func (b *Book) Open() []proof.Gap {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.listed(func(n *note) bool { return n.firm })
}

// listed is called with mu held.
func (b *Book) listed(which func(*note) bool) []proof.Gap {
	list := make([]proof.Gap, 0, len(b.notes))
	for _, n := range b.notes {
		if which(n) {
			list = append(list, proof.Gap{Peer: n.Peer, Since: n.Since, Late: !n.firm})
		}
	}
	slices.SortFunc(list, func(a, b proof.Gap) int { return strings.Compare(string(a.Peer), string(b.Peer)) })
	return list
}

// publish makes known what is offered. It is called with mu held, or before anybody else
// has the book.
func (b *Book) publish() {
	list := b.listed(func(n *note) bool { return n.firm && n.session == nil && !n.unsure })
	b.offered.Store(&list)
}

// Note returns when a gap for the peer is on disk that begins at the time or before, in
// milliseconds. It tells a hand-off under way that it missed something.
func (b *Book) Note(ctx context.Context, peer table.NodeID, since int64) error {
	_, err := b.note(ctx, peer, since, false)
	return err
}

func (b *Book) note(ctx context.Context, peer table.NodeID, since int64, late bool) (ticket uint64, err error) {
	if err := b.lockFile(ctx); err != nil {
		return 0, fmt.Errorf("note a gap for %s: %w", peer, err)
	}
	defer b.unlockFile()
	b.mu.Lock()
	next, done := b.next(peer, since)
	b.mu.Unlock()
	if !done {
		if err := b.save(next); err != nil {
			return 0, err
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	n := b.notes[peer]
	// Told only now: a window that began while the note was being saved began where the gap
	// began before.
	n.miss(since)
	if late && !n.firm {
		return b.wait(n), nil
	}
	b.keep(n)
	return 0, nil
}

// next returns what has to lie on disk for a note, and whether it does. It is called with mu
// held.
func (b *Book) next(peer table.NodeID, since int64) (next saved, done bool) {
	next = saved{Peer: peer, Since: earlier(since), Opened: time.Now()}
	n := b.notes[peer]
	switch {
	case n == nil:
		return next, false
	case n.lingering != nil:
		if n.Since < next.Since-drift.Milliseconds() {
			return next, false
		}
	default:
		next.Opened = n.Opened
	}
	next.Since = min(next.Since, n.Since)
	return next, n.Since <= since && !n.unsure
}

// miss tells the window under way, if there is one, of a note. It is called with mu held.
func (n *note) miss(since int64) {
	if n.session != nil {
		n.session.missed = min(n.session.missed, since)
	}
}

// earlier is where a gap begins that a sample opens.
func earlier(t int64) int64 {
	if t < forever+2*slack.Milliseconds() {
		return forever
	}
	return t - slack.Milliseconds()
}

// save writes a note and makes it hold. The caller has the files.
func (b *Book) save(s saved) error {
	err := statefile.Save(b.dir, filePrefix+string(s.Peer), s)
	b.mu.Lock()
	defer b.mu.Unlock()
	defer b.publish()
	n := b.notes[s.Peer]
	if err != nil {
		if n != nil {
			n.unsure = true
		}
		return fmt.Errorf("note a gap for %s: %w", s.Peer, err)
	}
	if n == nil {
		n = &note{}
		b.notes[s.Peer] = n
	}
	n.saved, n.unsure = s, false
	return nil
}

// Begin starts a hand-off to the peer, or its next window if number is that of the present
// one. From its return on, until the session ends, the gap is not offered: what was stored for an
// offer before is in the store when the caller begins to read it. It returns where the gap
// begins; open is false if there is none that has to be handed off.
func (b *Book) Begin(peer table.NodeID, number uint64) (window uint64, since int64, open bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := b.notes[peer]
	if n == nil || !n.firm {
		return 0, 0, false
	}
	if n.session == nil || n.session.number != number {
		b.start(n)
	}
	b.last++
	n.session.number = b.last
	n.session.missed = math.MaxInt64
	n.session.timeout.Reset(sessionTimeout)
	return n.session.number, n.Since, true
}

// start replaces the session of a gap. It is called with mu held.
func (b *Book) start(n *note) {
	if n.session != nil {
		n.session.timeout.Stop()
	}
	s := &session{}
	s.timeout = time.AfterFunc(sessionTimeout, func() { b.end(n, s) })
	n.session = s
	b.publish()
}

// end offers the gap again, if the session is still the present one.
func (b *Book) end(n *note, s *session) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n.session == s && !s.busy {
		n.session = nil
		b.publish()
	}
}

// Alive keeps a session from timing out while its window is on the way.
func (b *Book) Alive(peer table.NodeID, number uint64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	n, err := b.present(peer, number)
	if err != nil {
		return err
	}
	n.session.timeout.Reset(sessionTimeout)
	return nil
}

// present returns the gap with that window. It is called with mu held.
func (b *Book) present(peer table.NodeID, number uint64) (*note, error) {
	n := b.notes[peer]
	if n == nil || n.session == nil || n.session.number != number {
		return nil, ErrSession
	}
	return n, nil
}

// Advance says that the peer has stored and synced the window that ends before a time, in
// milliseconds; math.MaxInt64 is the end of the last one. The gap begins there from now on,
// or at what was noted since the window began if that is earlier. It returns where that is,
// and whether the gap is still open; a closed one has ended its session. Any other window
// than the present one is ErrSession.
func (b *Book) Advance(ctx context.Context, peer table.NodeID, number uint64, until int64) (since int64, open bool, err error) {
	if err := b.lockFile(ctx); err != nil {
		return 0, false, fmt.Errorf("advance the gap of %s: %w", peer, err)
	}
	defer b.unlockFile()
	b.mu.Lock()
	n, err := b.present(peer, number)
	if err != nil {
		b.mu.Unlock()
		return 0, false, err
	}
	current := n.session
	current.busy = true
	next := n.saved
	next.Since = min(until, current.missed)
	b.mu.Unlock()

	open = next.Since != math.MaxInt64
	if open {
		err = b.save(next)
	} else {
		err = b.remove(n)
	}
	if err == nil && !open {
		b.logger.Info("A peer has caught up: its gap is closed", "peer", peer, "open", time.Since(n.Opened).Round(time.Second))
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	current.busy = false
	current.timeout.Reset(sessionTimeout)
	return next.Since, open, err
}

// remove ends a gap. The caller has the files.
func (b *Book) remove(n *note) error {
	path := filepath.Join(b.dir, filePrefix+string(n.Peer))
	err := os.Remove(path)
	if err == nil || errors.Is(err, os.ErrNotExist) {
		err = statefile.SyncDir(b.dir)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err != nil {
		n.unsure = true
		b.publish()
		return fmt.Errorf("close the gap of %s: %w", n.Peer, err)
	}
	n.stop()
	delete(b.notes, n.Peer)
	b.publish()
	return nil
}

// Keep drops the gaps of peers that are no members any more: nobody reads from them.
func (b *Book) Keep(member func(table.NodeID) bool) {
	for _, g := range b.Noted() {
		if !member(g.Peer) {
			b.drop(g.Peer)
		}
	}
}

func (b *Book) drop(peer table.NodeID) {
	b.writing <- struct{}{}
	defer b.unlockFile()
	b.mu.Lock()
	n := b.notes[peer]
	b.mu.Unlock()
	if n == nil {
		return
	}
	if err := b.remove(n); err != nil {
		b.logger.Warn("A gap of a node that is no member any more stays on disk", "peer", peer, "err", err)
		return
	}
	b.logger.Info("A peer is no member any more: its gap is dropped", "peer", peer)
}

// Close stops all clocks. Notes stay on disk.
func (b *Book) Close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, n := range b.notes {
		if n.session != nil {
			n.session.timeout.Stop()
		}
		n.stop()
	}
}

func (b *Book) lockFile(ctx context.Context) error {
	select {
	case b.writing <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (b *Book) unlockFile() { <-b.writing }

func formatTime(ms int64) string {
	if ms == forever {
		return "the beginning"
	}
	return time.UnixMilli(ms).UTC().Format(time.RFC3339)
}
