package node

import (
	"fmt"
	"math/rand/v2"
	"strings"

	"github.com/prometheus/prometheus/promql/parser"
)

// queryGenerator makes PromQL, most of it such as dashboards have: aggregations of rates.
type queryGenerator struct {
	rng    *rand.Rand
	parser parser.Parser
	// experimental adds functions that the parser must have switched on.
	experimental bool
	// depth bounds what is still to be nested.
	depth int
}

// query returns a query that parses.
func (g *queryGenerator) query() string {
	for {
		g.depth = 1 + g.rng.IntN(3)
		var text string
		switch p := g.rng.IntN(100); {
		case p < 60:
			text = g.fragment()
		case p < 95:
			text = g.vector()
		case p < 97:
			text = g.scalar()
		default:
			text = g.ranged(g.metric(""))
		}
		if _, err := g.parser.ParseExpr(text); err == nil {
			return text
		}
	}
}

func (g *queryGenerator) pick(of ...string) string { return of[g.rng.IntN(len(of))] }

// chance is true in so many of 100 cases.
func (g *queryGenerator) chance(percent int) bool { return g.rng.IntN(100) < percent }

// A kind of metric, "" for any.
const (
	counters, gauges, bucketed, natives = "counter", "gauge", "bucket", "native"
)

func (g *queryGenerator) metric(kind string) string {
	switch kind {
	case counters:
		return g.pick("requests_total", "requests_total", "errors_total", "latency_seconds_count", "latency_seconds_sum", "typed_total")
	case gauges:
		return g.pick("temperature", "temperature", "memory_bytes", "up", "odd", "dup_a", "extreme")
	case bucketed:
		return "latency_seconds_bucket"
	case natives:
		return g.pick("native_seconds", "native_float", "custom_seconds", "mixed")
	default:
		return g.metric(g.pick(counters, counters, gauges, gauges, bucketed, natives))
	}
}

// kind is the one that something is meant for, as a rule.
func (g *queryGenerator) kind(meant string) string {
	if g.chance(85) {
		return meant
	}
	return ""
}

// matched returns a metric with matchers.
func (g *queryGenerator) matched(metric string) string {
	switch g.rng.IntN(40) {
	case 0:
		return g.pick(`{__name__=~"dup_.*"}`, `{__name__=~"dup_a|up"}`, `{__name__=~"latency_seconds_(sum|count)"}`, `{__name__!="up",job="api"}`, `{job="db",instance="i1"}`, `{__name__=~".*_total"}`)
	case 1:
		return g.pick("nothing", `up{job="none"}`, `{__name__="temperature"}`)
	}
	var matchers []string
	for range max(0, g.rng.IntN(5)-2) {
		matchers = append(matchers, g.matcher(metric))
	}
	if len(matchers) == 0 {
		return metric
	}
	return metric + "{" + strings.Join(matchers, ",") + "}"
}

// matcher is of a label that a metric has, as a rule.
func (g *queryGenerator) matcher(metric string) string {
	switch {
	case g.chance(5):
		return g.pick(`path="/"`, `pod=~"p.*"`, `instance="i2"`, `kind=""`, `job="none"`)
	case metric == "odd" && g.chance(70):
		return g.pick(`kind!="huge"`, `kind!~"huge|nan"`, `kind="tiny"`, `kind=~"inf|mixed"`)
	case metric == "latency_seconds_bucket" && g.chance(30):
		return g.pick(`le!="+Inf"`, `le=~"0.5|2"`, `le="0.1"`)
	case metric == "memory_bytes" && g.chance(30):
		return g.pick(`pod="p1"`, `pod!="p1"`, `pod=~"p.*"`)
	case metric == "requests_total" && g.chance(30):
		return g.pick(`path="/"`, `path!="/"`, `path!~"/.*a"`)
	case g.chance(60):
		return g.pick(`job="api"`, `job="web"`, `job=~"api|web"`, `job!="db"`, `job!~"d.*"`, `job=~".+"`, `none=""`, `pod=~"p.*|"`)
	default:
		return g.pick(`instance=~"i[12]|"`, `instance!="i3"`, `instance=~"i2|i3|"`, `instance!~"i2"`)
	}
}

