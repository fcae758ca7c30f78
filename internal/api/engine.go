package api

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/util/features"

	"github.com/starling-tsdb/starling/internal/pushdown"
)

// PromQLFeatures are the parts of PromQL that Prometheus has behind --enable-feature.
type PromQLFeatures struct {
	// Parser switches on syntax and functions.
	Parser parser.Options
	// PerStepStats lets queries ask for statistics of each step.
	PerStepStats bool
	// DelayedNameRemoval drops metric names at the end of a query, not with each function.
	DelayedNameRemoval bool
	// UseStartTimestamps lets rate and its like use start timestamps.
	UseStartTimestamps bool
	// TypeAndUnitLabels lets the engine read the labels __type__ and __unit__.
	TypeAndUnitLabels bool
}

// ParsePromQLFeatures reads Prometheus's names for features. Names that have nothing to do
// with queries are passed over.
func ParsePromQLFeatures(names []string) PromQLFeatures {
	// Duration expressions are always on, as they are in Prometheus by now.
	f := PromQLFeatures{Parser: parser.Options{ExperimentalDurationExpr: true}}
	for _, name := range names {
		switch name {
		case "promql-experimental-functions":
			f.Parser.EnableExperimentalFunctions = true
		case "promql-extended-range-selectors":
			f.Parser.EnableExtendedRangeSelectors = true
		case "promql-binop-fill-modifiers":
			f.Parser.EnableBinopFillModifiers = true
		case "promql-per-step-stats":
			f.PerStepStats = true
		case "promql-delayed-name-removal":
			f.DelayedNameRemoval = true
		case "use-start-timestamps":
			f.UseStartTimestamps = true
		case "type-and-unit-labels":
			f.TypeAndUnitLabels = true
		}
	}
	return f
}

// changesEvaluation returns the name of a feature that changes what a fragment of a query
// gives, "" if none that is on does.
func (f *PromQLFeatures) changesEvaluation() string {
	switch {
	case f.DelayedNameRemoval:
		return "promql-delayed-name-removal"
	case f.UseStartTimestamps:
		return "use-start-timestamps"
	case f.TypeAndUnitLabels:
		return "type-and-unit-labels"
	}
	return ""
}

// EngineOptions configure the query engine.
type EngineOptions struct {
	// Parser has to be made by [NewParser] with the same features. Optional: made from Features.
	Parser   parser.Parser
	Features PromQLFeatures
	// Evaluator evaluates what of a query can be evaluated where its series are. Optional:
	// without it all is evaluated here.
	Evaluator Evaluator
	// VerifyShare is the share of the queries with fragments, from 0 to 1, that are evaluated
	// as a whole, too, after they were answered, to compare.
	VerifyShare float64
	// MaxSamples bounds the samples that one query holds in memory.
	MaxSamples int
	// Timeout ends a query, its wait in the queue included.
	Timeout time.Duration
	// LookbackDelta is how old the last sample of a series may be to count as present.
	LookbackDelta time.Duration
	// MaxConcurrent is the number of queries that run at once; more of them wait.
	MaxConcurrent int
	// SubqueryInterval is the step of subqueries that name none. Default 1 minute.
	SubqueryInterval time.Duration
	// Registry learns which features are on. Optional.
	Registry features.Collector
	// Registerer takes the engine's metrics. Optional.
	Registerer prometheus.Registerer
	// Logger is optional.
	Logger *slog.Logger
}

// Engine is Prometheus's query engine with a queue in memory, which leaves to an evaluator
// what can be evaluated elsewhere.
type Engine struct {
	promql.QueryEngine
	parser pushdown.Parser
	// off says why nothing is left to an evaluator, "" if it is.
	off      string
	verifier *verifier
}

