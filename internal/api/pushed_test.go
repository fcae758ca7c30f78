package api

import (
	"context"
	"testing"
	"time"

	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/annotations"

	"github.com/starling-tsdb/starling/internal/evaluate"
	"github.com/starling-tsdb/starling/internal/pushdown"
)

// localEvaluator evaluates fragments over one database, as an owner of everything.
type localEvaluator struct {
	db storage.ChunkQueryable
	// spoil changes what came out, or fails. Optional.
	spoil func(*pushdown.Partial) error
}

// Evaluate implements Evaluator.
func (e localEvaluator) Evaluate(ctx context.Context, f *pushdown.Fragment, g pushdown.Grid) (*pushdown.Partial, annotations.Annotations, error) {
	mint, maxt := f.Span(g)
	q, err := e.db.ChunkQuerier(mint, maxt)
	if err != nil {
		return nil, nil, err
	}
	defer q.Close()
	set := q.Select(ctx, false, &storage.SelectHints{Start: mint, End: maxt, DisableTrimming: true}, f.Matchers...)
	part, err := evaluate.Series(ctx, set, evaluate.Options{Fragment: f, Grid: g, MaxSamples: 1e6, Workers: 1})
	if err == nil && e.spoil != nil {
		err = e.spoil(part)
	}
	return part, nil, err
}

// newPushingFixture serves an API that leaves fragments to an evaluator over its database;
// change may adapt the options of its engine.
func newPushingFixture(t *testing.T, spoil func(*pushdown.Partial) error, change func(*EngineOptions)) *fixture {
	t.Helper()
	return newFixture(t, func(o *Options) {
		opts := EngineOptions{
			Evaluator:  localEvaluator{o.Sources.Queryable, spoil},
			MaxSamples: 1e6, Timeout: time.Minute, LookbackDelta: 5 * time.Minute, MaxConcurrent: 4,
			Registerer: o.Registerer, Logger: o.Logger,
		}
		if change != nil {
			change(&opts)
		}
		eng, err := NewEngine(opts)
		if err != nil {
			t.Fatal(err)
		}
		o.Sources.Engine = eng
	})
}

// outcomes returns a counter of the fixture by its label "outcome", without zeros.
func (f *fixture) outcomes(name string) map[string]float64 {
	f.t.Helper()
	families, err := f.reg.Gather()
	if err != nil {
		f.t.Fatal(err)
	}
	got := map[string]float64{}
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, m := range family.Metric {
			if v := m.GetCounter().GetValue(); v != 0 {
				got[m.Label[0].GetValue()] = v
			}
		}
	}
	return got
}
