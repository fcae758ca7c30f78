package watch

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
)

// dashboard is what a page of Grafana shows, from top to bottom.
type dashboard struct {
	// file is its name below docs/dashboards, and uid the one that links to it keep.
	file, uid string
	title     string
	about     string
	// oneNode has it show one node at a time instead of any number.
	oneNode bool
	rows    []row
}

// row is a heading with panels below it, from left to right.
type row struct {
	title  string
	panels []panel
}

// panel is one chart, figure or table.
type panel struct {
	kind  kind
	title string
	about string
	// unit is Grafana's name of the unit, "" for a plain number.
	unit string
	// width and height are in Grafana's grid of 24 columns; 0 stands for what the kind is wont to have.
	width, height int
	// stacked has its series add up.
	stacked bool
	// most is the end of the scale, 0 if it follows from the values.
	most float64
	// steps colour the values; charts show them as lines.
	steps []step
	// says replaces values by words.
	says map[string]string
	asks []ask
	// paint gives series of a chart colours, by legend; the others get any.
	paint []paint
	// columns are those of a table, from left to right. What is in none is not shown.
	columns []column
}

type kind string

const (
	chart  kind = "timeseries"
	figure kind = "stat"
	table  kind = "table"
)

// ask is one query of a panel. In its expression {sel…} selects the chosen nodes and {all…} all
// of the cluster.
type ask struct{ expr, legend string }

// step begins a colour at a value; the first one has none.
type step struct {
	color string
	from  float64
}

// paint is the colour of a series.
type paint struct{ legend, color string }

// column shows a label, or the values of a query, which are "Value #A" and so on, or "Value" if
// there is one query.
type column struct {
	field, title string
	// unit, says and steps are as those of a panel; steps colour the cells.
	unit  string
	says  map[string]string
	steps []step
}

// The ways in which values are coloured: red is for what clients notice, or are about to.
func plain() []step                  { return []step{{color: "blue"}} }
func look(from float64) []step       { return []step{{color: "green"}, {"orange", from}} }
func bad(from float64) []step        { return []step{{color: "green"}, {"red", from}} }
func worse(warn, bad float64) []step { return []step{{color: "green"}, {"orange", warn}, {"red", bad}} }
func atLeast(warn, good float64) []step {
	return []step{{color: "red"}, {"orange", warn}, {"green", good}}
}

// named has series with the ID of a node in a label have its name, too, in the label name. Names
// come from all nodes, which may remember different ones of a node that is gone: one is taken.
func named(label, expr string) string {
	return fmt.Sprintf(`(%[2]s)
  * on (%[1]s) group_left (name)
group by (%[1]s, name) (label_replace(topk by (id) (1, max by (id, name) (starling_cluster_member_alive{all})), %[1]q, "$1", "id", "(.+)"))
  or on (%[1]s)
(%[2]s)`, label, expr)
}

// methods has the label method be without the name of the service.
func methods(expr string) string {
	return fmt.Sprintf(`label_replace(%s, "method", "$1", "method", ".*/(.+)")`, expr)
}

// quantiles asks for quantiles of a histogram by further labels, with a legend. Where nothing was
// observed there are none.
func quantiles(histogram, selector, legend string, by string, qs ...string) []ask {
	if by != "" {
		by = ", " + by
	}
	var asks []ask
	for _, q := range qs {
		asks = append(asks, ask{
			fmt.Sprintf("histogram_quantile(0.%s, sum by (le%s) (rate(%s_bucket%s[$__rate_interval]))) >= 0", q, by, histogram, selector),
			strings.TrimSpace(legend + " p" + q),
		})
	}
	return asks
}

// selectors are what stands in expressions for the nodes.
var selectors = strings.NewReplacer(
	"{all", `{cluster=~"$cluster", job="$job"`,
	"{sel", `{cluster=~"$cluster", job="$job", instance=~"$instance"`,
)

