//go:build linux

package main

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/starling-tsdb/starling/bench/ingest/drive"
	"github.com/starling-tsdb/starling/bench/ingest/server"
)

// Names of scenarios. Some of them are several measurements, which have names of their own.
const (
	scenarioLoad    = "load"
	scenarioOne     = "one"
	scenarioThree   = "three"
	scenarioMemory  = "memory"
	scenarioChurn   = "churn"
	scenarioReplace = "replace"

	memoryOne        = "memory-one"
	memoryThree      = "memory-three"
	memoryPrometheus = "memory-prometheus"

	composeNodes = 3
	clusterNodes = 3
)

var scenarioNames = []string{scenarioLoad, scenarioOne, scenarioThree, scenarioMemory, scenarioChurn, scenarioReplace}

// Figures of churn and replace.
const (
	hourlyChurn = 0.1
	// replaceStep and replaceScrapes are ten hours of virtual time, enough for the head of a
	// TSDB to be cut several times: only then do series leave it. All are replaced every two
	// hours.
	replaceStep    = 2 * time.Minute
	replaceScrapes = 300
	replaceEvery   = 60
	// replaceWindow has nodes take samples that are as old as its first ones.
	replaceWindow = "--storage.tsdb.out-of-order-time-window=12h"
)

// scenario is one measurement.
type scenario struct {
	name, title string
	load        drive.Options
	start       func(ctx context.Context, dir string) (*server.Cluster, error)
	// reference marks the measurement that others are compared with, which is no node.
	reference bool
}

// scenarios are those that the settings ask for, in order.
func (s settings) all(programs programs) (list []scenario) {
	for _, name := range s.suite.scenarios {
		switch name {
		case scenarioLoad:
			list = append(list, s.custom(programs.starling))
		case scenarioOne:
			list = append(list, s.local(programs.starling, scenarioOne, 1, s.load))
		case scenarioThree:
			list = append(list, s.local(programs.starling, scenarioThree, clusterNodes, s.load))
		case scenarioMemory:
			o := s.load
			o.Shape.Series, o.Shape.Scrapes = s.suite.memorySeries, s.suite.memoryScrapes
			if programs.prometheus != "" {
				list = append(list, s.prometheus(programs.prometheus, o))
			}
			list = append(list, s.local(programs.starling, memoryOne, 1, o), s.local(programs.starling, memoryThree, clusterNodes, o))
		case scenarioChurn:
			o := s.load
			o.Shape.Churn = hourlyChurn
			list = append(list, s.local(programs.starling, scenarioChurn, clusterNodes, o))
		case scenarioReplace:
			o := s.load
			o.Shape.Series, o.Shape.Scrapes, o.Shape.Step, o.Shape.ReplaceEvery = s.suite.replaceSeries, replaceScrapes, replaceStep, replaceEvery
			s.where.nodeArgs = append(slices.Clone(s.where.nodeArgs), replaceWindow, server.AtOnce)
			list = append(list, s.local(programs.starling, scenarioReplace, clusterNodes, o))
		}
	}
	return list
}

// local is a measurement of nodes that each hold everything.
func (s settings) local(program, name string, nodes int, o drive.Options) scenario {
	return s.processes(program, name, nodes, nodes, o)
}

func (s settings) processes(program, name string, nodes, copies int, o drive.Options) scenario {
	return scenario{
		name: name, title: describe(nodes, copies, o), load: o,
		start: func(ctx context.Context, dir string) (*server.Cluster, error) {
			return server.Nodes(ctx, server.Processes{Program: program, Dir: dir, Nodes: nodes, Copies: copies, Args: s.where.nodeArgs})
		},
	}
}

// custom is what the flags of the load alone say.
func (s settings) custom(program string) scenario {
	w := s.where
	switch {
	case len(w.targets) > 0:
		return scenario{
			name: scenarioLoad, title: describe(len(w.targets), w.copies, s.load), load: s.load,
			start: func(context.Context, string) (*server.Cluster, error) { return server.Remote(w.targets, w.copies), nil },
		}
	case w.compose:
		return scenario{
			name: scenarioLoad, title: "containers: " + describe(composeNodes, composeNodes, s.load), load: s.load,
			start: func(ctx context.Context, _ string) (*server.Cluster, error) {
				return server.Compose(ctx, w.image, filepath.Join("bench", "compose.yml"))
			},
		}
	}
	return s.processes(program, scenarioLoad, w.nodes, w.copies, s.load)
}

func (s settings) prometheus(program string, o drive.Options) scenario {
	o.Version = 1 // what both take alike
	return scenario{
		name: memoryPrometheus, title: "Prometheus: " + describe(1, 1, o), load: o, reference: true,
		start: func(ctx context.Context, dir string) (*server.Cluster, error) {
			return server.Prometheus(ctx, server.Processes{Program: program, Dir: dir})
		},
	}
}

// describe says what is measured, in a few words.
func describe(nodes, copies int, o drive.Options) string {
	text := fmt.Sprintf("%s, %s, %d series × %d scrapes", count(nodes, "node", "nodes"), count(copies, "copy", "copies"), o.Shape.Series, o.Shape.Scrapes)
	if o.Shape.Churn > 0 {
		text += fmt.Sprintf(", %g%% of them replaced in an hour", 100*o.Shape.Churn)
	}
	if o.Shape.ReplaceEvery > 0 {
		text += fmt.Sprintf(", all of them replaced every %s", time.Duration(o.Shape.ReplaceEvery)*o.Shape.Step)
	}
	if o.Shape.OutOfOrder > 0 {
		text += fmt.Sprintf(", %g%% of the samples late", 100*o.Shape.OutOfOrder)
	}
	if o.Shape.Histograms > 0 {
		text += fmt.Sprintf(", %g%% of the series native histograms", 100*o.Shape.Histograms)
	}
	return text
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
