package watch

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
)

var update = flag.Bool("update", false, "write docs/dashboards")

// TestDashboardFiles wants the files to be what the package makes.
func TestDashboardFiles(t *testing.T) {
	dir := filepath.Join(docs, "dashboards")
	var made []string
	for _, d := range dashboards() {
		want, err := d.render()
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, d.file)
		made = append(made, d.file)
		if *update {
			if err := os.WriteFile(path, want, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is not what the package makes: `go test ./internal/watch -update` writes it", path)
		}
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !slices.Contains(made, f.Name()) {
			t.Errorf("%s is in %s, and nothing makes it", f.Name(), dir)
		}
	}
}

// imported is what Grafana reads of a dashboard, as far as it is checked.
type imported struct {
	UID           string
	Title         string
	SchemaVersion int
	Panels        []importedPanel
	Templating    struct {
		List []struct{ Name, Type string }
	}
}

type importedPanel struct {
	ID                       int
	Type, Title, Description string
	GridPos                  struct{ X, Y, W, H int }
	Datasource               struct{ Type, UID string }
	FieldConfig              struct {
		Defaults struct {
			Unit       string
			Thresholds struct{ Steps []struct{ Value *float64 } }
		}
	}
	Targets []struct {
		RefID, Expr, LegendFormat string
		Datasource                struct{ UID string }
	}
}

// units are those of Grafana that are used.
var units = []string{"none", "short", "s", "bytes", "binBps", "cps", "reqps", "percentunit"}

// TestDashboardsAreSound checks the files as Grafana imports them.
func TestDashboardsAreSound(t *testing.T) {
	uids := map[string]bool{}
	for _, made := range dashboards() {
		text, err := os.ReadFile(filepath.Join(docs, "dashboards", made.file))
		if err != nil {
			t.Fatal(err)
		}
		var d imported
		if err := json.Unmarshal(text, &d); err != nil {
			t.Fatalf("%s: %v", made.file, err)
		}
		if uids[d.UID] || !regexp.MustCompile(`^starling-[a-z]+$`).MatchString(d.UID) || d.SchemaVersion < 39 || d.Title == "" {
			t.Errorf("%s: uid %q, schema %d, title %q", made.file, d.UID, d.SchemaVersion, d.Title)
		}
		uids[d.UID] = true
		var variables []string
		for _, v := range d.Templating.List {
			variables = append(variables, v.Type+" "+v.Name)
		}
		if want := []string{"datasource datasource", "query job", "query cluster", "query instance"}; !slices.Equal(variables, want) {
			t.Errorf("%s: variables %q, want %q", made.file, variables, want)
		}
		ids, taken, titles := map[int]bool{}, map[[2]int]string{}, map[string]bool{}
		for i := range d.Panels {
			p := &d.Panels[i]
			where := made.file + ", " + p.Title
			if ids[p.ID] || p.ID == 0 || p.Title == "" || titles[p.Title+p.Type] {
				t.Errorf("%s: id %d or the title is there twice", where, p.ID)
			}
			ids[p.ID], titles[p.Title+p.Type] = true, true
			for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
				for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
					if other := taken[[2]int{x, y}]; other != "" || x >= 24 {
						t.Fatalf("%s: it lies over %q, or outside", where, other)
					}
					taken[[2]int{x, y}] = p.Title
				}
			}
			if p.Type != "row" {
				p.check(t, where)
			}
		}
	}
}

// check wants a panel to be told, to have its unit, and to ask what it shows.
func (p *importedPanel) check(t *testing.T, where string) {
	t.Helper()
	if len(p.Description) < 20 || !strings.HasSuffix(p.Description, ".") {
		t.Errorf("%s: description %q", where, p.Description)
	}
	if !slices.Contains(units, p.FieldConfig.Defaults.Unit) {
		t.Errorf("%s: unit %q", where, p.FieldConfig.Defaults.Unit)
	}
	if p.Datasource.UID != "${datasource}" || p.Datasource.Type != "prometheus" || len(p.Targets) == 0 {
		t.Errorf("%s: data source %v, %d queries", where, p.Datasource, len(p.Targets))
	}
	steps := p.FieldConfig.Defaults.Thresholds.Steps
	for i, step := range steps {
		if (step.Value == nil) != (i == 0) || i > 1 && *step.Value <= *steps[i-1].Value {
			t.Errorf("%s: the first step of thresholds, and it alone, has no value, and the others rise", where)
		}
	}
	refs := map[string]bool{}
	for _, q := range p.Targets {
		if refs[q.RefID] || q.RefID == "" || q.Datasource.UID != "${datasource}" {
			t.Errorf("%s: query %q of data source %q", where, q.RefID, q.Datasource.UID)
		}
		refs[q.RefID] = true
		if p.Type == string(chart) && q.LegendFormat == "" {
			t.Errorf("%s: query %s has no legend", where, q.RefID)
		}
		wantChosen(t, where, q.Expr)
	}
}

// TestOverridesMeetSomething wants each column of a table to be asked for, and each colour to be that
// of a series, as Grafana passes over what it does not find.
func TestOverridesMeetSomething(t *testing.T) {
	for _, d := range dashboards() {
		for _, r := range d.rows {
			for i := range r.panels {
				p := &r.panels[i]
				where := d.file + ", " + p.title
				if (p.kind == table) != (len(p.columns) > 0) || p.kind != chart && len(p.paint) > 0 {
					t.Errorf("%s: tables have columns, and charts colours by legend: %v, %v", where, p.columns, p.paint)
				}
				fields := p.fields(t)
				for _, c := range p.columns {
					if !slices.Contains(fields, c.field) || c.title == "" {
						t.Errorf("%s: column %q of %q, which is none of %q", where, c.title, c.field, fields)
					}
				}
				for _, s := range p.paint {
					meets := func(a ask) bool {
						return a.legend == s.legend || slices.Contains([]string{"{{outcome}}", "{{result}}"}, a.legend)
					}
					if !slices.ContainsFunc(p.asks, meets) {
						t.Errorf("%s: no series %q", where, s.legend)
					}
				}
			}
		}
	}
}

// fields are what the queries of a table give it: labels, and values by query.
func (p *panel) fields(t *testing.T) []string {
	t.Helper()
	if p.kind != table {
		return nil
	}
	var fields []string
	for i, a := range p.asks {
		parsed, err := parser.NewParser(parser.Options{}).ParseExpr(selectors.Replace(a.expr))
		if err != nil {
			t.Fatal(err)
		}
		aggregate, ok := parsed.(*parser.AggregateExpr)
		if !ok || aggregate.Without {
			t.Fatalf("%s: %s aggregates by no labels", p.title, a.expr)
		}
		fields = append(fields, aggregate.Grouping...)
		value := "Value"
		if len(p.asks) > 1 {
			value = "Value #" + string(rune('A'+i))
		}
		fields = append(fields, value)
	}
	return fields
}

// wantChosen wants each selector of a query to select the chosen nodes or cluster.
func wantChosen(t *testing.T, where, expr string) {
	t.Helper()
	parsed, err := parser.NewParser(parser.Options{}).ParseExpr(strings.ReplaceAll(expr, "$__rate_interval", "5m"))
	if err != nil {
		t.Errorf("%s: %v in %s", where, err, expr)
		return
	}
	for _, selector := range parser.ExtractSelectors(parsed) {
		for _, want := range []string{`cluster=~"$cluster"`, `job="$job"`} {
			if !slices.ContainsFunc(selector, func(m *labels.Matcher) bool { return m.String() == want }) {
				t.Errorf("%s: %v lacks %s", where, selector, want)
			}
		}
	}
}
