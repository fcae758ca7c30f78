package node

import (
	"cmp"
	"slices"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
)

// shrink makes a query and its times smaller for as long as there is a difference, and returns
// that, too.
func shrink(p parser.Parser, q randomQuery, difference string, differs func(randomQuery) string) (randomQuery, string) {
	tries := 400
	smaller := func() bool {
		for _, smaller := range append(sooner(q), parts(p, q)...) {
			if tries == 0 {
				return false
			}
			tries--
			if s := differs(smaller); s != "" {
				q, difference = smaller, s
				return true
			}
		}
		return false
	}
	for smaller() {
	}
	return q, difference
}

// sooner are a query's times in part.
func sooner(q randomQuery) (all []randomQuery) {
	if q.lookback > 0 {
		plain := q
		plain.lookback = 0
		all = append(all, plain)
	}
	if q.step == 0 {
		return all
	}
	if steps := (q.end - q.start) / q.step; steps > 0 {
		left, right := q, q
		left.end = q.start + steps/2*q.step
		right.start = left.end + q.step
		return append(all, left, right)
	}
	instant := q
	instant.end, instant.step = q.start, 0
	return append(all, instant)
}

// parts are queries with one expression in the place of one that it is a part of, the shortest
// first.
func parts(p parser.Parser, q randomQuery) (all []randomQuery) {
	expr, err := p.ParseExpr(q.text)
	if err != nil {
		return nil
	}
	texts := map[string]bool{}
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		whole, ok := node.(parser.Expr)
		if !ok {
			return nil
		}
		parser.Inspect(whole, func(node parser.Node, _ []parser.Node) error {
			if part, ok := node.(parser.Expr); ok && part != whole {
				texts[replaced(q.text, whole, part.String())] = true
			}
			return nil
		})
		if agg, ok := whole.(*parser.AggregateExpr); ok && (agg.Without || len(agg.Grouping) > 0) {
			plain := *agg
			plain.Without, plain.Grouping = false, nil
			texts[replaced(q.text, whole, plain.String())] = true
		}
		if sel, ok := whole.(*parser.VectorSelector); ok {
			plain := *sel
			plain.OriginalOffset, plain.Timestamp, plain.StartOrEnd = 0, nil, 0
			texts[replaced(q.text, whole, plain.String())] = true
			for i, m := range sel.LabelMatchers {
				if plain := *sel; m.Name != labels.MetricName {
					plain.LabelMatchers = slices.Delete(slices.Clone(sel.LabelMatchers), i, i+1)
					texts[replaced(q.text, whole, plain.String())] = true
				}
			}
		}
		return nil
	})
	for text := range texts {
		if _, err := p.ParseExpr(text); err == nil && len(text) < len(q.text) {
			smaller := q
			smaller.text = text
			all = append(all, smaller)
		}
	}
	slices.SortFunc(all, func(a, b randomQuery) int {
		return cmp.Or(cmp.Compare(len(a.text), len(b.text)), cmp.Compare(a.text, b.text))
	})
	return all
}

// replaced returns a text with another one in the place of an expression.
func replaced(text string, expr parser.Expr, by string) string {
	at := expr.PositionRange()
	return text[:at.Start] + by + text[min(int(at.End), len(text)):]
}
