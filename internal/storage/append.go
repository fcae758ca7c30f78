package storage

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/model/value"
	promstorage "github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"

	"github.com/starling-tsdb/starling/internal/series"
	"github.com/starling-tsdb/starling/internal/tracing"
)

// maxAttempts bounds how often an append starts anew because the head dropped a series
// between its look-up and its use. Once is rare.
const maxAttempts = 10

// Append stores a batch. After an error nothing of the batch may be counted as confirmed,
// whatever of it is stored. Otherwise all items that the outcome does not refuse are
// stored, duplicates of stored samples included, and synced as Options.WALSync says.
// What is expired is too old, and invalid as that is: owners that agree on the horizon answer
// alike, and where they do not yet, W of them decide as they do of ages.
// A duplicate with another value is refused as a conflict only where the TSDB notices:
// at the newest timestamp of a series. At a timestamp that is in the out-of-order chunk
// being filled it is dropped, and elsewhere it is stored, too. Exemplars are best effort: the TSDB recognises a
// repeated one, except the smaller of two at the same timestamp.
//
// Waiting for others and for the sync ends with ctx, with its cause. A panic within the
// TSDB is answered by an error that wraps ErrFenced; see Fatal.
//
// The batch is only read, but its strings may be kept. Metadata is best effort.
func (s *Store) Append(ctx context.Context, b *series.Batch) (outcome series.Outcome, err error) {
	ctx, traced := tracing.Start(ctx, "store")
	defer func() { endStore(traced, b, outcome, err) }()
	return s.append(ctx, &write{batch: b})
}

func endStore(traced *tracing.Span, b *series.Batch, o series.Outcome, err error) {
	if traced != nil {
		traced.Set(tracing.Series(len(b.Series)), tracing.Samples(b.NumSamples()), tracing.Int("starling.refused", len(o.Refusals)))
		traced.End(err)
	}
}

// Import stores samples that other nodes have taken already, however old or new they are
// and however many series there are, and returns when they are synced as Append does. What
// the store holds already stays as it is; another value for it is treated as by Append,
// except that a conflict is no error; what is expired is left out. An error means that nothing
// is confirmed.
func (s *Store) Import(ctx context.Context, b *series.Batch) error {
	outcome, err := s.append(ctx, &write{batch: b, imported: true})
	if err != nil {
		return err
	}
	for _, r := range outcome.Refusals {
		if r.Reason != series.Conflict && !r.Exemplar {
			return fmt.Errorf("import of %s: sample %d: %s", b.Series[r.Series].Labels, r.Item, r.Message)
		}
	}
	return nil
}

// Sync returns when all that answers have shown before the call is synced as Append does it:
// samples are in answers before.
func (s *Store) Sync(ctx context.Context) error {
	if err := s.appends.enter(); err != nil {
		return err
	}
	defer s.appends.leave()
	// What a commit has in memory already may not be in the logs before it ends.
	if err := s.commits.take(ctx, s.fence); err != nil {
		return err
	}
	s.commits.give()
	return s.durable(ctx, s.sync.upcoming())
}

func (s *Store) append(ctx context.Context, w *write) (series.Outcome, error) {
	if err := s.appends.enter(); err != nil {
		return series.Outcome{}, err
	}
	defer s.appends.leave()
	if err := s.fence.admit(); err != nil {
		return series.Outcome{}, err
	}
	if err := ctx.Err(); err != nil {
		return series.Outcome{}, fmt.Errorf("append: %w", context.Cause(ctx))
	}
	refs := s.takeRefs(len(w.batch.Series))
	w.refs = *refs
	s.sync.begin()
	err := s.write(ctx, w)
	next := s.sync.upcoming()
	s.sync.end()
	w.refs = nil
	s.refs.Put(refs)
	if err != nil {
		return series.Outcome{}, err
	}
	if err := s.confirm(ctx, w, next); err != nil {
		return series.Outcome{}, err
	}
	s.families.add(w.batch.Metadata)
	s.metrics.observe(w.counts, w.refusals)
	return series.Outcome{Refusals: w.refusals}, nil
}

// takeRefs returns memory for so many references, with any content.
func (s *Store) takeRefs(n int) *[]promstorage.SeriesRef {
	refs, _ := s.refs.Get().(*[]promstorage.SeriesRef)
	if refs == nil {
		refs = new([]promstorage.SeriesRef)
	}
	*refs = slices.Grow((*refs)[:0], n)[:n]
	return refs
}

