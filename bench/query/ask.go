//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"path/filepath"
	"strconv"
	"time"

	"github.com/prometheus/common/model"

	"github.com/starling-tsdb/starling/bench/ingest/server"
	"github.com/starling-tsdb/starling/bench/ingest/workload"
	"github.com/starling-tsdb/starling/bench/kit"
	"github.com/starling-tsdb/starling/bench/proc"
)

// What queries may take at most, as multiples of what Prometheus does. Zero is no target.
const (
	heavyTime, heavyCPU = 0.35, 0.6
	countTime           = 0.6
	smallTime           = 3.0
	rawTime             = 1.5
)

// question is one query, asked over the span that ends with the last sample.
type question struct {
	name, expr string
	// time and cpu are targets.
	time, cpu float64
}

// steps is how many a query has: a minute each over 20 minutes.
const steps = 20

func questions(shape workload.Shape) []question {
	a, b := workload.Metric(0), workload.Metric(1%shape.Metrics())
	return []question{
		{"sum of rate", fmt.Sprintf("sum(rate(%s[5m]))", a), heavyTime, heavyCPU},
		{"sum by of rate", fmt.Sprintf("sum by (job) (rate(%s[5m]))", a), heavyTime, heavyCPU},
		{"topk of sum by", fmt.Sprintf("topk(5, sum by (job) (rate(%s[5m])))", a), heavyTime, heavyCPU},
		{"avg by", fmt.Sprintf("avg by (job) (%s)", a), heavyTime, heavyCPU},
		{"quotient of sums", fmt.Sprintf("sum by (job) (rate(%s[5m])) / sum by (job) (rate(%s[5m]))", a, b), heavyTime, heavyCPU},
		{"count of many", `count({job=~"service-0[012].*"})`, countTime, 0},
		{"ten series", fmt.Sprintf(`%s{pod=~"%s00000[0-5].*"}`, a, workload.PodPrefix), smallTime, 0},
		{"all series of a metric", a, rawTime, 0},
	}
}

// bench asks both sides.
type bench struct {
	settings
	progress          *kit.Progress
	prometheus, nodes *server.Cluster
	turn              int // whose node is asked next
}

// side is what one side took.
type side struct {
	took []time.Duration
	cpu  time.Duration // of all servers, for each query
}

type result struct {
	question
	series            int // of the answer
	prometheus, nodes side
	// bytes travelled between nodes for one query.
	bytes float64
}

// least is how long a side is asked in a round at least: CPU time is told in hundredths of a
// second.
const least = time.Second

// measure asks both sides in turn and compares their answers.
func (b *bench) measure(ctx context.Context, q question) (r result, err error) {
	r.question = q
	for range b.settings.nodes { // each has to agree; it warms up, too
		want, err := b.ask(ctx, b.prometheus, q)
		if err != nil {
			return r, err
		}
		got, err := b.ask(ctx, b.nodes, q)
		if err != nil {
			return r, err
		}
		if err := compare(want, got); err != nil {
			return r, fmt.Errorf("the answers differ: %w", err)
		}
		r.series = len(want)
	}
	if b.profiles != "" {
		return r, b.profile(ctx, q)
	}
	for round := range b.rounds {
		b.progress.Show("%s: round %d of %d", q.name, round+1, b.rounds)
		for _, s := range []struct {
			cluster *server.Cluster
			side    *side
		}{{b.prometheus, &r.prometheus}, {b.nodes, &r.nodes}} {
			if err := b.round(ctx, s.cluster, q, s.side); err != nil {
				return r, err
			}
		}
	}
	for _, s := range []*side{&r.prometheus, &r.nodes} {
		s.cpu /= time.Duration(len(s.took))
	}
	r.bytes, err = b.travelled(ctx, q)
	return r, err
}

// round asks one side for a while.
func (b *bench) round(ctx context.Context, c *server.Cluster, q question, s *side) error {
	before, err := cpu(c)
	if err != nil {
		return err
	}
	for start := time.Now(); time.Since(start) < least; {
		asked := time.Now()
		if err := b.drain(ctx, c, q); err != nil {
			return err
		}
		s.took = append(s.took, time.Since(asked))
	}
	after, err := cpu(c)
	s.cpu += after - before
	return err
}

