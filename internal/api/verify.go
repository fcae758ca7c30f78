package api

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/starling-tsdb/starling/internal/partial"
)

// verifyAgain is how often both ways are evaluated once more, when they differ.
const verifyAgain = 3

// verifier evaluates a share of the queries with fragments once more, over the series as they
// are stored, and compares. The client has the answer by then, or is about to get it. A nil
// verifier does nothing.
type verifier struct {
	// inParts is the engine that answered, but has neither a queue nor a verifier.
	inParts *pushingEngine
	share   float64
	timeout time.Duration
	logger  *slog.Logger
	// outcomes counts the queries of the share.
	outcomes *prometheus.CounterVec

	// turn is full while one query is verified, and for good when the verifier is closed.
	turn chan struct{}
	// life is over when the verifier is closed. No request lasts as long as what is made of it.
	life    context.Context
	end     context.CancelFunc
	stopped sync.Once
}

// newVerifier returns a verifier for what engine answers, whose queue it goes past: one query
// more at a time is all that it adds.
func newVerifier(engine *pushingEngine, opts promql.EngineOpts, o EngineOptions) *verifier {
	unqueued := &pushingEngine{
		rest: promql.NewEngine(opts), whole: engine.whole,
		parser: engine.parser, evaluator: engine.evaluator, lookback: engine.lookback,
		outcomes: fragmentOutcomes(nil),
	}
	v := &verifier{
		inParts: unqueued, share: o.VerifyShare, timeout: o.Timeout, logger: o.Logger, turn: make(chan struct{}, 1),
		outcomes: counted(o.Registerer, prometheus.CounterOpts{
			Name: "starling_query_verified_total",
			Help: "Queries that were evaluated in parts and as a whole, by how the answers compare; skipped are those that could not be compared, or met another that was being verified.",
		}, "equal", "different", "skipped", "failed"),
	}
	if v.logger == nil {
		v.logger = slog.New(slog.DiscardHandler)
	}
	v.life, v.end = context.WithCancel(context.Background())
	return v
}

// stop ends what is being verified, waits for it, and lets nothing begin any more.
func (v *verifier) stop() {
	if v == nil {
		return
	}
	v.stopped.Do(func() {
		v.end()
		v.turn <- struct{}{}
	})
}

// consider has a query verified if the dice say so. The result may be used as soon as it
// returns, which does not take longer than copying it.
func (v *verifier) consider(ctx context.Context, q pushedQuery, res *promql.Result) {
	if v == nil || res.Err != nil || len(q.pushed.stats) == 0 || rand.Float64() >= v.share {
		return
	}
	ranked, open := v.choices(q.String())
	// What an answer lacks, the next one may have.
	if open || len(partial.Missing(ctx)) > 0 || !v.begin() {
		v.outcomes.WithLabelValues("skipped").Inc()
		return
	}
	answer := snapshotOf(q.String(), res)
	go func() {
		defer func() { <-v.turn }()
		v.verify(q, answer, ranked)
	}()
}

func (v *verifier) begin() bool {
	select {
	case v.turn <- struct{}{}:
		return true
	default:
		return false
	}
}

// choices tells whether a query takes series by the rank of their values, which may be equal,
// and whether it takes any.
func (v *verifier) choices(text string) (ranked, open bool) {
	expr, err := v.inParts.parser.Parser.ParseExpr(text)
	if err != nil {
		return false, true
	}
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		if agg, ok := node.(*parser.AggregateExpr); ok {
			ranked = ranked || agg.Op == parser.TOPK || agg.Op == parser.BOTTOMK
			open = open || agg.Op == parser.LIMITK
		}
		return nil
	})
	return ranked, open
}

// verify compares an answer with that of the whole, counts what comes of it, and logs a
// difference.
func (v *verifier) verify(q pushedQuery, answer *snapshot, ranked bool) {
	ctx, cancel := context.WithTimeout(v.life, v.timeout)
	defer cancel()
	p := q.pushed
	log := v.logger.With("query", q.String(), "start", p.start.UTC(), "end", p.end.UTC(), "step", p.interval)
	c, err := v.compare(ctx, q, answer, ranked)
	outcome := "equal"
	switch {
	case err != nil:
		outcome = "failed"
		log.Info("A query could not be verified", "err", err)
	case c.difference != "":
		outcome = "different"
		log.Warn("A query gives something else in parts than as a whole", "difference", c.difference)
	case c.open > 0 && c.equal == 0:
		outcome = "skipped"
	}
	v.outcomes.WithLabelValues(outcome).Inc()
}

// compare compares what a query gives in parts and as a whole. Data may change between the two:
// where they differ the query is evaluated in parts again, and as a whole before and after that,
// so that a difference counts only where the whole stays the same.
func (v *verifier) compare(ctx context.Context, q pushedQuery, answer *snapshot, ranked bool) (comparison, error) {
	whole, err := v.evaluate(ctx, q, v.inParts.whole)
	if err != nil {
		return comparison{}, fmt.Errorf("as a whole: %w", err)
	}
	c := answer.compare(whole, whole, ranked)
	for again := 0; (c.difference != "" || c.open > 0) && again < verifyAgain; again++ {
		if answer, err = v.evaluate(ctx, q, v.inParts); err != nil {
			return comparison{}, fmt.Errorf("in parts: %w", err)
		}
		before := whole
		if whole, err = v.evaluate(ctx, q, v.inParts.whole); err != nil {
			return comparison{}, fmt.Errorf("as a whole: %w", err)
		}
		c = answer.compare(before, whole, ranked)
	}
	return c, nil
}

func (v *verifier) evaluate(ctx context.Context, q pushedQuery, engine promql.QueryEngine) (*snapshot, error) {
	again, err := q.pushed.open(ctx, engine)
	if err != nil {
		return nil, err
	}
	defer again.Close()
	res := again.Exec(ctx)
	if res.Err != nil {
		return nil, res.Err
	}
	return snapshotOf(q.String(), res), nil
}