// confirm returns when what w wrote before a round is as durable as the mode promises.
func (s *Store) confirm(ctx context.Context, w *write, next *round) error {
	if w.counts == (counts{}) {
		return s.fence.check()
	}
	ctx, traced := tracing.Start(ctx, "sync")
	err := s.durable(ctx, next)
	traced.End(err)
	return err
}

// durable returns when what the logs held before a round is as durable as the mode promises.
func (s *Store) durable(ctx context.Context, next *round) error {
	if s.opts.WALSync == SyncCommit {
		return s.sync.wait(ctx, next)
	}
	return s.fence.check()
}

// write is one batch on its way into the TSDB.
type write struct {
	batch *series.Batch
	// imported samples may have any age, and their series be new whatever their number.
	imported bool
	// moved is set when the head has dropped one of the series between its look-up and its
	// use. All are looked up by their labels then.
	moved bool
	// taken are the timestamps that the TSDB is asked to take.
	taken    span
	horizon  int64
	ahead    time.Duration
	refs     []promstorage.SeriesRef // by index into the batch, 0 for unknown
	full     map[int]bool            // new series that there is no room for
	metadata map[string]metadata.Metadata
	// another opens an appender beside the batch's own.
	another  func() promstorage.AppenderV2
	refusals []series.Refusal
	counts   counts
}

// span is a range of timestamps in milliseconds, both inclusive.
type span struct{ min, max int64 }

type counts struct{ floats, histograms, exemplars int }

// write commits a batch, without syncing it.
func (s *Store) write(ctx context.Context, w *write) error {
	w.taken, w.ahead, w.horizon = span{lowest, math.MaxInt64}, s.opts.MaxFuture, s.Horizon().At()
	if now := s.opts.Now(); !w.imported {
		w.taken = span{s.oldest(now), now.Add(s.opts.MaxFuture).UnixMilli()}
	}
	w.taken.min = max(w.taken.min, w.horizon)
	w.another = func() promstorage.AppenderV2 { return s.db.AppenderV2(ctx) }
	if s.walMetadata {
		w.metadata = byFamily(w.batch.Metadata)
	}
	err := errSeriesMoved
	for n := 0; n < maxAttempts && errors.Is(err, errSeriesMoved); n++ {
		err = s.writeSamples(ctx, w)
		w.moved = errors.Is(err, errSeriesMoved)
	}
	if err != nil {
		return err
	}
	return s.writeExemplars(ctx, w)
}

func (s *Store) writeSamples(ctx context.Context, w *write) error {
	app, err := s.appender(ctx, w)
	if err != nil {
		return err
	}
	err = s.fence.guard("append to the TSDB", func() error { return w.samples(app) })
	if err != nil {
		return s.undo(app, err)
	}
	return s.commit(ctx, app)
}

// commit makes an appender's samples part of the head and of the logs, one appender at a
// time: the TSDB logs first and inserts afterwards, so that two commits on one series can
// insert in the other order than they log. A sample that was in order in memory and comes
// late in the log is not in the out-of-order log either, and a replay drops it.
//
// A log that cannot be written fences the store. After an error the appender is closed,
// except in a dead store.
func (s *Store) commit(ctx context.Context, app promstorage.AppenderTransaction) error {
	if err := s.commits.take(ctx, s.fence); err != nil {
		return s.undo(app, err)
	}
	defer s.commits.give()
	err := s.fence.guard("commit to the TSDB", app.Commit)
	if err != nil && !errors.Is(err, ErrFenced) {
		return s.fence.raise(fmt.Errorf("commit to the TSDB: %w", err))
	}
	return err
}

// lowest is the oldest timestamp that is taken whatever the options: differences of it and
// any other that is taken, or any window, do not overflow.
const lowest = math.MinInt64 / 2

// oldest returns the oldest timestamp that is taken from a sender, in milliseconds: the
// out-of-order window behind the newest sample of the head. The TSDB itself is given a
// window without end, for what peers hand over, and does not judge. An empty head has no
// newest sample; so that its answers are those of its co-owners, the clock stands for it,
// with the duration of a block to spare for senders that are behind.
func (s *Store) oldest(now time.Time) int64 {
	head := s.db.Head()
	if _, ok := head.AppendableMinValidTime(); ok && head.NumSeries() > 0 {
		return max(lowest, max(lowest, head.MaxTime())-s.opts.OutOfOrderWindow.Milliseconds())
	}
	// One after the other, as their sum may overflow.
	t := now.Add(-s.opts.OutOfOrderWindow).Add(-s.opts.MinBlockDuration)
	return max(lowest, t.UnixMilli())
}

