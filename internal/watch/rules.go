// Package watch holds what people watch a cluster with: the rules in docs/alerts, which it reads,
// and the dashboards in docs/dashboards, which it makes. Its tests run the rules and hold both to
// what they promise; those of internal/node compare their queries with what nodes show.
package watch

import (
	"errors"
	"log/slog"
	"path/filepath"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
)

// rulesFile is where the rules are, below docs.
const rulesFile = "alerts/starling.rules.yml"

// Query is one that a rule or a dashboard asks.
type Query struct {
	// Name says where it stands.
	Name string
	Expr string
	// Record is the metric that its result is recorded as, "" if it is none.
	Record string
}

// Rules reads the queries of the rules below the folder docs.
func Rules(docs string) ([]Query, error) {
	groups, err := readRules(docs)
	if err != nil {
		return nil, err
	}
	var queries []Query
	for _, g := range groups.Groups {
		for _, r := range g.Rules {
			queries = append(queries, Query{Name: "rule " + r.Alert + r.Record, Expr: r.Expr, Record: r.Record})
		}
	}
	return queries, nil
}

func readRules(docs string) (*rulefmt.RuleGroups, error) {
	groups, errs := rulefmt.ParseFile(filepath.Join(docs, rulesFile), false, model.LegacyValidation,
		parser.NewParser(parser.Options{}), slog.New(slog.DiscardHandler))
	return groups, errors.Join(errs...)
}
