package pushdown

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/parser/posrange"
)

// answerLabel is the name of a label that no series has, as it is no valid UTF-8. A selector by
// it stands for the answer of a fragment.
const answerLabel = "\xff"

// Plan is a query with its fragments taken out.
type Plan struct {
	// Expr is the query with a selector in the place of each fragment, or below it where the
	// engine has to choose from what it gives. It selects one sample at each step at which
	// the fragment has a value. That of a Bare fragment has the offset of the fragment: it may
	// as well be given the series as they are stored.
	Expr      parser.Expr
	Fragments []*Fragment

	whole []whole
}

// Whole is a selector whose series are read as stored, and evaluated where the query is.
type Whole struct{ Selector, Reason string }

// whole may be one of a Bare fragment.
type whole struct {
	Whole
	bare *Fragment
}

// Whole returns what is read as stored at some steps; with nil, at those that are close.
func (p *Plan) Whole(g *Grid) (all []Whole) {
	for _, w := range p.whole {
		if w.bare == nil || g == nil || w.bare.Stored(*g) {
			all = append(all, w.Whole)
		}
	}
	return all
}

// Rest returns the text of what is left of the query at steps that are close, with answer(0) for the answer
// of the first fragment that is not Bare, and so on.
func (p *Plan) Rest() string {
	text, answers := p.Expr.String(), 0
	for i, f := range p.Fragments {
		stands := f.Selector()
		if f.Bare == nil {
			stands = fmt.Sprintf("answer(%d)", answers)
			answers++
		}
		// Within a string its quotes would be escaped.
		text = strings.ReplaceAll(text, answerSelector(i).String(), stands)
	}
	return text
}

// Answer returns which fragment's answer a selector stands for, if it stands for one.
func Answer(ms []*labels.Matcher) (fragment int, ok bool) {
	if len(ms) != 1 || !isAnswer(ms[0]) {
		return 0, false
	}
	fragment, err := strconv.Atoi(ms[0].Value)
	return fragment, err == nil
}

var (
	errNothing   = errors.New("samples travel as they are stored")
	errSubquery  = errors.New("a subquery has steps of its own")
	errSelectors = errors.New("the function looks at the selectors in it")
	errText      = errors.New("its text alone means something else")
)

type planner struct {
	parser parser.Parser
	text   string
	plan   Plan
}

// visit returns what stands for an expression, whose nearest ancestor is no fragment for
// the given reason.
func (b *planner) visit(expr parser.Expr, above error) parser.Expr {
	// Parentheses stay, as warnings are about what is in them, or about all of it.
	if paren, ok := expr.(*parser.ParenExpr); ok {
		paren.Expr = b.visit(paren.Expr, above)
		return paren
	}
	if expr.Type() == parser.ValueTypeVector {
		answer, err := b.takeOut(expr, above)
		if err == nil {
			return answer
		}
		if _, leaf := expr.(*parser.VectorSelector); !leaf {
			above = err
		}
	}
	switch e := expr.(type) {
	case *parser.UnaryExpr:
		e.Expr = b.visit(e.Expr, above)
	case *parser.BinaryExpr:
		e.LHS, e.RHS = b.visit(e.LHS, above), b.visit(e.RHS, above)
	case *parser.AggregateExpr:
		e.Expr = b.visit(e.Expr, above)
		if e.Param != nil {
			e.Param = b.visit(e.Param, above)
		}
	case *parser.Call:
		if inspects[e.Func.Name] {
			b.leave(e, errSelectors)
			break
		}
		for i := range e.Args {
			e.Args[i] = b.visit(e.Args[i], above)
		}
	case *parser.SubqueryExpr:
		b.leave(e, errSubquery)
	case *parser.VectorSelector, *parser.MatrixSelector:
		b.leave(e, above)
	}
	return expr
}

// inspects are the functions that treat a selector as argument in another way than what it
// gives, or have those below them read in another way.
var inspects = map[string]bool{
	"absent": true, "info": true, "start_timestamp": true, "timestamp": true,
	"histogram_avg": true, "histogram_count": true, "histogram_sum": true,
}

// leave notes the selectors of an expression as read whole.
func (b *planner) leave(expr parser.Expr, reason error) {
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		if s, ok := node.(*parser.VectorSelector); ok {
			b.plan.whole = append(b.plan.whole, whole{Whole{s.String(), reason.Error()}, nil})
		}
		return nil
	})
}

