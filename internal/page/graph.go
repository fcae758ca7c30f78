package page

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/prometheus/common/model"
)

const (
	defaultRange = "1h"
	// points is how many a chart has if nobody asks for a step, and mostPoints how many at most.
	points, mostPoints = 240, 1000
	// mostSeries is how many series the API is asked for, mostRows how many are listed.
	mostSeries, mostRows = 1000, 200
	// maxAnswerBytes bounds what an answer takes in memory.
	maxAnswerBytes = 32 << 20
)

// ranges are what the page offers.
var ranges = []string{"5m", "15m", "1h", "6h", "1d", "1w"}

// form is what the box for queries holds, as it was typed.
type form struct {
	Expr, Range, End, Step string
	// Instant asks for the values of one time, Partial consents to a partial answer.
	Instant, Partial bool
}

func formOf(v url.Values) form {
	f := form{Expr: v.Get("expr"), Range: v.Get("range"), End: v.Get("end"), Step: v.Get("step"), Instant: v.Get("show") == "instant", Partial: v.Get("partial_response") == "true"}
	if f.Range == "" {
		f.Range = defaultRange
	}
	return f
}

// link is the URL of the same query, changed.
func (f form) link(change func(*form)) string {
	change(&f)
	v := url.Values{"expr": {f.Expr}, "range": {f.Range}}
	set := func(name, value string, want bool) {
		if want {
			v.Set(name, value)
		}
	}
	set("end", f.End, f.End != "")
	set("step", f.Step, f.Step != "")
	set("show", "instant", f.Instant)
	set("partial_response", "true", f.Partial)
	return "graph?" + v.Encode()
}

// span is what a query is asked of.
type span struct {
	begin, end time.Time
	step       time.Duration
	// raised says that the step would have given too many points.
	raised bool
}

// span reads the times of a form. What is empty is the present, and a step that fits a chart.
func (f form) span(now time.Time) (s span, err error) {
	s.end = now
	if f.End != "" {
		if s.end, err = parseTime(f.End); err != nil {
			return s, err
		}
	}
	length, err := parseDuration(f.Range)
	if err != nil {
		return s, fmt.Errorf("the range: %w", err)
	}
	s.begin = s.end.Add(-length)
	if s.step = (length / points).Truncate(time.Second); s.step < time.Second {
		s.step = time.Second
	}
	if f.Step == "" {
		return s, nil
	}
	if s.step, err = parseDuration(f.Step); err != nil {
		return s, fmt.Errorf("the step: %w", err)
	}
	if least := (length/mostPoints + time.Millisecond - 1).Truncate(time.Millisecond); s.step < least {
		s.step, s.raised = least, true
	}
	return s, nil
}

// parseTime reads what people type, and what an input of type datetime-local gives: all in UTC.
func parseTime(text string) (time.Time, error) {
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02 15:04:05", "2006-01-02 15:04", time.DateOnly} {
		if t, err := time.Parse(layout, text); err == nil {
			return t, nil
		}
	}
	const most = 1e11 // seconds, far beyond the year 5000
	if s, err := strconv.ParseFloat(text, 64); err == nil && s > -most && s < most {
		return time.UnixMilli(int64(s * 1000)), nil
	}
	return time.Time{}, fmt.Errorf("the end: %q is no time, as 2026-01-31 12:00 is, in UTC", text)
}

// parseDuration reads 5m as well as seconds.
func parseDuration(text string) (time.Duration, error) {
	const most = 100 * 365 * 24 * time.Hour
	d, err := model.ParseDuration(text)
	if s, number := strconv.ParseFloat(text, 64); err != nil && number == nil && s < most.Seconds() {
		d, err = model.Duration(s*float64(time.Second)), nil
	}
	if err != nil || d <= 0 || time.Duration(d) > most {
		return 0, fmt.Errorf("%q is no time span, as 5m or 1h is", text)
	}
	return time.Duration(d), nil
}

// answer is what the API says.
type answer struct {
	status    int
	Status    string   `json:"status"`
	ErrorType string   `json:"errorType"`
	Error     string   `json:"error"`
	Warnings  []string `json:"warnings"`
	Infos     []string `json:"infos"`
	Data      struct {
		ResultType string          `json:"resultType"`
		Result     json.RawMessage `json:"result"`
	} `json:"data"`
}

