//go:build linux

// Command query measures what queries take on a cluster: time, CPU time of all nodes and bytes
// between them, as multiples of what a Prometheus takes for the same queries of the same
// samples in the same run. Answers are compared.
//
//	go run ./bench/query                     60,000 series, 100 scrapes, three nodes
//	go run ./bench/query -nodes 5 -rounds 9
//	go run ./bench/query -series 12000 -scrapes 1500 -span 6h      most of it in blocks
//
// It runs at the top of the repository, on Linux. Nodes and Prometheus are processes on
// 127.0.0.1, asked in turn, and idle while the other is asked. The report is Markdown, on
// standard output; progress goes to standard error.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/starling-tsdb/starling/bench/ingest/drive"
	"github.com/starling-tsdb/starling/bench/ingest/server"
	"github.com/starling-tsdb/starling/bench/ingest/workload"
	"github.com/starling-tsdb/starling/bench/kit"
	"github.com/starling-tsdb/starling/internal/acceptance/external"
)

func main() { kit.Main("query", run) }

type settings struct {
	nodes, rounds            int
	span                     time.Duration
	shape                    workload.Shape
	program, prometheus, dir string
	profiles                 string
}

func parse(args []string) (s settings, err error) {
	s.shape = workload.Shape{Batch: 2000, Step: 15 * time.Second, Names: 6}
	f := flag.NewFlagSet("query", flag.ExitOnError)
	f.IntVar(&s.nodes, "nodes", 3, "nodes of the cluster; three of them, or all, hold each series")
	f.IntVar(&s.rounds, "rounds", 5, "how often each query is asked for at least, in turn; medians are reported")
	f.IntVar(&s.shape.Series, "series", 60_000, "series, of six metrics")
	f.IntVar(&s.shape.Scrapes, "scrapes", 100, "samples of each")
	f.DurationVar(&s.span, "span", 20*time.Minute, "the time that queries are for")
	f.StringVar(&s.program, "program", "", "the program to run; empty builds ./cmd/starling")
	f.StringVar(&s.prometheus, "prometheus", "", "the Prometheus to compare with; empty builds the release in go.mod")
	f.StringVar(&s.profiles, "profiles", "", "keep CPU profiles of all servers for each query in this `directory`; figures are not told then")
	f.StringVar(&s.dir, "work", os.TempDir(), "where data is kept meanwhile")
	if err := f.Parse(args); err != nil {
		return s, err
	}
	switch {
	case s.nodes < 1:
		return s, fmt.Errorf("-nodes %d: at least one", s.nodes)
	case s.span < time.Minute:
		return s, fmt.Errorf("-span %s: at least a minute", s.span)
	case s.rounds < 1:
		return s, fmt.Errorf("-rounds %d: at least one", s.rounds)
	}
	return s, s.shape.Check()
}

func run(ctx context.Context, args []string) (err error) {
	s, err := parse(args)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(s.dir, "starling-query-")
	if err != nil {
		return fmt.Errorf("-work: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	p := &kit.Progress{}
	defer p.End()
	if s.program == "" {
		p.Show("building ./cmd/starling")
		s.program = filepath.Join(dir, "starling")
		if err := kit.Build(ctx, s.program); err != nil {
			return err
		}
	}
	if s.prometheus == "" {
		p.Show("building Prometheus, which takes some minutes the first time")
		if s.prometheus, err = external.Prometheus(ctx, ".", "prometheus"); err != nil {
			return fmt.Errorf("-prometheus: %w", err)
		}
	}
	began := time.Now()
	s.shape = s.shape.EndingAt(began)
	one, err := server.Prometheus(ctx, server.Processes{Program: s.prometheus, Dir: filepath.Join(dir, "prometheus")})
	if err != nil {
		return fmt.Errorf("start Prometheus: %w", err)
	}
	defer func() { err = errors.Join(err, one.Stop()) }()
	var nodeArgs []string
	if lasts := time.Duration(s.shape.Scrapes) * s.shape.Step; lasts > mostHead {
		// The first samples are too old for a node that has none yet.
		nodeArgs = []string{fmt.Sprintf("--storage.tsdb.out-of-order-time-window=%s", lasts), server.AtOnce}
	}
	flock, err := server.Nodes(ctx, server.Processes{Program: s.program, Dir: filepath.Join(dir, "nodes"), Nodes: s.nodes, Copies: min(3, s.nodes), Args: nodeArgs})
	if err != nil {
		return fmt.Errorf("start the nodes: %w", err)
	}
	defer func() { err = errors.Join(err, flock.Stop()) }()
	for name, c := range map[string]*server.Cluster{"Prometheus": one, "the nodes": flock} {
		p.Show("sending %d series with %d samples each to %s", s.shape.Series, s.shape.Scrapes, name)
		if err := fill(ctx, s.shape, c); err != nil {
			return fmt.Errorf("send samples to %s: %w\n%s", name, err, c.Logs())
		}
	}
	b := &bench{settings: s, progress: p, prometheus: one, nodes: flock}
	all := questions(s.shape)
	var results []result
	for i, q := range all {
		p.Begin(i+1, len(all))
		r, err := b.measure(ctx, q)
		if err != nil {
			return fmt.Errorf("%s: %w", q.name, err)
		}
		results = append(results, r)
	}
	p.End()
	report(os.Stdout, s, kit.Commit(ctx), began, results)
	return nil
}

// fill sends all samples and waits until the servers are idle.
func fill(ctx context.Context, shape workload.Shape, c *server.Cluster) error {
	load := drive.New(drive.Options{Shape: shape, Version: 1, Targets: c.URLs(), Senders: 2 * len(c.URLs())})
	defer load.Close()
	if err := load.Run(ctx, 0, shape.Scrapes); err != nil {
		return err
	}
	if n := load.Counts(); n.Dropped > 0 {
		why, _ := load.Why()
		return fmt.Errorf("%d samples were refused: %s", n.Dropped, why)
	}
	if err := compacted(ctx, c); err != nil {
		return err
	}
	return c.Settle(ctx)
}

// mostHead is what a head spans before a block of two hours is cut off.
const mostHead = 3 * time.Hour

// compacted waits until the servers have made blocks of what is old.
func compacted(ctx context.Context, c *server.Cluster) error {
	return server.Await(ctx, "blocks are made of what is old", 5*time.Minute, func(ctx context.Context) error {
		all, err := c.Read(ctx)
		for i, r := range all {
			if r.Head > mostHead {
				err = errors.Join(err, fmt.Errorf("the head of %s spans %s", c.Servers[i].Name, r.Head))
			}
		}
		return err
	})
}
