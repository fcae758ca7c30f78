package damage

import (
	"context"
	"errors"
	"math"
	"runtime/debug"
	"sync/atomic"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/util/annotations"
)

// Guard stands around the queriers of one open TSDB. What fails or panics over a block, or
// over the head's mapped chunks, fails the query, and is noted as damage of all that the
// block or the head holds: which samples are behind a byte that cannot be read, nobody
// knows. A block that turns out to be whole is taken out of the notes by the next [Scrub].
type Guard struct {
	ledger *Ledger
	head   atomic.Pointer[tsdb.Head]
}

// Guard returns a guard for a TSDB that is about to be opened.
func (l *Ledger) Guard() *Guard { return &Guard{ledger: l} }

// Watch tells the guard which head it stands around. No query may come before.
func (g *Guard) Watch(h *tsdb.Head) { g.head.Store(h) }

// BlockQuerier returns a querier over a block.
func (g *Guard) BlockQuerier(b *tsdb.Block, mint, maxt int64) (q storage.Querier, err error) {
	note := g.noteOf(b)
	err = note.do(func() error { q, err = tsdb.NewBlockQuerier(b, mint, maxt); return err })
	if err != nil {
		return nil, err
	}
	return querier{Querier: q, note: note}, nil
}

// BlockChunkQuerier returns a querier over the chunks of a block.
func (g *Guard) BlockChunkQuerier(b *tsdb.Block, mint, maxt int64) (storage.ChunkQuerier, error) {
	return g.BlockChunkQuerierBy(b, func() (storage.ChunkQuerier, error) { return tsdb.NewBlockChunkQuerier(b, mint, maxt) })
}

// BlockChunkQuerierBy guards a querier over the chunks of a block, and the opening of it.
func (g *Guard) BlockChunkQuerierBy(b *tsdb.Block, open func() (storage.ChunkQuerier, error)) (q storage.ChunkQuerier, err error) {
	note := g.noteOf(b)
	err = note.do(func() error { q, err = open(); return err })
	if err != nil {
		return nil, err
	}
	return chunkQuerier{ChunkQuerier: q, note: note}, nil
}

// Reading returns what runs who reads a block, and notes what goes wrong as damage to the block.
func (g *Guard) Reading(b *tsdb.Block) func(read func() error) error { return g.noteOf(b).do }

// Querier guards a querier of the whole TSDB: what none of the blocks was blamed for is the
// head's.
func (g *Guard) Querier(q storage.Querier) storage.Querier {
	return querier{Querier: q, note: g.headNote()}
}

// ChunkQuerier is Querier for chunks.
func (g *Guard) ChunkQuerier(q storage.ChunkQuerier) storage.ChunkQuerier {
	return chunkQuerier{ChunkQuerier: q, note: g.headNote()}
}

// note knows whom to blame for what goes wrong in a part of the TSDB.
type note struct {
	ledger *Ledger
	// blame is the range to note, without its detail.
	blame func() Range
	// damaged tells whether an error, not a panic, speaks of damage.
	damaged func(error) bool
}

// noteOf returns whom to blame over a block.
func (g *Guard) noteOf(b *tsdb.Block) *note {
	return &note{ledger: g.ledger, damaged: blamesBlock, blame: func() Range {
		meta := b.Meta()
		return Range{Kind: Block, Name: meta.ULID.String(), MinTime: meta.MinTime, MaxTime: meta.MaxTime - 1}
	}}
}

func (g *Guard) headNote() *note {
	return &note{ledger: g.ledger, damaged: blamesHead, blame: func() Range {
		r := Range{Kind: HeadChunks, Name: "chunks_head", MinTime: math.MinInt64, MaxTime: math.MaxInt64}
		if h := g.head.Load(); h != nil {
			r.MinTime, r.MaxTime = min(h.MinTime(), h.MinOOOTime()), max(h.MaxTime(), h.MaxOOOTime())
		}
		return r
	}}
}

// ByReader returns an error of who reads, which says nothing of what is read.
func ByReader(err error) error { return readerError{err} }

type readerError struct{ error }

func (e readerError) Unwrap() error { return e.error }

// blamesBlock: a block has no other reasons to fail than these and damage.
func blamesBlock(err error) bool {
	if _, byReader := errors.AsType[readerError](err); byReader {
		return false
	}
	return !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, tsdb.ErrClosing)
}

