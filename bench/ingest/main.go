//go:build linux

// Command ingest measures what it costs to take samples in: CPU time of the servers for each
// sample and each new series, memory, and bytes between nodes, as multiples of what the
// storage engine alone takes for the same samples in the same run, or Prometheus.
//
//	go run ./bench/ingest                                  one node, 60,000 series, 100 scrapes
//	go run ./bench/ingest -nodes 3 -queries 2 -verify      three, with queries, and read back
//	go run ./bench/ingest -targets http://a:9080           one that runs already
//	go run ./bench/ingest -compose                         the containers of docker-compose.yml
//	go run ./bench/ingest -scenarios all -prometheus build -out report
//
// It runs at the top of the repository, on Linux. Nodes are processes on 127.0.0.1, and only
// their CPU time counts: what sends the load is on the same machine, so throughput says what
// both can do together. The report is Markdown, on standard output; progress goes to standard
// error.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/starling-tsdb/starling/bench/ingest/floor"
	"github.com/starling-tsdb/starling/bench/kit"
	"github.com/starling-tsdb/starling/internal/acceptance/external"
)

func main() { kit.Main("ingest", run) }

func run(ctx context.Context, args []string) (err error) {
	s, err := parse(args)
	if err != nil {
		return err
	}
	if s.floor != "" {
		return floor.Child(s.floor)
	}
	dir, err := os.MkdirTemp(s.where.work, "starling-ingest-")
	if err != nil {
		return fmt.Errorf("-work: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	p := &kit.Progress{}
	defer p.End()
	programs, err := build(ctx, s, dir, p)
	if err != nil {
		return err
	}
	results, err := runAll(ctx, s, programs, dir, p)
	p.End()
	if err != nil {
		return err
	}
	results.commit = kit.Commit(ctx)
	return errors.Join(publish(s, results), results.wrong())
}

// programs are paths of what is measured; empty where nothing is to be.
type programs struct{ starling, prometheus string }

// build builds what the settings do not give.
func build(ctx context.Context, s settings, dir string, p *kit.Progress) (programs, error) {
	out := programs{starling: s.where.program, prometheus: s.suite.prometheus}
	if out.starling == "" && len(s.where.targets) == 0 && !s.where.compose {
		p.Show("building ./cmd/starling")
		out.starling = filepath.Join(dir, "starling")
		if err := kit.Build(ctx, out.starling); err != nil {
			return out, err
		}
	}
	if out.prometheus == "build" {
		p.Show("building Prometheus, which takes some minutes the first time")
		var err error
		if out.prometheus, err = external.Prometheus(ctx, ".", "prometheus"); err != nil {
			return out, fmt.Errorf("-prometheus: %w", err)
		}
	}
	return out, nil
}