// NewEngine returns an engine, which the caller closes. An error names the flag at fault.
func NewEngine(o EngineOptions) (*Engine, error) {
	if err := errors.Join(
		positive("--query.max-samples", o.MaxSamples),
		positive("--query.timeout", o.Timeout),
		positive("--query.lookback-delta", o.LookbackDelta),
		positive("--query.max-concurrency", o.MaxConcurrent),
		share("--query.verify-pushdown", o.VerifyShare),
	); err != nil {
		return nil, fmt.Errorf("query engine: %w", err)
	}
	if o.Parser == nil {
		o.Parser = NewParser(o.Features.Parser)
	}
	if o.SubqueryInterval <= 0 {
		o.SubqueryInterval = time.Minute
	}
	if o.Registry != nil {
		o.Parser.RegisterFeatures(o.Registry)
	}
	opts := promql.EngineOpts{
		Logger:                   o.Logger,
		Reg:                      o.Registerer,
		MaxSamples:               o.MaxSamples,
		Timeout:                  o.Timeout,
		ActiveQueryTracker:       newQueue(o.MaxConcurrent),
		LookbackDelta:            o.LookbackDelta,
		NoStepSubqueryIntervalFn: func(int64) int64 { return o.SubqueryInterval.Milliseconds() },
		EnableAtModifier:         true,
		EnableNegativeOffset:     true,
		EnablePerStepStats:       o.Features.PerStepStats,
		EnableDelayedNameRemoval: o.Features.DelayedNameRemoval,
		EnableTypeAndUnitLabels:  o.Features.TypeAndUnitLabels,
		UseStartTimestamps:       o.Features.UseStartTimestamps,
		FeatureRegistry:          o.Registry,
		Parser:                   o.Parser,
	}
	engine := &Engine{parser: pushdown.Parser{Parser: o.Parser}}
	if o.Evaluator == nil {
		engine.off = "no other node evaluates anything"
	} else if feature := o.Features.changesEvaluation(); feature != "" {
		engine.off = fmt.Sprintf("the feature %s changes what fragments give", feature)
	}
	if engine.off != "" {
		engine.QueryEngine = promql.NewEngine(opts)
		return engine, nil
	}
	e := &pushingEngine{
		parser: engine.parser, evaluator: o.Evaluator, lookback: o.LookbackDelta,
		outcomes: fragmentOutcomes(o.Registerer),
	}
	opts.Parser = e.parser
	e.rest = promql.NewEngine(opts)
	opts.Parser, opts.ActiveQueryTracker, opts.Reg, opts.FeatureRegistry = o.Parser, nil, nil, nil
	e.whole = promql.NewEngine(opts)
	if o.VerifyShare > 0 {
		opts.Parser = e.parser
		e.verifier = newVerifier(e, opts, o)
	}
	engine.QueryEngine, engine.verifier = e, e.verifier
	return engine, nil
}

// Close ends what the engine does beside answering. Queries may go on.
func (e *Engine) Close() { e.verifier.stop() }

func fragmentOutcomes(reg prometheus.Registerer) *prometheus.CounterVec {
	return counted(reg, prometheus.CounterOpts{
		Name: "starling_query_fragments_total",
		Help: "Fragments of queries by how they were evaluated: in parts by the owners of their series, whole on this node, or not, as that failed.",
	}, "parts", "whole", "failed")
}

// counted returns a counter by outcome, which shows every outcome from the start. A nil
// registerer takes nothing.
func counted(reg prometheus.Registerer, opts prometheus.CounterOpts, outcomes ...string) *prometheus.CounterVec {
	c := prometheus.NewCounterVec(opts, []string{"outcome"})
	for _, outcome := range outcomes {
		c.WithLabelValues(outcome)
	}
	if reg != nil {
		reg.MustRegister(c)
	}
	return c
}

func positive[T int | time.Duration](flag string, v T) error {
	if v <= 0 {
		return fmt.Errorf("%s is %v: it has to be greater than zero", flag, v)
	}
	return nil
}

func share(flag string, v float64) error {
	if !(v >= 0 && v <= 1) {
		return fmt.Errorf("%s is %v: it has to be between 0 and 1", flag, v)
	}
	return nil
}
