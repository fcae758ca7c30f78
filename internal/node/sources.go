package node

import (
	"context"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	promstorage "github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"

	"github.com/starling-tsdb/starling/internal/proof"
	"github.com/starling-tsdb/starling/internal/pushdown"
	"github.com/starling-tsdb/starling/internal/query"
	"github.com/starling-tsdb/starling/internal/table"
	"github.com/starling-tsdb/starling/internal/transport"
)

// localSource reads this node's own store for a query, at the epoch of one table.
type localSource struct {
	reader
	table *table.Table
}

// State implements query.Source.
func (s localSource) State(context.Context) (proof.State, error) { return s.reader.State(), nil }

// Select implements query.Source.
func (s localSource) Select(ctx context.Context, req query.SelectRequest) promstorage.ChunkSeriesSet {
	set, err := s.reader.selected(ctx, reading{Selection: selection(s.table, req), sorted: true, most: req.Most})
	if err != nil {
		return promstorage.ErrChunkSeriesSet(err)
	}
	return set
}

// Evaluate implements query.Source.
func (s localSource) Evaluate(ctx context.Context, req query.EvaluateRequest) (*pushdown.Partial, error) {
	part, err := s.reader.evaluate(ctx, reading{Selection: selection(s.table, req.SelectRequest), most: req.Most}, req.Fragment, req.Grid)
	if err != nil {
		return nil, err
	}
	return part, req.Take(part.Bytes())
}

func selection(t *table.Table, req query.SelectRequest) transport.Selection {
	return transport.Selection{
		Epoch: t.Epoch, Proof: req.Proof, Mint: req.Mint, Maxt: req.Maxt, Hints: req.Hints, Matchers: req.Matchers, Part: req.Part, Spent: req.Spent,
	}
}

// Exemplars implements query.Source.
func (s localSource) Exemplars(ctx context.Context, start, end int64, sets [][]*labels.Matcher) ([]exemplar.QueryResult, error) {
	q, err := s.Store.ExemplarQuerier(ctx)
	if err != nil {
		return nil, err
	}
	return q.Select(start, end, sets...)
}

// Metadata implements query.Source.
func (s localSource) Metadata(_ context.Context, metric string, limit, limitPerMetric int) (map[string][]metadata.Metadata, error) {
	return s.Store.Metadata(metric, limit, limitPerMetric), nil
}

// Stats implements query.Source.
func (s localSource) Stats(_ context.Context, label string, limit int) (*tsdb.Stats, error) {
	return s.Store.Stats(label, limit)
}

// peerSource reads a peer's store for a query, at the epoch of one table.
type peerSource struct {
	peer  *transport.Peer
	table *table.Table
}

// Select implements query.Source.
func (s peerSource) Select(ctx context.Context, req query.SelectRequest) promstorage.ChunkSeriesSet {
	return s.peer.Select(ctx, s.table, selection(s.table, req))
}

// Evaluate implements query.Source.
func (s peerSource) Evaluate(ctx context.Context, req query.EvaluateRequest) (*pushdown.Partial, error) {
	return s.peer.Evaluate(ctx, s.table, transport.Evaluation{
		Selection: selection(s.table, req.SelectRequest), Fragment: req.Fragment, Grid: req.Grid, Take: req.Take,
	})
}

// State implements query.Source.
func (s peerSource) State(ctx context.Context) (proof.State, error) {
	return s.peer.State(ctx, s.table)
}

// Exemplars implements query.Source.
func (s peerSource) Exemplars(ctx context.Context, start, end int64, sets [][]*labels.Matcher) ([]exemplar.QueryResult, error) {
	return s.peer.Exemplars(ctx, s.table, start, end, sets)
}

// Metadata implements query.Source.
func (s peerSource) Metadata(ctx context.Context, metric string, limit, limitPerMetric int) (map[string][]metadata.Metadata, error) {
	return s.peer.Metadata(ctx, s.table, metric, limit, limitPerMetric)
}

// Stats implements query.Source.
func (s peerSource) Stats(ctx context.Context, label string, limit int) (*tsdb.Stats, error) {
	return s.peer.Stats(ctx, s.table, label, limit)
}