// takeOut makes a fragment of an expression, and returns a selector of its answer. Its nearest ancestor
// is none for the given reason.
func (b *planner) takeOut(expr parser.Expr, above error) (parser.Expr, error) {
	f, err := Of(expr)
	if err != nil {
		return nil, err
	}
	selector, leaf := expr.(*parser.VectorSelector)
	switch {
	case leaf:
		f.Bare = above
	case !f.gives():
		return nil, errNothing
	}
	pos := expr.PositionRange()
	if f.Text, err = b.alone(expr, pos); err != nil {
		return nil, err
	}
	b.plan.Fragments = append(b.plan.Fragments, f)
	answer := answerSelector(len(b.plan.Fragments) - 1)
	answer.PosRange = pos
	if leaf {
		answer.OriginalOffset = selector.OriginalOffset
		b.plan.whole = append(b.plan.whole, whole{Whole{selector.String(), above.Error()}, f})
	}
	if f.Top == 0 {
		return answer, nil
	}
	// The best of each node have to be compared.
	agg := expr.(*parser.AggregateExpr)
	answer.PosRange = agg.Expr.PositionRange()
	agg.Expr = answer
	return agg, nil
}

// answerSelector returns a selector of the answer of a fragment.
func answerSelector(fragment int) *parser.VectorSelector {
	return &parser.VectorSelector{
		LabelMatchers: []*labels.Matcher{labels.MustNewMatcher(labels.MatchEqual, answerLabel, strconv.Itoa(fragment))},
	}
}

// alone returns the text of the query with blanks around an expression. It is parsed again, to
// be sure that positions are what they seem to be.
func (b *planner) alone(expr parser.Expr, pos posrange.PositionRange) (string, error) {
	if pos.Start < 0 || pos.End > posrange.Pos(len(b.text)) || pos.Start >= pos.End {
		return "", errText
	}
	text := blank(b.text[:pos.Start]) + b.text[pos.Start:pos.End] + blank(b.text[pos.End:])
	again, err := b.parser.ParseExpr(text)
	if err != nil || again.String() != expr.String() || again.PositionRange() != pos {
		return "", errText
	}
	return text, nil
}

// blank replaces all bytes but the ends of lines.
func blank(text string) string {
	blanks := []byte(text)
	for i, c := range blanks {
		if c != '\n' {
			blanks[i] = ' '
		}
	}
	return string(blanks)
}

// Parser plans what it parses, as a query engine uses it: fragments are taken out.
type Parser struct{ parser.Parser }

// ParseExpr implements parser.Parser.
func (p Parser) ParseExpr(text string) (parser.Expr, error) {
	plan, err := p.Plan(text)
	if err != nil {
		return nil, err
	}
	return plan.Expr, nil
}

// Plan parses and plans a query. It gives the same plan for the same text.
func (p Parser) Plan(text string) (*Plan, error) {
	expr, err := p.Parser.ParseExpr(text)
	if err != nil {
		return nil, err
	}
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		if s, ok := node.(*parser.VectorSelector); ok && slices.ContainsFunc(s.LabelMatchers, isAnswer) {
			err = fmt.Errorf("invalid label name %q", answerLabel)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	b := &planner{parser: p.Parser, text: text}
	b.plan.Expr = b.visit(expr, errNothing)
	return &b.plan, nil
}

func isAnswer(m *labels.Matcher) bool { return m.Name == answerLabel }

// Read parses the text of a fragment, which comes from a peer.
func (p Parser) Read(text string) (*Fragment, error) {
	expr, err := p.Parser.ParseExpr(text)
	if err != nil {
		return nil, err
	}
	f, err := Of(expr)
	if err != nil {
		return nil, err
	}
	f.Text = text
	return f, nil
}

// Selector returns the text of the selector of a fragment, without range and offset.
func (f *Fragment) Selector() string {
	return (&parser.VectorSelector{Name: name(f.Matchers), LabelMatchers: f.Matchers}).String()
}

// Trimmed returns the text of a fragment without the blanks around it.
func (f *Fragment) Trimmed() string { return strings.TrimSpace(f.Text) }