// Dashboards returns the queries of the dashboards, with values in the place of Grafana's
// variables.
func Dashboards() []Query {
	values := strings.NewReplacer("$__rate_interval", "5m", "$cluster", ".*", "$job", "starling", "$instance", ".*")
	var queries []Query
	for _, d := range dashboards() {
		for _, v := range d.variables() {
			queries = append(queries, Query{Name: fmt.Sprintf("dashboard %s, variable %s,", d.title, v.name), Expr: values.Replace(v.selector)})
		}
		for _, r := range d.rows {
			for _, p := range r.panels {
				for _, a := range p.asks {
					queries = append(queries, Query{
						Name: fmt.Sprintf("dashboard %s, panel %q,", d.title, p.title),
						Expr: values.Replace(selectors.Replace(a.expr)),
					})
				}
			}
		}
	}
	return queries
}

// dashboards are those of docs/dashboards.
func dashboards() []dashboard {
	return []dashboard{overview(), writes(), reads(), replication(), oneNode()}
}

// object is one of JSON. Its keys are sorted when it is written.
type object = map[string]any

// render returns a dashboard as Grafana imports it.
func (d *dashboard) render() ([]byte, error) {
	var panels, variables []object
	id, y := 0, 0
	for _, r := range d.rows {
		id++
		panels = append(panels, object{
			"id": id, "type": "row", "title": r.title, "collapsed": false, "panels": []object{},
			"gridPos": object{"x": 0, "y": y, "w": 24, "h": 1},
		})
		y++
		x, high := 0, 0
		for _, p := range r.panels {
			w, h := p.size()
			if x+w > 24 {
				x, y, high = 0, y+high, 0
			}
			id++
			rendered := p.render()
			rendered["id"], rendered["gridPos"] = id, object{"x": x, "y": y, "w": w, "h": h}
			panels = append(panels, rendered)
			x, high = x+w, max(high, h)
		}
		y += high
	}
	variables = append(variables, object{
		"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "refresh": 1,
	})
	for _, v := range d.variables() {
		variables = append(variables, v.render())
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(object{
		"uid": d.uid, "title": "Starling / " + d.title, "description": d.about, "tags": []string{"starling"},
		"schemaVersion": 39, "version": 1, "editable": true, "graphTooltip": 1, "refresh": "30s", "timezone": "browser",
		"time":        object{"from": "now-3h", "to": "now"},
		"annotations": object{"list": []object{}},
		"links": []object{{
			"type": "dashboards", "title": "Starling", "tags": []string{"starling"}, "asDropdown": true,
			"includeVars": true, "keepTime": true, "targetBlank": false,
		}},
		"templating": object{"list": variables},
		"panels":     panels,
	})
	return b.Bytes(), err
}

// source is the data source that the variable datasource chooses.
func source() object { return object{"type": "prometheus", "uid": "${datasource}"} }

// variable is one whose values are those of a label.
type variable struct {
	name, label string
	// selector selects the series whose label it is.
	selector string
	// all lets it stand for any value, none at all among them, and several any number.
	all, several bool
}

func (d *dashboard) variables() []variable {
	return []variable{
		{name: "job", label: "Job", selector: "starling_build_info"},
		{name: "cluster", label: "Cluster", selector: `starling_build_info{job="$job"}`, all: true},
		{name: "instance", label: "Node", selector: `starling_build_info{job="$job", cluster=~"$cluster"}`, all: !d.oneNode, several: !d.oneNode},
	}
}

func (v variable) render() object {
	query := fmt.Sprintf("label_values(%s, %s)", v.selector, v.name)
	o := object{
		"name": v.name, "label": v.label, "type": "query", "datasource": source(), "definition": query,
		"query": object{"qryType": 1, "query": query, "refId": "PrometheusVariableQueryEditor-VariableQuery"}, "refresh": 2, "sort": 1,
		"multi": v.several, "includeAll": v.all,
	}
	if v.all {
		o["allValue"] = ".*"
		o["current"] = object{"selected": true, "text": "All", "value": "$__all"}
	}
	return o
}
