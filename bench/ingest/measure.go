//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"time"

	"github.com/starling-tsdb/starling/bench/ingest/drive"
	"github.com/starling-tsdb/starling/bench/ingest/server"
	"github.com/starling-tsdb/starling/bench/ingest/workload"
	"github.com/starling-tsdb/starling/bench/kit"
	"github.com/starling-tsdb/starling/bench/proc"
)

// outcome is what one measurement has brought.
type outcome struct {
	scenario
	copies int
	names  []string // of the servers

	// started, created and ended are read before the first scrape, after it and after the
	// last, once the servers were idle.
	started, created, ended []server.Reading
	// answered is read shortly after the last answer of the first scrape. What nodes do from
	// then until they are idle counts, since it may be copies that were made late and handed
	// off; it is told apart, since it may be upkeep too.
	answered []server.Reading
	// late is the CPU time from the last answer of all until the servers were idle.
	late float64
	// live is the heap of each server at the end, after garbage was collected.
	live []int64
	// first and steady are what was acknowledged in the first scrape and in all later ones.
	first, steady int
	took          time.Duration // by the later ones
	counts        drive.Counts
	// dropped and again are the first answers for which samples were given up, and a request
	// was sent again.
	dropped, again string
	// others is the part of the machine's CPUs, from 0 to 1, that went to programs which are
	// neither servers nor the load, -1 if that is unknown, and client what the load took.
	others, client float64

	begun    time.Time // of the steady phase
	points   []server.Point
	requests []drive.Request // of the steady phase
	queries  queries
	findings []*workload.Findings // of each server, if verified
	profiled bool
}

type queries struct {
	took   []time.Duration
	failed int
	why    error
}

// usage is what the machine has used up to a time.
type usage struct {
	at       time.Time
	all, own time.Duration
}

func used() (u usage, err error) {
	u.at, u.own = time.Now(), proc.OwnCPU()
	u.all, err = proc.MachineCPU()
	return u, err
}

// measurement is one that runs.
type measurement struct {
	settings settings
	progress *kit.Progress
	cluster  *server.Cluster
	load     *drive.Load
	out      outcome
}

// measure starts the servers of a scenario, sends the load and stops them again.
func measure(ctx context.Context, s settings, sc scenario, dir string, p *kit.Progress) (out outcome, err error) {
	p.Show("%s: starting", sc.name)
	c, err := sc.start(ctx, dir)
	if err != nil {
		return out, fmt.Errorf("start the servers of %s: %w", sc.name, err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("%s: %w\n%s", sc.name, err, c.Logs())
		}
		err = errors.Join(err, c.Stop())
	}()
	o := sc.load
	o.Targets = c.URLs()
	o.Senders = (o.Senders + len(o.Targets) - 1) / len(o.Targets) * len(o.Targets) // the same for each
	o.Shape = o.Shape.EndingAt(time.Now())
	sc.load = o
	m := &measurement{settings: s, progress: p, cluster: c, load: drive.New(o)}
	defer m.load.Close()
	m.out = outcome{scenario: sc, copies: c.Copies}
	for _, server := range c.Servers {
		m.out.names = append(m.out.names, server.Name)
	}
	if err := m.run(ctx); err != nil {
		return out, err
	}
	if s.verify && !sc.reference {
		err = m.verify(ctx)
	}
	return m.out, err
}

// run sends the first scrape, and then all others.
func (m *measurement) run(ctx context.Context) (err error) {
	o := &m.out
	if err := m.cluster.Settle(ctx); err != nil {
		return err
	}
	if o.started, err = m.cluster.Read(ctx); err != nil {
		return err
	}
	m.progress.Show("%s: creating %d series", o.name, o.load.Shape.Series)
	if err := m.load.Run(ctx, 0, 1); err != nil {
		return err
	}
	if o.answered, err = m.cluster.Answered(ctx); err != nil {
		return err
	}
	if err := m.cluster.Settle(ctx); err != nil {
		return err
	}
	if o.created, err = m.cluster.Read(ctx); err != nil {
		return err
	}
	o.first = m.load.Counts().Acknowledged
	if o.first == 0 {
		dropped, _ := m.load.Why()
		return fmt.Errorf("nothing was acknowledged: %s", dropped)
	}
	if err := m.steady(ctx); err != nil {
		return err
	}
	if err := m.cluster.CollectGarbage(ctx); err != nil {
		return err
	}
	all, err := m.cluster.Read(ctx)
	for _, r := range all {
		o.live = append(o.live, r.Heap)
	}
	return err
}