func (g *queryGenerator) duration() string {
	return g.pick("30s", "45s", "1m", "1m", "90s", "2m", "5m", "5m", "5m", "7m13s", "10m", "20m")
}

// shifted adds what shifts a selector in time, to few.
func (g *queryGenerator) shifted(selector string) string {
	switch g.rng.IntN(40) {
	case 0, 1, 2:
		return selector + " offset " + g.pick("10s", "10s", "1m", "1m", "5m", "5m", "33m", "7h")
	case 3:
		return selector + " offset -" + g.pick("10s", "1m", "5m")
	case 4:
		return selector + " @ " + g.pick("start()", "end()", fmt.Sprint(946_677_000+g.rng.IntN(9_000)))
	}
	return selector
}

func (g *queryGenerator) selector(kind string) string { return g.shifted(g.matched(g.metric(kind))) }

// ranged returns a selector of a range, rarely a subquery.
func (g *queryGenerator) ranged(metric string) string {
	if g.depth > 0 && g.chance(6) {
		g.depth--
		return g.shifted("(" + g.vector() + ")[" + g.pick("1m", "5m", "10m") + ":" + g.pick("", "20s", "1m") + "]")
	}
	return g.shifted(g.matched(metric) + "[" + g.duration() + "]")
}

func (g *queryGenerator) number() string {
	return g.pick("0", "1", "2", "0.5", "10", "100", "-1", "1e9", "-3.7", "60", "(1+1)", "NaN", "Inf", "0.001", "-Inf")
}

func (g *queryGenerator) quantile() string {
	return g.pick("0.5", "0.9", "0.99", "0", "1", "0.25", "0.75", "-1", "1.5", "NaN")
}

// overRange applies a function to a range.
func (g *queryGenerator) overRange() string {
	switch p := g.rng.IntN(100); {
	case p < 45:
		f := g.pick("rate", "rate", "rate", "increase", "increase", "irate")
		return f + "(" + g.ranged(g.metric(g.kind(g.pick(counters, counters, bucketed, natives)))) + ")"
	case p < 90:
		f := g.pick(
			"delta", "idelta", "deriv", "changes", "resets", "avg_over_time", "min_over_time", "max_over_time", "sum_over_time",
			"count_over_time", "last_over_time", "present_over_time", "stddev_over_time", "stdvar_over_time", "first_over_time",
		)
		if g.experimental && g.chance(15) {
			f = g.pick("mad_over_time", "ts_of_first_over_time", "ts_of_last_over_time", "ts_of_max_over_time", "ts_of_min_over_time")
		}
		if f == "changes" {
			// It counts a bucket that is empty instead of missing, which depends on what else
			// is in the chunk of a histogram.
			return f + "(" + g.ranged(g.metric(gauges)) + ")"
		}
		return f + "(" + g.ranged(g.metric(g.kind(gauges))) + ")"
	case p < 94:
		return "quantile_over_time(" + g.quantile() + ", " + g.ranged(g.metric(g.kind(gauges))) + ")"
	case p < 97:
		return "predict_linear(" + g.ranged(g.metric(g.kind(gauges))) + ", " + g.pick("60", "3600", "-30", "time()") + ")"
	case p < 98 && g.experimental:
		return "double_exponential_smoothing(" + g.ranged(g.metric(gauges)) + ", 0.3, " + g.pick("0.6", "2") + ")"
	default:
		return "absent_over_time(" + g.ranged(g.metric("")) + ")"
	}
}

func (g *queryGenerator) labels() string {
	all := []string{"job", "instance", "path", "pod", "le", "kind", "x", "none", "__name__", "__type__"}
	var some []string
	for range g.rng.IntN(3) {
		some = append(some, all[min(g.rng.IntN(5), g.rng.IntN(len(all)))])
	}
	return "(" + strings.Join(some, ", ") + ")"
}

// grouping is that of an aggregation, or none.
func (g *queryGenerator) grouping() string {
	switch p := g.rng.IntN(10); {
	case p < 2:
		return ""
	case p < 4:
		return " without " + g.labels() + " "
	default:
		return " by " + g.labels() + " "
	}
}