// cpu is what all servers have used.
func cpu(c *server.Cluster) (sum time.Duration, err error) {
	for _, s := range c.Servers {
		used, err := proc.CPU(s.PID)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", s.Name, err)
		}
		sum += used
	}
	return sum, nil
}

// travelled measures bytes between nodes, apart from the rest: reading metrics takes CPU time.
func (b *bench) travelled(ctx context.Context, q question) (float64, error) {
	const asked = 4
	all := func() (sum float64, err error) {
		readings, err := b.nodes.Read(ctx)
		for _, r := range readings {
			sum += r.Sent + r.Received
		}
		return sum, err
	}
	before, err := all()
	for range asked {
		err = errors.Join(err, b.drain(ctx, b.nodes, q))
	}
	after, err2 := all()
	return (after - before) / asked, errors.Join(err, err2)
}

// profile keeps CPU profiles of servers that are asked one query again and again.
func (b *bench) profile(ctx context.Context, q question) error {
	const seconds = 5
	for _, c := range []*server.Cluster{b.prometheus, b.nodes} {
		done := make(chan error, len(c.Servers))
		for _, s := range c.Servers {
			go func() {
				done <- s.Profile(ctx, fmt.Sprintf("profile?seconds=%d", seconds), filepath.Join(b.profiles, q.name+"-"+s.Name+"-cpu.pprof"))
			}()
		}
		var err error
		for left := len(c.Servers); left > 0; {
			select {
			case failed := <-done:
				err = errors.Join(err, failed)
				left--
			default:
				err = errors.Join(err, b.drain(ctx, c, q))
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// open asks the server of a cluster whose turn it is.
func (b *bench) open(ctx context.Context, c *server.Cluster, q question) (io.ReadCloser, error) {
	b.turn++
	end := float64(b.shape.Time(b.shape.Scrapes-1)) / 1000
	args := url.Values{
		"query": {q.expr}, "step": {strconv.FormatFloat(b.span.Seconds()/steps, 'f', -1, 64)},
		"start": {strconv.FormatFloat(end-b.span.Seconds(), 'f', 3, 64)}, "end": {strconv.FormatFloat(end, 'f', 3, 64)},
	}
	url := c.Servers[b.turn%len(c.Servers)].URL + "/api/v1/query_range?" + args.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		text, err := io.ReadAll(io.LimitReader(resp.Body, 500))
		return nil, errors.Join(fmt.Errorf("%s answered %s: %s", url, resp.Status, text), err)
	}
	return resp.Body, nil
}

// drain asks, and reads the answer without looking at it.
func (b *bench) drain(ctx context.Context, c *server.Cluster, q question) error {
	body, err := b.open(ctx, c, q)
	if err != nil {
		return err
	}
	defer body.Close()
	_, err = io.Copy(io.Discard, body)
	return err
}

// ask returns the answer by the labels of its series.
func (b *bench) ask(ctx context.Context, c *server.Cluster, q question) (map[string][]model.SamplePair, error) {
	body, err := b.open(ctx, c, q)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	var answer struct {
		Data struct{ Result model.Matrix }
	}
	if err := json.NewDecoder(body).Decode(&answer); err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	all := make(map[string][]model.SamplePair, len(answer.Data.Result))
	for _, s := range answer.Data.Result {
		all[s.Metric.String()] = s.Values
	}
	return all, nil
}

// rounding is by how much sums may differ that were added up in another order.
const rounding = 1e-9

func compare(want, got map[string][]model.SamplePair) error {
	if len(want) == 0 || len(want) != len(got) {
		return fmt.Errorf("%d series, %d of Prometheus's", len(got), len(want))
	}
	for name, values := range want {
		others := got[name]
		if len(values) != len(others) {
			return fmt.Errorf("%s has %d values, %d of Prometheus's", name, len(others), len(values))
		}
		for i, v := range values {
			o := others[i]
			same := v.Value.Equal(o.Value) || math.Abs(float64(v.Value-o.Value)) <= rounding*math.Abs(float64(v.Value))
			if v.Timestamp != o.Timestamp || !same {
				return fmt.Errorf("%s is %v, %v of Prometheus's", name, o, v)
			}
		}
	}
	return nil
}
