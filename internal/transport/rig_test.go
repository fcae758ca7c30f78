package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"google.golang.org/grpc"

	"github.com/starling-tsdb/starling/internal/expiry"
	"github.com/starling-tsdb/starling/internal/proof"
	"github.com/starling-tsdb/starling/internal/pushdown"
	"github.com/starling-tsdb/starling/internal/series"
	"github.com/starling-tsdb/starling/internal/simnet"
	"github.com/starling-tsdb/starling/internal/spent"
	"github.com/starling-tsdb/starling/internal/table"
	"github.com/starling-tsdb/starling/internal/tracing"
)

// holder is a node's table, and its appender.
type holder struct {
	mu       sync.Mutex
	table    *table.Table
	appended []*series.Batch
	refuse   []series.Refusal
	gaps     []proof.Gap
	// withdrawn are the notes taken back, as "peer ticket".
	withdrawn []string
	// before, if set, is called with each append.
	before func(ctx context.Context, b *series.Batch)
	// remembers is the start of others that the node has seen, and outdated the one that
	// others have seen of it, if those are too late.
	remembers, outdated uint64
	word                expiry.Word
	heard               string // the last word, and from whom
}

func (h *holder) Table() *table.Table {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.table
}

func (h *holder) Learn(t *table.Table) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.table == nil || t.Epoch > h.table.Epoch {
		h.table = t
	}
	return nil
}

func (h *holder) Append(ctx context.Context, epoch uint64, b *series.Batch) (proof.Confirmation, error) {
	h.mu.Lock()
	before := h.before
	h.mu.Unlock()
	if before != nil {
		before(ctx, b)
	}
	if err := ctx.Err(); err != nil {
		return proof.Confirmation{}, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.table.Epoch != epoch {
		return proof.Confirmation{}, &table.MismatchError{Have: h.table, Want: epoch}
	}
	b.Retain()
	h.appended = append(h.appended, b)
	return proof.Confirmation{Outcome: series.Outcome{Refusals: h.refuse}, Gaps: h.offered()}, nil
}

// offered are the gaps that are not late.
func (h *holder) offered() []proof.Gap {
	return slices.DeleteFunc(slices.Clone(h.gaps), func(g proof.Gap) bool { return g.Late })
}

// onAppend has f called with each append from now on.
func (h *holder) onAppend(f func(ctx context.Context, b *series.Batch)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.before = f
}

func (h *holder) Note(_ context.Context, epoch uint64, peer table.NodeID, since int64) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.table.Epoch != epoch {
		return &table.MismatchError{Have: h.table, Want: epoch}
	}
	h.gaps = append(h.gaps, proof.Gap{Peer: peer, Since: since})
	return nil
}

