package api

import (
	"fmt"
	"net/http"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/util/annotations"
	"github.com/prometheus/prometheus/util/stats"

	"github.com/starling-tsdb/starling/internal/pushdown"
)

// Explanation says how a query is evaluated.
type Explanation struct {
	Query string `json:"query"`
	// Off says why nothing of any query is evaluated in parts, "" if it is.
	Off string `json:"off,omitempty"`
	// Rest is what the node that is asked evaluates, with answer(0) for the answer of the
	// first fragment, and so on.
	Rest      string              `json:"rest"`
	Fragments []ExplainedFragment `json:"fragments"`
	Whole     []ExplainedSelector `json:"whole"`
	// Stats are those of the query if it was run, as its answer would have them.
	Stats stats.QueryStats `json:"stats,omitempty"`
}

// ExplainedFragment is what the owners of its series evaluate.
type ExplainedFragment struct {
	Text     string `json:"text"`
	Selector string `json:"selector"`
	// Range and Offset are durations of PromQL, "" where there is none.
	Range  string `json:"range"`
	Offset string `json:"offset"`
	// Function is that of the range, Aggregation what puts series together, "" for none.
	Function    string   `json:"function"`
	Aggregation string   `json:"aggregation"`
	Grouping    []string `json:"grouping"`
	// Without means that Grouping are the labels that are lost.
	Without bool `json:"without"`
}

// ExplainedSelector is read as stored, for a reason.
type ExplainedSelector struct {
	Selector string `json:"selector"`
	Reason   string `json:"reason"`
}

// Explain says how the engine evaluates a query. An error is the parser's.
func (e *Engine) Explain(query string) (*Explanation, error) {
	if e.off != "" {
		return e.explainOff(query)
	}
	plan, err := e.parser.Plan(query)
	if err != nil {
		return nil, err
	}
	x := newExplanation(query, plan.Rest())
	for _, f := range plan.Fragments {
		if f.Bare == nil {
			x.Fragments = append(x.Fragments, explained(f))
		}
	}
	x.Whole = explainedSelectors(plan.Whole(nil))
	return x, nil
}

// explainOff is Explain where every selector is read as stored.
func (e *Engine) explainOff(query string) (*Explanation, error) {
	expr, err := e.parser.Parser.ParseExpr(query)
	if err != nil {
		return nil, err
	}
	x := newExplanation(query, expr.String())
	x.Off = e.off
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		if s, ok := node.(*parser.VectorSelector); ok {
			x.Whole = append(x.Whole, ExplainedSelector{s.String(), e.off})
		}
		return nil
	})
	return x, nil
}

// newExplanation returns one whose lists are empty in JSON, too.
func newExplanation(query, rest string) *Explanation {
	return &Explanation{Query: query, Rest: rest, Fragments: []ExplainedFragment{}, Whole: []ExplainedSelector{}}
}

func explained(f *pushdown.Fragment) ExplainedFragment {
	x := ExplainedFragment{
		Text: f.Trimmed(), Selector: f.Selector(), Range: promDuration(f.Range), Offset: promDuration(f.Offset),
		Grouping: append([]string{}, f.Grouping...), Without: f.Without,
	}
	if f.Call != nil {
		x.Function = f.Call.Func.Name
	}
	switch {
	case f.Op != 0:
		x.Aggregation = f.Op.String()
	case f.Quantile != nil:
		x.Aggregation = "histogram_quantile"
	case f.Top > 0 && f.Bottom:
		x.Aggregation = parser.ItemTypeStr[parser.BOTTOMK]
	case f.Top > 0:
		x.Aggregation = parser.ItemTypeStr[parser.TOPK]
	}
	return x
}

// promDuration returns milliseconds as PromQL has them, "" for none.
func promDuration(ms int64) string {
	d := model.Duration(time.Duration(ms) * time.Millisecond)
	switch {
	case d == 0:
		return ""
	case d < 0:
		return "-" + (-d).String()
	}
	return d.String()
}

// explain serves /api/v1/query_explain. With stats=all it has queries answer the query, too, and
// tells what that took.
func (a *API) explain(queries http.Handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		explanation, err := a.opts.Sources.Engine.Explain(r.FormValue("query"))
		if err != nil {
			a.answerError(w, badData{fmt.Errorf("invalid parameter \"query\": %w", err)})
			return
		}
		var warnings annotations.Annotations
		if r.FormValue("stats") == statsAll {
			run := runQuery(queries, r)
			if run.stats == nil {
				run.forward(w)
				return
			}
			explanation.Stats, warnings = run.stats, run.warnings
		}
		a.answer(w, r, explanation, warnings)
	}
}
