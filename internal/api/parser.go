package api

import (
	"fmt"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/util/strutil"
)

// maxRegexpBytes bounds the regular expression of a matcher. Compiling one takes memory that is
// a multiple of its length, and matching it time, on all nodes for each value of the label.
const maxRegexpBytes = 4096

// NewParser returns Prometheus's parser, which refuses what is too costly to match.
func NewParser(o parser.Options) parser.Parser { return boundedParser{parser.NewParser(o)} }

// boundedParser refuses matchers with long regular expressions.
type boundedParser struct{ parser.Parser }

// ParseExpr implements parser.Parser.
func (p boundedParser) ParseExpr(input string) (parser.Expr, error) {
	if err := checkRegexps(input); err != nil {
		return nil, err
	}
	return p.Parser.ParseExpr(input)
}

// ParseMetricSelector implements parser.Parser.
func (p boundedParser) ParseMetricSelector(input string) ([]*labels.Matcher, error) {
	if err := checkRegexps(input); err != nil {
		return nil, err
	}
	return p.Parser.ParseMetricSelector(input)
}

// ParseMetricSelectors implements parser.Parser.
func (p boundedParser) ParseMetricSelectors(inputs []string) ([][]*labels.Matcher, error) {
	for _, input := range inputs {
		if err := checkRegexps(input); err != nil {
			return nil, err
		}
	}
	return p.Parser.ParseMetricSelectors(inputs)
}

// checkRegexps looks at the tokens of what is going to be parsed, because parsing compiles the
// regular expressions. What is no PromQL is left to the parser.
func checkRegexps(input string) error {
	if len(input) <= maxRegexpBytes {
		return nil
	}
	l := parser.Lex(input)
	var item parser.Item
	for matching := false; ; {
		switch l.NextItem(&item); item.Typ {
		case parser.EOF, parser.ERROR:
			return nil
		case parser.COMMENT:
		case parser.EQL_REGEX, parser.NEQ_REGEX:
			matching = true
		case parser.STRING:
			if text, err := strutil.Unquote(item.Val); matching && err == nil {
				if err := checkRegexp(text); err != nil {
					return err
				}
			}
			matching = false
		default:
			matching = false
		}
	}
}

func checkRegexp(text string) error {
	if len(text) > maxRegexpBytes {
		return fmt.Errorf("the regular expression of a matcher has %d bytes, and may have %d: %.40q and so on", len(text), maxRegexpBytes, text)
	}
	return nil
}
