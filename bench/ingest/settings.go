//go:build linux

package main

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/starling-tsdb/starling/bench/ingest/drive"
	"github.com/starling-tsdb/starling/bench/ingest/floor"
)

// settings are what the command line says.
type settings struct {
	load    drive.Options
	queries float64 // per second
	verify  bool

	where  where
	suite  suiteSettings
	output output

	// floor is the directory in which this process is to measure the floor and nothing else.
	floor string
}

// where says what the load is for.
type where struct {
	program  string
	nodes    int
	copies   int
	targets  []string
	compose  bool
	image    string
	nodeArgs []string
	work     string
}

// suiteSettings say which scenarios are run.
type suiteSettings struct {
	scenarios     []string
	runs          int
	prometheus    string
	memorySeries  int
	memoryScrapes int
	replaceSeries int
}

// output says what is kept.
type output struct {
	dir      string
	profiles string
}

func parse(args []string) (settings, error) {
	var s settings
	f := flag.NewFlagSet("ingest", flag.ExitOnError)
	s.loadFlags(f)
	targets, nodeArgs := s.whereFlags(f)
	scenarios := s.suiteFlags(f)
	f.StringVar(&s.output.dir, "out", "", "write report.md and plots into this `directory`, beside standard output")
	f.StringVar(&s.output.profiles, "profiles", "", "keep CPU and allocation profiles of each node's steady phase in this `directory`")
	f.StringVar(&s.floor, floor.Hidden, "", "measure the floor in this `directory`, with a workload from standard input; the program calls itself so")
	if err := f.Parse(args); err != nil {
		return s, err
	}
	s.where.targets = split(*targets)
	s.where.nodeArgs = strings.Fields(*nodeArgs)
	s.suite.scenarios = split(*scenarios)
	return s, s.check()
}

func split(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' })
}

func (s *settings) loadFlags(f *flag.FlagSet) {
	o := &s.load
	f.IntVar(&o.Shape.Series, "series", 60_000, "series that are active at a time")
	f.IntVar(&o.Shape.Scrapes, "scrapes", 100, "samples of each")
	f.IntVar(&o.Shape.Batch, "batch", 2000, "series in a request")
	f.DurationVar(&o.Shape.Step, "step", 15*time.Second, "virtual time between scrapes; the last one is now")
	f.Float64Var(&o.Shape.Churn, "churn", 0, "`share` of the series that is replaced within an hour of virtual time: 0.1 is 10%")
	f.IntVar(&o.Shape.ReplaceEvery, "replace-all", 0, "replace all series after each so many `scrapes`; 0 never")
	f.Float64Var(&o.Shape.OutOfOrder, "out-of-order", 0, "`share` of the samples that come four scrapes late")
	f.Float64Var(&o.Shape.Histograms, "histograms", 0, "`share` of the series that are native histograms")
	f.IntVar(&o.Shape.Names, "names", 100, "metrics that the series belong to")
	f.IntVar(&o.Version, "protocol", 1, "Remote Write 1 or 2")
	f.IntVar(&o.Senders, "senders", 4, "connections, spread over the servers")
	f.Float64Var(&o.Rate, "rate", 0, "samples per second; 0 is as fast as it goes")
	f.Float64Var(&s.queries, "queries", 0, "queries per second beside the load, each of a hundredth of the series over five minutes")
	f.BoolVar(&s.verify, "verify", false, "read everything back from every server afterwards and compare it bit for bit")
}

func (s *settings) whereFlags(f *flag.FlagSet) (targets, nodeArgs *string) {
	w := &s.where
	targets = f.String("targets", "", "`URLs` of servers that run already, with commas between; else nodes are started")
	f.IntVar(&w.nodes, "nodes", 1, "nodes to start on 127.0.0.1 for the scenario load")
	f.IntVar(&w.copies, "copies", 0, "copies of each series there; 0 is one on each node, three at most")
	f.BoolVar(&w.compose, "compose", false, "start docker-compose.yml with bench/compose.yml for the scenario load")
	f.StringVar(&w.image, "image", "starling:latest", "the image for -compose, as `make image` builds it")
	f.StringVar(&w.program, "program", "", "the program to run; empty builds ./cmd/starling")
	nodeArgs = f.String("node-args", "", "more `flags` for the nodes, with spaces between")
	f.StringVar(&w.work, "work", os.TempDir(), "where data is kept meanwhile")
	return targets, nodeArgs
}

func (s *settings) suiteFlags(f *flag.FlagSet) (scenarios *string) {
	u := &s.suite
	scenarios = f.String("scenarios", scenarioLoad, "what to run, with commas between: "+strings.Join(scenarioNames, ", ")+"; all is everything but load")
	f.IntVar(&u.runs, "runs", 1, "how often to run each; medians are reported")
	f.StringVar(&u.prometheus, "prometheus", "", "a `program` to compare memory with, or build for one of the release in go.mod")
	f.IntVar(&u.memorySeries, "memory-series", 300_000, "series of the scenario memory")
	f.IntVar(&u.memoryScrapes, "memory-scrapes", 20, "scrapes of the scenario memory")
	f.IntVar(&u.replaceSeries, "replace-series", 20_000, "series of the scenario replace")
	return scenarios
}

func (s *settings) check() error {
	w, u := &s.where, &s.suite
	if w.copies == 0 {
		w.copies = min(3, max(w.nodes, len(w.targets)))
	}
	if slices.Equal(u.scenarios, []string{"all"}) {
		u.scenarios = slices.DeleteFunc(slices.Clone(scenarioNames), func(n string) bool { return n == scenarioLoad })
	}
	for _, name := range u.scenarios {
		if !slices.Contains(scenarioNames, name) {
			return fmt.Errorf("-scenarios %s: one of %s, or all", name, strings.Join(scenarioNames, ", "))
		}
	}
	switch {
	case s.floor != "":
		return nil
	case len(u.scenarios) == 0:
		return fmt.Errorf("-scenarios: one of %s, or all", strings.Join(scenarioNames, ", "))
	case w.nodes < 1:
		return fmt.Errorf("-nodes %d: at least one", w.nodes)
	case w.copies < 1 || w.copies > max(w.nodes, len(w.targets), composeNodes):
		return fmt.Errorf("-copies %d: from one to as many as there are nodes", w.copies)
	case w.compose && len(w.targets) > 0:
		return fmt.Errorf("-compose and -targets: which of both?")
	case !(s.queries >= 0):
		return fmt.Errorf("-queries %v: a number per second, or 0 for none", s.queries)
	case u.runs < 1:
		return fmt.Errorf("-runs %d: at least once", u.runs)
	case u.memorySeries < 1:
		return fmt.Errorf("-memory-series %d: at least one", u.memorySeries)
	case u.memoryScrapes < 2:
		return fmt.Errorf("-memory-scrapes %d: at least two", u.memoryScrapes)
	case u.replaceSeries < 1:
		return fmt.Errorf("-replace-series %d: at least one", u.replaceSeries)
	}
	return s.load.Check()
}