// errTooLarge is why an answer is not shown.
var errTooLarge = errors.New("the answer is too large for this page: ask for less, as by sum or topk, or with a larger step")

// ask has the API answer a query, as from the same client.
func (p *Page) ask(r *http.Request, f form, s span) (answer, error) {
	ctx := r.Context()
	select {
	case p.queries <- struct{}{}:
		defer func() { <-p.queries }()
	case <-ctx.Done():
		return answer{}, ctx.Err()
	}
	seconds := func(t time.Time) string { return strconv.FormatFloat(float64(t.UnixMilli())/1000, 'f', 3, 64) }
	path, v := "/api/v1/query_range", url.Values{"query": {f.Expr}, "limit": {strconv.Itoa(mostSeries)}}
	if f.Instant {
		path = "/api/v1/query"
		v.Set("time", seconds(s.end))
	} else {
		v.Set("start", seconds(s.begin))
		v.Set("end", seconds(s.end))
		v.Set("step", strconv.FormatFloat(s.step.Seconds(), 'f', 3, 64))
	}
	if f.Partial {
		v.Set("partial_response", "true")
	}
	w, err := p.call(ctx, path+"?"+v.Encode(), r.RemoteAddr)
	if err != nil {
		return answer{}, err
	}
	a := answer{status: w.status}
	if err := json.Unmarshal(w.body, &a); err != nil {
		return answer{}, fmt.Errorf("the API answered %d: %.200s", w.status, w.body)
	}
	return a, nil
}

// call has the API answer a request. A panic that ends a connection ends the answer.
func (p *Page) call(ctx context.Context, target, client string) (w *recorder, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return nil, err
	}
	req.RemoteAddr = client
	w = &recorder{header: http.Header{}}
	defer func() {
		switch reason := recover(); {
		case reason == nil:
		case w.full:
			err = errTooLarge
		case reason == http.ErrAbortHandler: //nolint:errorlint // it is the value that is thrown
			err = errors.New("the answer broke off")
		default:
			panic(reason)
		}
	}()
	p.opts.API.ServeHTTP(w, req)
	if w.full {
		return nil, errTooLarge
	}
	return w, nil
}

// recorder takes an answer of limited size.
type recorder struct {
	header http.Header
	status int
	body   []byte
	full   bool
}

// Header implements http.ResponseWriter.
func (w *recorder) Header() http.Header { return w.header }

// WriteHeader implements http.ResponseWriter.
func (w *recorder) WriteHeader(status int) {
	if w.status == 0 && status >= 200 {
		w.status = status
	}
}

// Write implements http.ResponseWriter.
func (w *recorder) Write(b []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	if len(w.body)+len(b) > maxAnswerBytes {
		w.full = true
		return 0, errTooLarge
	}
	w.body = append(w.body, b...)
	return len(b), nil
}

// graph serves /graph.
func (p *Page) graph(w http.ResponseWriter, r *http.Request) {
	f := formOf(r.URL.Query())
	title, status := "Query", http.StatusOK
	v := &graphView{}
	if f.Expr != "" {
		title = f.Expr
		status = p.query(v, r, f)
	}
	p.render(w, status, shell{Title: title, Form: f, Graph: v})
}

// query fills in the answer, and returns the status that tells how it went.
func (p *Page) query(v *graphView, r *http.Request, f form) int {
	s, err := f.span(p.opts.Now())
	if err != nil {
		v.Error = err.Error()
		return http.StatusBadRequest
	}
	v.links(f, s)
	began := time.Now()
	a, err := p.ask(r, f, s)
	switch {
	case errors.Is(err, errTooLarge):
		v.Error = err.Error()
		return http.StatusUnprocessableEntity
	case err != nil:
		v.Error = err.Error()
		return http.StatusInternalServerError
	case a.Status != "success":
		v.Error, v.ErrorType = a.Error, a.ErrorType
		return a.status
	}
	v.Took = time.Since(began).Round(time.Millisecond).String()
	v.Warnings, v.Infos = a.Warnings, a.Infos
	if err := v.fill(a, s); err != nil {
		v.Error = err.Error()
		return http.StatusInternalServerError
	}
	return http.StatusOK
}