// steady sends all scrapes but the first.
func (m *measurement) steady(ctx context.Context) error {
	o := &m.out
	before, err := used()
	if err != nil {
		return err
	}
	o.begun = before.at
	watch := m.cluster.Watch(ctx, time.Second, m.note)
	asking := m.load.Ask(ctx, m.settings.queries)
	profiles := m.profile(ctx)
	err = m.load.Run(ctx, 1, o.load.Shape.Scrapes)
	o.took = time.Since(o.begun)
	o.queries.took, o.queries.failed, o.queries.why = asking.Stop()
	var answered []server.Reading
	if err == nil {
		answered, err = m.cluster.Answered(ctx)
	}
	if err == nil {
		err = m.cluster.Settle(ctx)
	}
	o.points = watch.Stop()
	o.counts = m.load.Counts()
	o.dropped, o.again = m.load.Why()
	o.steady = o.counts.Acknowledged - o.first
	o.requests = m.load.Requests(o.begun)
	if err == nil {
		err = m.finish(ctx, before)
	}
	if err == nil {
		o.late, _ = gain(answered, o.ended, cpuOf)
	}
	return errors.Join(err, <-profiles)
}

// finish takes the last reading of the steady phase.
func (m *measurement) finish(ctx context.Context, before usage) (err error) {
	o := &m.out
	if o.ended, err = m.cluster.Read(ctx); err != nil {
		return err
	}
	after, err := used()
	m.account(before, after)
	if o.steady == 0 {
		return errors.Join(err, fmt.Errorf("nothing was acknowledged after the first scrape: %s", o.dropped))
	}
	return err
}

// account tells what other programs and the load took of the machine.
func (m *measurement) account(before, after usage) {
	o := &m.out
	all := after.at.Sub(before.at).Seconds() * float64(runtime.NumCPU())
	o.client, o.others = (after.own-before.own).Seconds()/all, -1
	servers := time.Duration(0)
	for i, s := range m.cluster.Servers {
		if s.PID == 0 {
			return
		}
		servers += o.ended[i].CPU - o.created[i].CPU
	}
	o.others = max(0, (after.all-before.all-(after.own-before.own)-servers).Seconds()/all)
}

// note adds to a point what is known of the load, and shows it.
func (m *measurement) note(p *server.Point) {
	c := m.load.Counts()
	p.Samples, p.Scrapes, p.Refused = c.Acknowledged, c.Scrapes, c.Refused
	took := p.At.Sub(m.out.begun)
	done, all := c.Scrapes-1, m.out.load.Shape.Scrapes-1
	left := "?"
	if done > 0 {
		left = (took * time.Duration(all-done) / time.Duration(done)).Round(time.Second).String()
	}
	m.progress.Show("%s: %d of %d scrapes, %.0f samples/s, %d refused, %s left",
		m.out.name, c.Scrapes, all+1, float64(c.Acknowledged-m.out.first)/max(took.Seconds(), 0.001), c.Refused+c.Failed, left)
}

// profiledFor is how long CPU profiles are taken.
const profiledFor = 10

// profile takes profiles if they are wanted. The channel tells the outcome, after the last.
func (m *measurement) profile(ctx context.Context) <-chan error {
	all := make(chan error, 1)
	dir := m.settings.output.profiles
	if dir == "" {
		all <- nil
		return all
	}
	m.out.profiled = true
	outcomes := make(chan error)
	for _, s := range m.cluster.Servers {
		go func() {
			base := filepath.Join(dir, m.out.name+"-"+s.Name)
			err := s.Profile(ctx, fmt.Sprintf("profile?seconds=%d", profiledFor), base+"-cpu.pprof")
			outcomes <- errors.Join(err, s.Profile(ctx, "allocs", base+"-allocs.pprof"))
		}()
	}
	go func() {
		var err error
		for range m.cluster.Servers {
			err = errors.Join(err, <-outcomes)
		}
		all <- err
	}()
	return all
}

// verify reads everything back from every server.
func (m *measurement) verify(ctx context.Context) error {
	for _, s := range m.cluster.Servers {
		f, err := m.load.Verify(ctx, s.URL, func(done, all int) {
			m.progress.Show("%s: reading back from %s, %d%%", m.out.name, s.Name, 100*done/all)
		})
		if err != nil {
			return fmt.Errorf("-verify: %w", err)
		}
		m.out.findings = append(m.out.findings, f)
	}
	return nil
}