// blamesHead: the head's errors are many, one says that a chunk is broken. While it is being
// closed there are no files any more.
func blamesHead(err error) bool {
	var corruption *chunks.CorruptionErr
	return errors.As(err, &corruption)
}

// do runs f and notes what goes wrong. An error that has been noted already, by a block
// within the TSDB, is not the head's.
func (n *note) do(f func() error) error {
	err := safely(f)
	if err == nil {
		return nil
	}
	var noted *notedError // allocates, which the line before spares nearly all calls
	if errors.As(err, &noted) || !(errors.Is(err, errPanic) || n.damaged(err)) {
		return err
	}
	r := n.blame()
	r.Detail, r.Found = oneLine(err), n.ledger.opts.Now()
	known := false
	for _, k := range n.ledger.Ranges() {
		known = known || (k.Kind == r.Kind && k.Name == r.Name && k.MinTime <= r.MinTime && r.MaxTime <= k.MaxTime)
	}
	if !known {
		err = errors.Join(err, n.ledger.Add(r))
	}
	return &notedError{err}
}

// notedError is an error that is in the ledger.
type notedError struct{ error }

func (e *notedError) Unwrap() error { return e.error }

type querier struct {
	storage.Querier
	note *note
}

// Select implements storage.Querier.
func (q querier) Select(ctx context.Context, sorted bool, hints *storage.SelectHints, ms ...*labels.Matcher) storage.SeriesSet {
	var set storage.SeriesSet
	if err := q.note.do(func() error { set = q.Querier.Select(ctx, sorted, hints, ms...); return nil }); err != nil {
		return storage.ErrSeriesSet(err)
	}
	return &seriesSet{SeriesSet: set, step: step{note: q.note}}
}

// LabelValues implements storage.LabelQuerier.
func (q querier) LabelValues(ctx context.Context, name string, hints *storage.LabelHints, ms ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return q.note.labels(func() ([]string, annotations.Annotations, error) {
		return q.Querier.LabelValues(ctx, name, hints, ms...)
	})
}

// LabelNames implements storage.LabelQuerier.
func (q querier) LabelNames(ctx context.Context, hints *storage.LabelHints, ms ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return q.note.labels(func() ([]string, annotations.Annotations, error) { return q.Querier.LabelNames(ctx, hints, ms...) })
}

type chunkQuerier struct {
	storage.ChunkQuerier
	note *note
}

// Select implements storage.ChunkQuerier.
func (q chunkQuerier) Select(ctx context.Context, sorted bool, hints *storage.SelectHints, ms ...*labels.Matcher) storage.ChunkSeriesSet {
	var set storage.ChunkSeriesSet
	if err := q.note.do(func() error { set = q.ChunkQuerier.Select(ctx, sorted, hints, ms...); return nil }); err != nil {
		return storage.ErrChunkSeriesSet(err)
	}
	return &chunkSeriesSet{ChunkSeriesSet: set, step: step{note: q.note}}
}

// LabelValues implements storage.LabelQuerier.
func (q chunkQuerier) LabelValues(ctx context.Context, name string, hints *storage.LabelHints, ms ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return q.note.labels(func() ([]string, annotations.Annotations, error) {
		return q.ChunkQuerier.LabelValues(ctx, name, hints, ms...)
	})
}

// LabelNames implements storage.LabelQuerier.
func (q chunkQuerier) LabelNames(ctx context.Context, hints *storage.LabelHints, ms ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return q.note.labels(func() ([]string, annotations.Annotations, error) {
		return q.ChunkQuerier.LabelNames(ctx, hints, ms...)
	})
}