func (g *queryGenerator) aggregate(of string) string {
	switch p := g.rng.IntN(100); {
	case p < 40:
		return "sum" + g.grouping() + "(" + of + ")"
	case p < 82:
		return g.pick("avg", "min", "max", "count", "avg", "min", "max", "count", "group", "stddev", "stdvar") + g.grouping() + "(" + of + ")"
	case p < 92:
		return g.pick("topk", "bottomk") + g.grouping() + "(" + g.pick("1", "2", "3", "100", "0") + ", " + of + ")"
	case p < 96:
		return "quantile" + g.grouping() + "(" + g.quantile() + ", " + of + ")"
	case p < 98 && g.experimental:
		return g.pick("limitk"+g.grouping()+"(100, ", "limit_ratio"+g.grouping()+"(0.5, ") + of + ")"
	default:
		return "count_values" + g.grouping() + `("` + g.pick("value", "job", "v") + `", ` + of + ")"
	}
}

// simple aggregates in one of the ways that owners of series can do a part of.
func (g *queryGenerator) simple(of string) string {
	return g.pick("sum", "sum", "sum", "avg", "count", "min", "max", "group") + g.grouping() + "(" + of + ")"
}

// fragment is an expression that owners of series can evaluate in part.
func (g *queryGenerator) fragment() string {
	switch p := g.rng.IntN(100); {
	case p < 35:
		return g.simple(g.mapped(g.overRange()))
	case p < 50:
		return g.simple(g.mapped(g.selector("")))
	case p < 58:
		return g.mapped(g.overRange())
	case p < 66:
		return "histogram_quantile(" + g.quantile() + ", sum" + g.pick(" by (le) ", " by (le, job) ", " by (le, job, instance) ", " without (instance) ", " by (job) ") +
			"(" + g.pick("rate", "increase", "irate", "delta") + "(" + g.ranged(g.metric(g.kind(g.pick(bucketed, bucketed, natives)))) + ")))"
	case p < 71:
		return g.pick("histogram_count", "histogram_sum", "histogram_avg", "histogram_stddev", "histogram_stdvar") + "(" +
			g.simple("rate("+g.ranged(g.metric(g.kind(natives)))+")") + ")"
	case p < 79:
		return g.pick("topk", "bottomk") + "(" + g.pick("1", "2", "3", "5") + ", " + g.simple(g.mapped(g.overRange())) + ")"
	case p < 88:
		by := g.grouping()
		return "sum" + by + "(" + g.overRange() + ") " + g.pick("/", "/", "-", "+", "> ", "and ", "or ", "unless ") + " " + g.pick("sum", "count") + by + "(" + g.overRange() + ")"
	case p < 95:
		return g.mapped(g.simple(g.mapped(g.overRange())))
	default:
		return g.aggregate(g.simple(g.overRange()))
	}
}

// mapped makes other values of a vector's, or fewer, in half of all cases.
func (g *queryGenerator) mapped(of string) string {
	if g.chance(50) {
		return of
	}
	switch p := g.rng.IntN(100); {
	case p < 10:
		return "-" + of
	case p < 15:
		return "(" + of + ")"
	case p < 40:
		return g.pick("abs", "ceil", "floor", "exp", "ln", "log2", "log10", "sqrt", "sgn", "round", "timestamp", "deg", "sin", "atan") + "(" + of + ")"
	case p < 45:
		return g.pick("clamp_min", "clamp_max", "round") + "(" + of + ", " + g.number() + ")"
	case p < 48:
		return "clamp(" + of + ", " + g.number() + ", " + g.number() + ")"
	case p < 70:
		operator := g.pick("+", "-", "*", "*", "/", "/", "^", "%", "atan2")
		if g.chance(30) {
			return g.number() + " " + operator + " " + of
		}
		return of + " " + operator + " " + g.number()
	case p < 90:
		operator := g.pick("==", "!=", ">", "<", ">=", "<=", ">", "!=")
		if g.chance(40) {
			operator += " bool"
		}
		if g.chance(30) {
			return g.number() + " " + operator + " " + of
		}
		return of + " " + operator + " " + g.number()
	case p < 95:
		return of + " " + g.pick("*", "/", "+", ">", "== bool") + " " + g.scalar()
	default:
		return g.mapped(g.mapped(of))
	}
}