// samples hands all samples to app. It returns an error if they must be rolled back.
func (w *write) samples(app promstorage.AppenderV2) error {
	w.refusals, w.counts = nil, counts{}
	for i := range w.batch.Series {
		sr := &w.batch.Series[i]
		var opts promstorage.AOptions
		if w.metadata != nil {
			opts.Metadata = w.metadataOf(sr.Labels.Get("__name__"))
		}
		for j := range sr.Samples {
			if err := w.sample(app, i, j, opts); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *write) sample(app promstorage.AppenderV2, i, j int, opts promstorage.AOptions) error {
	sr := &w.batch.Series[i]
	p := &sr.Samples[j]
	switch {
	case p.T > w.taken.max:
		w.refuse(i, j, series.Invalid, w.tooFarAhead(p.T))
		return nil
	case w.imported && p.T < w.horizon:
		return nil
	case p.T < w.taken.min:
		w.refuse(i, j, series.Invalid, w.tooOld(p.T))
		return nil
	case w.full[i]:
		w.refuse(i, j, series.Limit, tooMany)
		return nil
	}
	h, fh, err := ownHistogram(p)
	if err != nil {
		w.refuse(i, j, series.Invalid, err.Error())
		return nil
	}
	v := p.V
	if p.IsHistogram() {
		v = 0
	}
	ls := sr.Labels
	if w.refs[i] != 0 {
		// With labels the TSDB would create a series that it has dropped, and in the log it
		// could stand behind samples of another appender.
		ls = labels.EmptyLabels()
	}
	ref, err := app.Append(w.refs[i], ls, p.ST, p.T, v, h, fh, opts)
	// The sentinel becomes an interface, and allocates, each time that it is compared with.
	if err != nil && value.IsStaleNaN(v) && errors.Is(err, promstorage.ErrDuplicateSampleForTimestamp) {
		ref, err = w.repeatedMarker(app, w.refs[i], ls, p)
	}
	if err != nil {
		if w.refs[i] != 0 && errors.Is(err, tsdb.ErrInvalidSample) {
			return errSeriesMoved
		}
		reason := reasonOf(err)
		if reason == 0 {
			return fmt.Errorf("append to the TSDB: %w", err)
		}
		msg := err.Error()
		if errors.Is(err, promstorage.ErrTooOldSample) {
			msg = w.tooOld(p.T)
		}
		w.refuse(i, j, reason, msg)
		return nil
	}
	if ref != w.refs[i] {
		return errSeriesMoved
	}
	if p.IsHistogram() {
		w.counts.histograms++
	} else {
		w.counts.floats++
	}
	return nil
}

// refuse answers that a sample is not taken.
func (w *write) refuse(i, j int, r series.Reason, msg string) {
	w.refusals = append(w.refusals, series.Refusal{Series: i, Item: j, Reason: r, Message: msg})
}

// repeatedMarker appends a stale marker again, as the kinds of histogram that the TSDB
// makes of it in a series of histograms. Senders know one kind of marker only, so the
// repetition of one that was stored looks to the TSDB like a float that conflicts with
// a histogram. Where the appender has a histogram of the series it takes every marker for one,
// so that another appender is asked about floats. Equal to what is stored it is a success,
// and nothing is stored twice.
func (w *write) repeatedMarker(app promstorage.AppenderV2, ref promstorage.SeriesRef, ls labels.Labels, p *series.Sample) (promstorage.SeriesRef, error) {
	got, err := app.Append(ref, ls, p.ST, p.T, 0, &histogram.Histogram{Sum: p.V}, nil, promstorage.AppendV2Options{})
	if errors.Is(err, promstorage.ErrDuplicateSampleForTimestamp) {
		got, err = app.Append(ref, ls, p.ST, p.T, 0, nil, &histogram.FloatHistogram{Sum: p.V}, promstorage.AppendV2Options{})
	}
	if errors.Is(err, promstorage.ErrDuplicateSampleForTimestamp) {
		other := w.another()
		got, err = other.Append(ref, ls, p.ST, p.T, p.V, nil, nil, promstorage.AppendV2Options{})
		err = errors.Join(err, other.Rollback())
	}
	return got, err
}

// writeExemplars stores the batch's exemplars, in a transaction of their own and through
// the TSDB's older interface: the newer one takes an exemplar only along with a sample,
// yet Prometheus sends each in an entry without samples, and it does not say which one it
// refused.
func (s *Store) writeExemplars(ctx context.Context, w *write) error {
	var app promstorage.Appender
	err := s.fence.guard("append exemplars to the TSDB", func() error {
		app = w.exemplars(func() promstorage.Appender { return s.db.Appender(ctx) })
		return nil
	})
	if err != nil || app == nil {
		return err
	}
	return s.commit(ctx, app)
}

// exemplars hands all exemplars to an appender, which is nil if there are none.
func (w *write) exemplars(open func() promstorage.Appender) (app promstorage.Appender) {
	for i := range w.batch.Series {
		sr := &w.batch.Series[i]
		for j := range sr.Exemplars {
			if app == nil {
				app = open()
			}
			e := sr.Exemplars[j]
			var err error
			switch {
			case e.Ts > w.taken.max:
				err = errors.New(w.tooFarAhead(e.Ts))
			case e.Ts < w.taken.min:
				err = errors.New(w.tooOld(e.Ts))
			case w.refs[i] == 0:
				err = errors.New("exemplar of a series without recent samples")
			default:
				_, err = app.AppendExemplar(w.refs[i], sr.Labels, e)
			}
			if err != nil {
				w.refusals = append(w.refusals, series.Refusal{
					Series: i, Item: j, Exemplar: true, Reason: series.Invalid, Message: err.Error(),
				})
				continue
			}
			w.counts.exemplars++
		}
	}
	return app
}

const tooMany = "a new series, and this node has as many as --storage.max-series lets it have"

func (w *write) tooFarAhead(t int64) string {
	return fmt.Sprintf("timestamp %s is more than %s ahead of this node's clock", formatTime(t), w.ahead)
}

func (w *write) tooOld(t int64) string {
	if t < w.horizon {
		return fmt.Sprintf("%s: timestamp %s is past retention", promstorage.ErrTooOldSample, formatTime(t))
	}
	return fmt.Sprintf("%s: timestamp %s lies before the out-of-order window", promstorage.ErrTooOldSample, formatTime(t))
}

func formatTime(ms int64) string {
	return time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.000Z07:00")
}

// reasonOf tells why the TSDB refuses a sample, or 0 if err is none of the sample's fault.
func reasonOf(err error) series.Reason {
	var invalid histogram.Error
	switch {
	case errors.Is(err, promstorage.ErrDuplicateSampleForTimestamp):
		return series.Conflict
	case errors.Is(err, promstorage.ErrOutOfBounds),
		errors.Is(err, promstorage.ErrTooOldSample),
		errors.Is(err, promstorage.ErrOutOfOrderSample),
		errors.Is(err, tsdb.ErrInvalidSample),
		errors.As(err, &invalid):
		return series.Invalid
	}
	return 0
}

// ownHistogram returns a copy of the sample's histogram, if it is one: the TSDB keeps what
// it is given, and rewrites its buckets. A resolution finer than the TSDB stores is
// reduced, as Prometheus does.
func ownHistogram(p *series.Sample) (*histogram.Histogram, *histogram.FloatHistogram, error) {
	const finest = histogram.ExponentialSchemaMax
	switch {
	case p.FH != nil:
		fh := p.FH.Copy()
		if fh.Schema > finest && histogram.IsExponentialSchemaReserved(fh.Schema) {
			return nil, fh, fh.ReduceResolution(finest)
		}
		return nil, fh, nil
	case p.H != nil:
		h := p.H.Copy()
		if h.Schema > finest && histogram.IsExponentialSchemaReserved(h.Schema) {
			return h, nil, h.ReduceResolution(finest)
		}
		return h, nil, nil
	}
	return nil, nil, nil
}

func byFamily(ms []series.Metadata) map[string]metadata.Metadata {
	families := make(map[string]metadata.Metadata, len(ms))
	for _, m := range ms {
		families[m.Family] = m.Metadata
	}
	return families
}

// metadataOf finds the metadata of the family that a series belongs to by its name.
func (w *write) metadataOf(name string) metadata.Metadata {
	if m, ok := w.metadata[name]; ok {
		return m
	}
	for _, suffix := range []string{"_bucket", "_count", "_sum", "_total", "_created", "_info"} {
		if family, ok := strings.CutSuffix(name, suffix); ok {
			return w.metadata[family]
		}
	}
	return metadata.Metadata{}
}