func (h *holder) NoteLate(ctx context.Context, epoch uint64, peer table.NodeID, since int64) (ticket uint64, err error) {
	if err := h.Note(ctx, epoch, peer, since); err != nil {
		return 0, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.gaps[len(h.gaps)-1].Late = true
	return math.MaxUint64, nil
}

func (h *holder) Withdraw(peer table.NodeID, ticket uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.withdrawn = append(h.withdrawn, fmt.Sprint(peer, " ", ticket))
}

// A holder implements Starts.
func (h *holder) Self() table.NodeID        { return "local" }
func (h *holder) Own() (starts, run uint64) { return 5, 55 }

func (h *holder) Seen(_ table.NodeID, starts, run uint64) uint64 {
	if starts != 5 || run != 55 {
		panic("a start is not what was sent")
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.remembers
}

func (h *holder) Outdated(_ table.NodeID, remembered uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.outdated = remembered
}

// A holder implements Horizons.
func (h *holder) Word() expiry.Word {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.word
}

func (h *holder) Heard(_ context.Context, peer table.NodeID, w expiry.Word) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.heard = fmt.Sprint(peer, w)
}

func (h *holder) Handle(_ context.Context, request []byte) ([]byte, error) {
	if string(request) == "panic" {
		panic("on request")
	}
	return append([]byte("re: "), request...), nil
}

// localReader is a Reader and a Giver over a real TSDB.
type localReader struct {
	fragment string
	grid     pushdown.Grid
	part     *pushdown.Partial
	partErr  error
	// evaluating and selecting, if set, are called with each evaluation and selection.
	evaluating, selecting func(context.Context)
	*tsdb.DB
	holder   *holder
	selected Selection // the last one
	// labels, if set, answers what labelQuery is, the last one.
	labels     func(ctx context.Context, yield func(string) error) error
	labelQuery series.LabelQuery
	// spent is what requests that ask for it took.
	spent    *spent.Owner
	advanced []string
}

func (r *localReader) State() proof.State {
	r.holder.mu.Lock()
	defer r.holder.mu.Unlock()
	return proof.State{Session: 1 << 63, Gaps: slices.Clone(r.holder.gaps), Damage: []proof.Range{{Min: -5, Max: 5}}, Expired: []proof.Range{{Min: math.MinInt64, Max: -10}}}
}

func (r *localReader) Select(ctx context.Context, s Selection) (SeriesSet, error) {
	r.selected = s
	r.measure(s)
	if r.selecting != nil {
		r.selecting(ctx)
	}
	q, err := r.ChunkQuerier(s.Mint, s.Maxt)
	if err != nil {
		return nil, err
	}
	return closingSet{q.Select(ctx, true, s.Hints, s.Matchers...), q}, nil
}

func (r *localReader) Evaluate(ctx context.Context, s Selection, fragment string, g pushdown.Grid) (*pushdown.Partial, error) {
	r.selected, r.fragment, r.grid = s, fragment, g
	r.measure(s)
	if r.evaluating != nil {
		r.evaluating(ctx)
	}
	return r.part, r.partErr
}

// measure notes what is set, unless that is nothing.
func (r *localReader) measure(s Selection) {
	if s.Spent != nil {
		s.Spent.Owner = r.spent
	}
}

// Sum has something in the first range and in the last one.
func (r *localReader) Sum(_ context.Context, s Selection) (*proof.Sums, error) {
	r.selected = s
	return &proof.Sums{0: math.MaxUint64, proof.KeyRanges - 1: 7}, nil
}

// Give hands everything since 50 to "local", and nothing to others.
func (r *localReader) Give(ctx context.Context, epoch uint64, peer table.NodeID, session uint64) (proof.Window, SeriesSet, error) {
	if peer != "local" {
		return proof.Window{}, nil, nil
	}
	set, err := r.Select(ctx, Selection{Epoch: epoch, Mint: 50, Maxt: math.MaxInt64, Matchers: everything})
	return proof.Window{Session: session + 1, Since: 50, Until: math.MaxInt64}, set, err
}

func (r *localReader) Advance(_ context.Context, peer table.NodeID, session uint64, until int64) (bool, error) {
	r.advanced = append(r.advanced, fmt.Sprint(peer, session, until))
	return len(r.advanced) == 1, nil
}

type closingSet struct {
	storage.ChunkSeriesSet
	io.Closer
}

// Labels are those of the TSDB, or as many as are set.
func (r *localReader) Labels(ctx context.Context, q series.LabelQuery, yield func(string) error) error {
	r.labelQuery = q
	if r.labels != nil {
		return r.labels(ctx, yield)
	}
	querier, err := r.ChunkQuerier(q.Mint, q.Maxt)
	if err != nil {
		return err
	}
	defer querier.Close()
	all, _, err := querier.LabelNames(ctx, nil, q.Matchers...)
	if q.Name != "" {
		all, _, err = querier.LabelValues(ctx, q.Name, nil, q.Matchers...)
	}
	for _, s := range all {
		err = errors.Join(err, yield(s))
	}
	return err
}

func (r *localReader) Metadata(string, int, int) map[string][]metadata.Metadata {
	return map[string][]metadata.Metadata{"m": {{Type: "counter", Help: "h"}}}
}

func (r *localReader) Stats(label string, limit int) (*tsdb.Stats, error) {
	return r.Head().Stats(label, limit), nil
}

type rig struct {
	net    *simnet.Net
	local  *holder // the client's node
	remote *holder
	db     *tsdb.DB
	reader *localReader
	peers  *Peers
	raft   net.Listener
	tracer *tracing.Tracer // of the remote node, from the next serve on
	stop   func(grace time.Duration)
}

func epoch(n uint64) *table.Table {
	return &table.Table{
		ClusterID: "c", Epoch: n, KeyVersion: table.KeyVersion,
		Current: table.Assignment{ReplicationFactor: 1, Slots: []table.Slot{{Node: "remote"}}},
	}
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{net: simnet.New(), local: &holder{table: epoch(1)}, remote: &holder{table: epoch(1)}}
	opts := tsdb.DefaultOptions()
	opts.EnableExemplarStorage, opts.MaxExemplars = true, 10
	var err error
	if r.db, err = tsdb.Open(t.TempDir(), slog.New(slog.DiscardHandler), nil, opts, nil); err != nil {
		t.Fatal(err)
	}
	r.reader = &localReader{DB: r.db, holder: r.remote}
	r.serve(t)
	r.peers = NewPeers(PeersOptions{
		Address: func(table.NodeID) (string, bool) { return "10.0.0.2:9081", true },
		Dial:    r.net.Host("10.0.0.1").Dial, Tables: r.local, Starts: r.local, Horizons: r.local, MaxInFlightBytes: maxInFlight,
	})
	t.Cleanup(func() {
		r.peers.Close()
		r.stop(time.Second)
		r.db.Close()
	})
	return r
}

// serve starts the remote node's server. A rig has one at a time, which stop ends.
func (r *rig) serve(t *testing.T) {
	t.Helper()
	l, err := r.net.Host("10.0.0.2").Listen(9081)
	if err != nil {
		t.Fatal(err)
	}
	split := Split(l)
	r.raft = split.Raft()
	server := NewServer(ServerOptions{
		Self:     "remote",
		Appender: r.remote, Reader: r.reader, Giver: r.reader, Tables: r.remote, Starts: r.remote, Horizons: r.remote, Reporter: r.reader, Membership: r.remote, Tracer: r.tracer, Logger: slog.New(slog.DiscardHandler),
	})
	served := make(chan error, 1)
	go func() { served <- server.Serve(split.GRPC()) }()
	r.stop = func(grace time.Duration) {
		server.Stop(grace)
		// A host that went down took its listener with it.
		if err := <-served; err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, grpc.ErrServerStopped) {
			t.Error(err)
		}
		split.Close()
	}
}

// maxInFlight is how much may be on its way to a peer of a rig.
const maxInFlight = 1 << 20

func (r *rig) fill(t *testing.T, n int) {
	t.Helper()
	app := r.db.Appender(t.Context())
	for i := range n {
		ls := labels.FromStrings("__name__", "m", "i", string(rune('a'+i%26)), "j", string(rune('a'+i/26)))
		for ts := range int64(10) {
			if _, err := app.Append(0, ls, ts, float64(ts)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := app.Commit(); err != nil {
		t.Fatal(err)
	}
}

var everything = []*labels.Matcher{labels.MustNewMatcher(labels.MatchRegexp, "__name__", ".+")}
