package page

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"
)

// matrix is an answer with so many series over the last hour, with holes.
func matrix(series int) string {
	var list []map[string]any
	for i := range series {
		var values [][2]any
		for m := range 61 {
			switch {
			case i == 1 && m > 20 && m < 30:
				continue
			case i == 2 && m == 7:
				values = append(values, [2]any{now.Add(-time.Hour + time.Duration(m)*time.Minute).Unix(), "NaN"})
				continue
			}
			values = append(values, [2]any{now.Add(-time.Hour + time.Duration(m)*time.Minute).Unix(), fmt.Sprint(float64(i*1000) + float64(m*m)/7)})
		}
		list = append(list, map[string]any{"metric": map[string]string{"__name__": "m", "i": fmt.Sprint(i)}, "values": values})
	}
	b, err := json.Marshal(map[string]any{"status": "success", "data": map[string]any{"resultType": "matrix", "result": list}})
	if err != nil {
		panic(err)
	}
	return string(b)
}

func TestGraph(t *testing.T) {
	for _, c := range []struct {
		name, query string
		f           *fake
		status      int
		want        []string
		target      string
	}{
		{"chart", "expr=m&range=1h&step=1m", &fake{code: 200, body: matrix(3)}, 200, []string{"3 series", `class="line s2"`, `aria-label="Chart of 3 series`},
			"/api/v1/query_range?end=1772366400.000&limit=1000&query=m&start=1772362800.000&step=60.000"},
		{"many", "expr=m&range=1h&step=60&partial_response=true", &fake{code: 200, body: matrix(250)}, 200,
			[]string{"250 series", "The first 10 series are drawn, 240 are not.", "50 more series are not listed"}, ""},
		{"instant", "expr=m&show=instant&end=2026-03-01+11:00", &fake{code: 200, body: `{"status":"success","infos":["an info"],"data":{"resultType":"vector","result":[{"metric":{},"value":[1,"1234567.5"]},{"metric":{"a":"b"},"histogram":[1,{"count":"4","sum":"5","buckets":[]}]}]}}`},
			200, []string{"2 series", "1\u202f234\u202f567.5", "histogram of 4, sum 5", "an info"}, "/api/v1/query?limit=1000&query=m&time=1772362800.000"},
		{"", "expr=1&show=instant", &fake{code: 200, body: `{"status":"success","data":{"resultType":"scalar","result":[1,"42"]}}`}, 200, []string{"42"}, ""},
		{"", "expr=m", &fake{code: 200, body: `{"status":"success","data":{"resultType":"matrix","result":[]}}`}, 200, []string{"No series match"}, ""},
		{"", "expr=m&range=1d&step=1", &fake{code: 200, body: matrix(1)}, 200, []string{"The step was raised to 1m26.4s"}, ""},
		{"", "expr=m", &fake{code: 503, body: `{"status":"error","errorType":"unavailable","error":"too few owners"}`}, 503, []string{"too few owners", "unavailable"}, ""},
		{"", "expr=m", &fake{}, 500, []string{"the answer broke off"}, ""},
		{"", "expr=m", &fake{code: 200, body: strings.Repeat("x", maxAnswerBytes+1)}, 422, []string{"too large"}, ""},
		{"", "expr=m", &fake{code: 200, body: "<html>"}, 500, []string{"the API answered 200"}, ""},
		{"", "expr=m&range=-1h", &fake{}, 400, []string{"no time span"}, ""},
		{"", "expr=m&range=NaN", &fake{}, 400, []string{"no time span"}, ""},
		{"", "expr=m&step=0", &fake{}, 400, []string{"no time span"}, ""},
		{"", "expr=m&end=1e300", &fake{}, 400, []string{"no time"}, ""},
		{"", "", &fake{}, 200, []string{"within the same limits"}, ""},
	} {
		w := get(c.f.page(), "/graph?"+c.query)
		if w.Code != c.status {
			t.Errorf("%s: status %d, want %d", c.query, w.Code, c.status)
		}
		for _, want := range c.want {
			if !strings.Contains(w.Body.String(), want) {
				t.Errorf("%s: it does not say %q: %s", c.query, want, w.Body)
			}
		}
		if c.target != "" && (c.f.target != c.target || c.f.client != "192.0.2.1:1234") {
			t.Errorf("%s: the API was asked %s by %s", c.query, c.f.target, c.f.client)
		}
		if c.name != "" && c.name != "many" {
			golden(t, "graph-"+c.name, timeless(w.Body.String()))
		}
	}
}

// timeless takes out how long a query took.
func timeless(page string) string {
	head, rest, found := strings.Cut(page, ", in ")
	if !found {
		return page
	}
	_, tail, _ := strings.Cut(rest, "</span>")
	return head + ", in no time</span>" + tail
}

// A link leads to what the form says, and what nobody set stays out of it.
func TestLinks(t *testing.T) {
	f := formOf(url.Values{"expr": {`m{a="&"}`}, "end": {"now & then"}, "show": {"instant"}, "partial_response": {"true"}})
	u, err := url.Parse(f.link(func(f *form) { f.Range = "6h" }))
	if err != nil || u.Path != "graph" || formOf(u.Query()) != (form{Expr: f.Expr, Range: "6h", End: f.End, Instant: true, Partial: true}) {
		t.Errorf("%v, %v", u, err)
	}
	if got := (form{Expr: "m", Range: "1h"}).link(func(*form) {}); got != "graph?expr=m&range=1h" {
		t.Error(got)
	}
}

func TestNumbers(t *testing.T) {
	for _, c := range []struct{ got, want string }{
		{number(0), "0"}, {number(-1234567.25), "-1\u202f234\u202f567.25"}, {number(999), "999"}, {number(1e21), "1e+21"}, {number(0.000012), "1.2e-05"}, {number(1.0 / 3), "0.333333333"},
		{short("NaN"), "NaN"}, {short("+Inf"), "+Inf"}, {short("text"), "text"},
		{scaled(0, 5e6), "0"}, {scaled(2.5e6, 5e6), "2.5M"}, {scaled(500_000, 5e6), "0.5M"}, {scaled(0.25, 0.5), "0.25"},
	} {
		if c.got != c.want {
			t.Errorf("%q, want %q", c.got, c.want)
		}
	}
}

// Values without an end, and lines without values, are drawn or left out, and nothing panics.
func TestOddLines(t *testing.T) {
	s := span{begin: now.Add(-time.Hour), end: now, step: time.Minute}
	at := seconds(now) - 600
	for name, l := range map[string]line{
		"none": nil, "NaN": {{at, "NaN"}}, "infinite": {{at, "+Inf"}, {at + 60, "-Inf"}}, "one": {{at, "7"}}, "flat": {{at, "7"}, {at + 60, "7"}},
		"huge": {{at, "1e299"}, {at + 60, "-1e299"}, {at + 120, "1.7e308"}}, "tiny": {{at, "5e-324"}, {at + 60, "0"}}, "text": {{at, "x"}},
	} {
		if _, err := chart([]line{l}, s, 960, 300); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, length := range []time.Duration{time.Second, time.Minute, time.Hour, 24 * time.Hour, 30 * 24 * time.Hour, 50 * 365 * 24 * time.Hour} {
		if n := len(timeTicks(8).Ticks(seconds(now.Add(-length)), seconds(now))); n < 1 || n > 10 {
			t.Errorf("%d ticks for %s", n, length)
		}
	}
}