func (g *queryGenerator) scalar() string {
	switch g.rng.IntN(6) {
	case 0:
		return "scalar(" + g.simple(g.selector("")) + ")"
	case 1:
		return "scalar(" + g.matched(g.metric(gauges)) + ")"
	case 2:
		return g.pick("time()", "pi()", "-time()", "time() % 60")
	default:
		return g.number() + " " + g.pick("+", "*", "> bool", "/") + " " + g.pick("time()", g.number())
	}
}

// vector is any expression of that type.
func (g *queryGenerator) vector() string {
	if g.depth <= 0 {
		if g.chance(50) {
			return g.selector("")
		}
		return g.overRange()
	}
	g.depth--
	switch p := g.rng.IntN(100); {
	case p < 30:
		return g.aggregate(g.vector())
	case p < 40:
		return g.mapped(g.vector())
	case p < 48:
		return g.overRange()
	case p < 55:
		return g.fragment()
	case p < 60:
		return g.histogram()
	case p < 64:
		return g.relabelled()
	case p < 68:
		return g.pick("sort", "sort_desc", "absent", "timestamp", "sgn", "minute", "hour", "month", "day_of_week") + "(" + g.vector() + ")"
	case p < 70:
		return "vector(" + g.scalar() + ")"
	case p < 72 && g.experimental:
		return g.pick("sort_by_label(", "sort_by_label_desc(") + g.vector() + `, "job")`
	default:
		return g.binary()
	}
}

func (g *queryGenerator) histogram() string {
	switch g.rng.IntN(4) {
	case 0:
		return "histogram_fraction(" + g.pick("0", "-Inf", "0.1") + ", " + g.pick("1", "0.5", "Inf") + ", " + g.selector(g.kind(natives)) + ")"
	case 1:
		return "histogram_quantile(" + g.quantile() + ", " + g.pick(g.selector(g.kind(natives)), g.selector(bucketed), g.vector(), "rate("+g.ranged(g.pick(bucketed, natives))+")") + ")"
	default:
		return g.pick("histogram_count", "histogram_sum", "histogram_avg", "histogram_stddev", "histogram_stdvar") + "(" + g.pick(g.selector(g.kind(natives)), g.vector()) + ")"
	}
}

func (g *queryGenerator) relabelled() string {
	if g.chance(60) {
		return "label_replace(" + g.vector() + `, "` + g.pick("job", "new", "x", "__name__") + `", "` + g.pick("$1", "same", "") + `", "` + g.pick("job", "instance", "path") + `", "` + g.pick("(.*)", "i(.)", "(a).*") + `")`
	}
	return "label_join(" + g.vector() + `, "` + g.pick("new", "job") + `", "-", "job", "instance")`
}

func (g *queryGenerator) binary() string {
	operator := g.pick("+", "-", "*", "/", "%", "^", "==", "!=", ">", "<", ">=", "<=", "> bool", "== bool", "and", "or", "unless", "and", "or")
	on := g.pick("on", "ignoring")
	switch g.rng.IntN(5) {
	case 0: // many to one, of which there is one where the grouping is as the matching
		by := g.pick("job", "instance", "job, instance")
		operator = g.pick("*", "/", "-", ">", "+")
		return g.selector("") + " " + operator + " on(" + by + ") group_left" + g.pick("", "()", "(pod)") + " " + g.pick("sum", "max", "count") + " by (" + by + ") (" + g.vector() + ")"
	case 1: // one metric with itself
		metric := g.metric(gauges)
		return g.matched(metric) + " " + operator + " " + g.shifted(metric)
	case 2:
		by := g.labels()
		return g.simple(g.vector()) + " " + operator + " " + on + by + " " + g.simple(g.vector())
	case 3:
		return "sum by " + g.pick("(job)", "(instance)") + " (" + g.vector() + ") " + operator + " sum by (job) (" + g.vector() + ")"
	default:
		matching := ""
		if g.chance(50) {
			matching = " " + on + g.labels()
		}
		return "(" + g.vector() + ") " + operator + matching + " (" + g.vector() + ")"
	}
}