func (n *note) labels(ask func() ([]string, annotations.Annotations, error)) (values []string, warnings annotations.Annotations, err error) {
	err = n.do(func() error {
		var err error
		values, warnings, err = ask()
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	return values, warnings, nil
}

// step guards what goes on from element to element, and ends at the first error.
type step struct {
	note *note
	err  error
}

// next advances. It tells whether there is a next element.
func (s *step) next(advance func() bool, failure func() error) (more bool) {
	if s.err != nil {
		return false
	}
	s.err = s.note.do(func() error {
		if more = advance(); !more {
			return failure()
		}
		return nil
	})
	return more && s.err == nil
}

type seriesSet struct {
	storage.SeriesSet
	step
}

// Next implements storage.SeriesSet.
func (s *seriesSet) Next() bool { return s.next(s.SeriesSet.Next, s.SeriesSet.Err) }

// Err implements storage.SeriesSet.
func (s *seriesSet) Err() error { return s.err }

// At implements storage.SeriesSet.
func (s *seriesSet) At() storage.Series { return series{s.SeriesSet.At(), s.note} }

type series struct {
	storage.Series
	note *note
}

// Iterator implements storage.Series.
func (s series) Iterator(reuse chunkenc.Iterator) chunkenc.Iterator {
	it, ok := reuse.(*sampleIterator)
	if !ok {
		it = new(sampleIterator)
	}
	it.step = step{note: s.note}
	inner := it.Iterator
	it.err = s.note.do(func() error { it.Iterator = s.Series.Iterator(inner); return nil })
	return it
}

// milliseconds has a name of its own since vet takes Seek(int64) for that of io.Seeker.
type milliseconds = int64

type sampleIterator struct {
	chunkenc.Iterator
	step
}

// Next implements chunkenc.Iterator.
func (it *sampleIterator) Next() (vt chunkenc.ValueType) {
	if it.err != nil {
		return chunkenc.ValNone
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer it.end(&vt)
	vt = it.Iterator.Next()
	return vt
}

// Seek implements chunkenc.Iterator.
func (it *sampleIterator) Seek(t milliseconds) (vt chunkenc.ValueType) {
	if it.err != nil {
		return chunkenc.ValNone
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer it.end(&vt)
	vt = it.Iterator.Seek(t)
	return vt
}

// end is deferred, and looks why there is no further sample. It is not step.next since that
// costs several times what a sample does.
func (it *sampleIterator) end(vt *chunkenc.ValueType) {
	if *vt != chunkenc.ValNone {
		return
	}
	reason := recover()
	it.err = it.note.do(func() error {
		if reason != nil {
			panic(reason)
		}
		return it.Iterator.Err()
	})
}

// Err implements chunkenc.Iterator.
func (it *sampleIterator) Err() error { return it.err }

type chunkSeriesSet struct {
	storage.ChunkSeriesSet
	step
}

// Next implements storage.ChunkSeriesSet.
func (s *chunkSeriesSet) Next() bool { return s.next(s.ChunkSeriesSet.Next, s.ChunkSeriesSet.Err) }

// Err implements storage.ChunkSeriesSet.
func (s *chunkSeriesSet) Err() error { return s.err }

// At implements storage.ChunkSeriesSet.
func (s *chunkSeriesSet) At() storage.ChunkSeries {
	at := s.ChunkSeriesSet.At()
	if l, ok := at.(Loaded); ok && l.Loaded() {
		return at
	}
	return chunkSeries{at, s.note}
}

// Loaded is a series that may have been read when its set advanced to it. Then it needs no guard any
// more.
type Loaded interface {
	Loaded() bool
}

// Divide divides what can be divided, and guards each part.
func (s *chunkSeriesSet) Divide(most int) []storage.ChunkSeriesSet {
	d, ok := s.ChunkSeriesSet.(interface {
		Divide(most int) []storage.ChunkSeriesSet
	})
	if !ok || s.err != nil {
		return nil
	}
	parts := d.Divide(most)
	for i, p := range parts {
		parts[i] = &chunkSeriesSet{ChunkSeriesSet: p, step: step{note: s.note}}
	}
	return parts
}

type chunkSeries struct {
	storage.ChunkSeries
	note *note
}

// Iterator implements storage.ChunkSeries.
func (s chunkSeries) Iterator(reuse chunks.Iterator) chunks.Iterator {
	it, ok := reuse.(*chunkIterator)
	if !ok {
		it = new(chunkIterator)
	}
	it.step = step{note: s.note}
	inner := it.Iterator
	it.err = s.note.do(func() error { it.Iterator = s.ChunkSeries.Iterator(inner); return nil })
	return it
}

type chunkIterator struct {
	chunks.Iterator
	step
}

// Next implements chunks.Iterator.
func (it *chunkIterator) Next() bool {
	return it.next(func() bool { return it.Iterator.Next() }, func() error { return it.Iterator.Err() })
}

// Err implements chunks.Iterator.
func (it *chunkIterator) Err() error { return it.err }

// Excluded is for tsdb.Options.BlockCompactionExcludeFunc: a block that is noted as damaged
// is not compacted, which would fail, or spread what is wrong.
func (l *Ledger) Excluded(meta *tsdb.BlockMeta) bool {
	return l.noted(meta.ULID)
}
