//go:build linux

// Command transfer measures what it takes to bring a cluster of three back to three copies
// when one node and its disk are gone: how long, what it costs in CPU, and what clients notice.
//
//	go run ./bench/transfer -size 1GB              the default transfer rate
//	go run ./bench/transfer -size 10GB -rate 0     as fast as it goes
//	go run ./bench/transfer -size 1GB -runs 3      several times, with the same data
//
// It runs at the top of the repository, on Linux. Each node is a process on 127.0.0.1 with a
// hard-linked copy of the same blocks, so that the disk holds the data twice, and three times
// while it is copied to a file, which is the floor. A light load writes and asks all the time.
// The report is Markdown, on standard output; progress goes to standard error.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/alecthomas/units"

	"github.com/starling-tsdb/starling/bench/kit"
)

// settings are what the command line says.
type settings struct {
	size     int64
	series   int
	bits     int
	rate     string // empty for the program's default
	program  string
	work     string
	profiles string
	runs     int
	// each is how long each phase without a transfer is measured.
	each time.Duration
}

func main() { kit.Main("transfer", transfer) }

func transfer(ctx context.Context, _ []string) error {
	s, err := parse()
	if err != nil {
		return err
	}
	d, results, err := measure(ctx, s)
	if err == nil {
		report(os.Stdout, s, d, results)
	}
	return err
}

func parse() (settings, error) {
	var s settings
	size := flag.String("size", "200MB", "`bytes` of blocks on each node")
	rate := flag.String("rate", "", "--cluster.transfer-rate of the nodes; 0 is none, empty the default")
	flag.IntVar(&s.series, "series", 100_000, "series, about; fewer if the size is less than 18 hours of them")
	flag.IntVar(&s.bits, "bits", 10, "random bits of each value: 10 make 1.7 bytes a sample, 52 make 7.1")
	flag.StringVar(&s.program, "program", "", "the program to run; empty builds ./cmd/starling")
	flag.StringVar(&s.work, "work", os.TempDir(), "where data is kept meanwhile")
	flag.StringVar(&s.profiles, "profiles", "", "keep CPU profiles of a giver and the receiver in this directory")
	flag.IntVar(&s.runs, "runs", 1, "how often to measure")
	flag.DurationVar(&s.each, "each", 30*time.Second, "how long to measure latency before, between and after")
	flag.Parse()
	var err error
	if s.size, err = units.ParseStrictBytes(*size); err != nil || s.size <= 0 {
		return s, fmt.Errorf("-size %s: not a number of bytes", *size)
	}
	if s.bits < 1 || s.bits > mantissa {
		return s, fmt.Errorf("-bits %d: has to be in 1..%d", s.bits, mantissa)
	}
	switch *rate {
	case "":
	case "0":
		s.rate = "1TiB"
	default:
		s.rate = *rate
	}
	return s, nil
}

// measure makes the data, and measures as often as is asked for.
func measure(ctx context.Context, s settings) (d *data, results []result, err error) {
	dir, err := os.MkdirTemp(s.work, "starling-transfer-")
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if s.program == "" {
		s.program = filepath.Join(dir, "starling")
		if err := kit.Build(ctx, s.program); err != nil {
			return nil, nil, err
		}
	}
	if d, err = makeData(ctx, filepath.Join(dir, "data"), s); err != nil {
		return nil, nil, err
	}
	for i := range s.runs {
		r := &run{settings: s, data: d, dir: filepath.Join(dir, fmt.Sprintf("run-%d", i+1)), number: i + 1}
		result, err := r.measure(ctx)
		if err != nil {
			return nil, nil, err
		}
		results = append(results, result)
	}
	return d, results, nil
}
