//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/starling-tsdb/starling/bench/ingest/floor"
	"github.com/starling-tsdb/starling/bench/kit"
)

// results are all that a run of the program has measured.
type results struct {
	settings settings
	commit   string
	began    time.Time
	took     time.Duration
	// floors were measured before, between and after the scenarios.
	floors []floor.Result
	// names are those of the measurements, in order.
	names    []string
	outcomes map[string][]outcome
	// failed is why measurements came to nothing.
	failed []error
}

// runAll measures every scenario as often as is asked for, and the floor before, between and
// after them: the machine is another one from minute to minute, and what counts are ratios.
// A scenario that fails leaves the others as they are.
func runAll(ctx context.Context, s settings, programs programs, dir string, p *kit.Progress) (r results, err error) {
	r = results{settings: s, began: time.Now(), outcomes: map[string][]outcome{}}
	list := s.all(programs)
	all := len(list) * s.suite.runs
	for n := range all {
		p.Begin(n+1, all)
		if err := r.measureFloor(ctx, dir, p); err != nil {
			return r, err
		}
		sc := list[n%len(list)] // each in turn, so that none has a good hour for itself
		out, err := measure(ctx, s, sc, filepath.Join(dir, fmt.Sprintf("%d-%s", n+1, sc.name)), p)
		if ctx.Err() != nil {
			return r, errors.Join(ctx.Err(), err)
		}
		if err != nil {
			r.failed = append(r.failed, err)
			continue
		}
		if r.outcomes[sc.name] == nil {
			r.names = append(r.names, sc.name)
		}
		r.outcomes[sc.name] = append(r.outcomes[sc.name], out)
	}
	err = r.measureFloor(ctx, dir, p)
	r.took = time.Since(r.began)
	return r, err
}

// measureFloor measures the load of the settings, without what makes it differ from one
// scenario to the next: late samples and histograms stay.
func (r *results) measureFloor(ctx context.Context, dir string, p *kit.Progress) error {
	p.Show("floor: the storage engine alone")
	shape := r.settings.load.Shape
	shape.Churn, shape.ReplaceEvery = 0, 0
	f, err := floor.Measure(ctx, shape.EndingAt(time.Now()), r.settings.load.Senders, dir)
	r.floors = append(r.floors, f)
	return err
}

// wrong is the error of a run of which a measurement failed, or whose samples were not all as
// they were sent.
func (r *results) wrong() error {
	err := errors.Join(r.failed...)
	for _, name := range r.names {
		for _, o := range r.outcomes[name] {
			for i, f := range o.findings {
				if f.Wrong() > 0 {
					err = errors.Join(err, fmt.Errorf("-verify: %s, %s: %d missing, %d different, of %d; %q",
						name, o.names[i], f.Missing, f.Different, f.Compared, f.Examples))
				}
			}
		}
	}
	return err
}

// floor is the median of a figure of the floor.
func (r *results) floor(figure func(floor.Result) float64) float64 {
	var all []float64
	for _, f := range r.floors {
		all = append(all, figure(f))
	}
	return kit.Median(all)
}

// of is the median of a figure of a measurement, and whether there is one: each figure may
// say that it was not measured.
func (r *results) of(name string, figure func(outcome) (float64, bool)) (float64, bool) {
	var all []float64
	for _, o := range r.outcomes[name] {
		if v, ok := figure(o); ok {
			all = append(all, v)
		}
	}
	return kit.Median(all), len(all) > 0
}
