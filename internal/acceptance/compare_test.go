package acceptance

import (
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"slices"
	"sort"
	"strconv"
	"strings"
)

// diff compares two JSON answers of the Prometheus API and answers what differs, at
// most a few lines of it, or "" if they are equal. Results and series may come in any
// order unless ordered is set. Numbers may differ by the given relative tolerance.
func diff(want, got []byte, ordered bool, tolerance float64) string {
	var w, g answer
	if err := json.Unmarshal(want, &w); err != nil {
		return fmt.Sprintf("the wanted answer is not JSON: %v: %.200s", err, want)
	}
	if err := json.Unmarshal(got, &g); err != nil {
		return fmt.Sprintf("not JSON: %v: %.200s", err, got)
	}
	c := comparison{tolerance: tolerance}
	c.compare("status", w.Status, g.Status)
	c.compare("errorType", w.ErrorType, g.ErrorType)
	c.compare("error", w.Error, g.Error)
	c.set("warnings", w.Warnings, g.Warnings)
	c.set("infos", w.Infos, g.Infos)
	c.data(w.Data, g.Data, ordered)
	return c.String()
}

// answer is the envelope of the API.
type answer struct {
	Status    string `json:"status"`
	ErrorType string `json:"errorType"`
	Error     string `json:"error"`
	Warnings  []any  `json:"warnings"`
	Infos     []any  `json:"infos"`
	Data      any    `json:"data"`
}

// comparison collects differences.
type comparison struct {
	tolerance float64
	found     []string
	more      int
}

// maxDifferences bounds a report: thousands of lines would hide the first ones.
const maxDifferences = 8

func (c *comparison) String() string {
	if c.more > 0 {
		return strings.Join(c.found, "\n") + fmt.Sprintf("\nand %d more", c.more)
	}
	return strings.Join(c.found, "\n")
}

func (c *comparison) addf(format string, args ...any) {
	if len(c.found) == maxDifferences {
		c.more++
		return
	}
	line := fmt.Sprintf(format, args...)
	if len(line) > 600 {
		line = line[:600] + "…"
	}
	c.found = append(c.found, line)
}

// data compares the part of an answer whose shape depends on the endpoint.
func (c *comparison) data(want, got any, ordered bool) {
	w, isObject := want.(map[string]any)
	g, _ := got.(map[string]any)
	switch {
	case isObject && w["resultType"] != nil:
		c.compare("resultType", w["resultType"], g["resultType"])
		want, got = w["result"], g["result"]
		if ordered || w["resultType"] == "scalar" || w["resultType"] == "string" {
			c.compare("result", want, got)
			return
		}
		c.keyed("result", want, got, "metric", "histogram", "histograms", "value", "values")
	case isObject:
		c.compare("data", want, got)
	default:
		if l, ok := want.([]any); ok && len(l) > 0 {
			if o, ok := l[0].(map[string]any); ok && o["exemplars"] != nil {
				c.keyed("exemplars", want, got, "seriesLabels", "exemplars")
				return
			}
		}
		if ordered {
			c.compare("data", want, got)
			return
		}
		c.set("data", want, got)
	}
}

// keyed compares lists of objects that one field identifies.
func (c *comparison) keyed(path string, want, got any, key string, fields ...string) {
	w, g := index(want, key), index(got, key)
	for _, k := range sortedKeys(w) {
		if len(w[k]) != 1 || len(g[k]) != 1 {
			c.addf("%s: %s: want %d times, got %d times", path, k, len(w[k]), len(g[k]))
			continue
		}
		for _, f := range fields {
			c.compare(path+" "+k+" "+f, w[k][0][f], g[k][0][f])
		}
	}
	for _, k := range sortedKeys(g) {
		if len(w[k]) == 0 {
			c.addf("%s: %s: not expected", path, k)
		}
	}
}

// index groups a list of objects by one of their fields.
func index(list any, key string) map[string][]map[string]any {
	l, _ := list.([]any)
	byKey := make(map[string][]map[string]any, len(l))
	for _, e := range l {
		o, _ := e.(map[string]any)
		k := encode(o[key])
		byKey[k] = append(byKey[k], o)
	}
	return byKey
}

// set compares lists whose order does not matter.
func (c *comparison) set(path string, want, got any) {
	c.compare(path, sorted(want), sorted(got))
}

func sorted(list any) []string {
	l, _ := list.([]any)
	s := make([]string, 0, len(l))
	for _, e := range l {
		s = append(s, encode(e))
	}
	sort.Strings(s)
	return s
}

// encode gives a JSON value one spelling; encoding/json sorts the keys of maps.
func encode(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// compare walks two decoded JSON values. A string that reads as a number is one, which
// is how the API spells sample values.
func (c *comparison) compare(path string, want, got any) {
	if reflect.DeepEqual(want, got) {
		return
	}
	switch w := want.(type) {
	case []any:
		g, ok := got.([]any)
		if !ok || len(g) != len(w) {
			c.addf("%s: want %d elements, got %d: %s", path, len(w), len(g), firstDifference(w, g))
			return
		}
		for i := range w {
			c.compare(path+"["+strconv.Itoa(i)+"]", w[i], g[i])
		}
	case []string:
		g, _ := got.([]string)
		if len(w) != len(g) {
			c.addf("%s: want %d elements, got %d", path, len(w), len(g))
		}
		for _, e := range w {
			if !slices.Contains(g, e) {
				c.addf("%s: missing: %s", path, e)
			}
		}
		for _, e := range g {
			if !slices.Contains(w, e) {
				c.addf("%s: not expected: %s", path, e)
			}
		}
	case map[string]any:
		g, ok := got.(map[string]any)
		if !ok {
			c.addf("%s: want %s, got %s", path, encode(want), encode(got))
			return
		}
		for _, k := range sortedKeys(w) {
			c.compare(path+"."+k, w[k], g[k])
		}
		for _, k := range sortedKeys(g) {
			if _, ok := w[k]; !ok {
				c.addf("%s.%s: not expected", path, k)
			}
		}
	default:
		if !c.closeEnough(want, got) {
			c.addf("%s: want %s, got %s", path, encode(want), encode(got))
		}
	}
}

func firstDifference(want, got []any) string {
	for i := range min(len(want), len(got)) {
		if !reflect.DeepEqual(want[i], got[i]) {
			return fmt.Sprintf("first different at %d: want %s, got %s", i, encode(want[i]), encode(got[i]))
		}
	}
	if len(want) > len(got) {
		return "missing from " + encode(want[len(got)])
	}
	return "not expected from " + encode(got[len(want)])
}

func (c *comparison) closeEnough(want, got any) bool {
	w, wOK := number(want)
	g, gOK := number(got)
	if !wOK || !gOK || c.tolerance == 0 {
		return false
	}
	return math.Abs(w-g) <= c.tolerance*max(math.Abs(w), math.Abs(g))
}

func number(v any) (float64, bool) {
	s, ok := v.(string)
	if !ok {
		return 0, false
	}
	f, err := strconv.ParseFloat(s, 64)
	return f, err == nil && !math.IsNaN(f) && !math.IsInf(f, 0)
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
