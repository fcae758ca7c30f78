package node

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/starling-tsdb/starling/internal/border/bordertest"
	"github.com/starling-tsdb/starling/internal/config"
	"github.com/starling-tsdb/starling/internal/table"
)

// openRegistry tells what was registered with it.
type openRegistry struct {
	*prometheus.Registry

	mu         sync.Mutex
	collectors []prometheus.Collector
}

// Register implements prometheus.Registerer.
func (r *openRegistry) Register(c prometheus.Collector) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.collectors = append(r.collectors, c)
	return r.Registry.Register(c)
}

// MustRegister implements prometheus.Registerer.
func (r *openRegistry) MustRegister(collectors ...prometheus.Collector) {
	for _, c := range collectors {
		if err := r.Register(c); err != nil {
			panic(err)
		}
	}
}

// exposed is what nodes show at /metrics, by name of the metric.
type exposed struct {
	families map[string]*dto.MetricFamily
	labels   map[string]labelSet
	// values of labels, for those that are not made up.
	values map[[2]string]labelSet
	// described are the names that collectors say they may show.
	described map[string]bool
}

func newExposed() *exposed {
	return &exposed{
		families: map[string]*dto.MetricFamily{}, labels: map[string]labelSet{},
		values: map[[2]string]labelSet{}, described: map[string]bool{},
	}
}

// add takes families in. Values of labels count as real ones unless they are made up.
func (e *exposed) add(families []*dto.MetricFamily, madeUp bool) {
	for _, f := range families {
		name := f.GetName()
		e.families[name] = f
		if e.labels[name] == nil {
			e.labels[name] = labelSet{}
		}
		for _, m := range f.Metric {
			for _, l := range m.Label {
				e.labels[name][l.GetName()] = true
				if !madeUp {
					e.see(name, l.GetName(), l.GetValue())
				}
			}
			for _, q := range m.GetSummary().GetQuantile() {
				e.see(name, model.QuantileLabel, fmt.Sprint(q.GetQuantile()))
			}
		}
	}
}

func (e *exposed) see(name, label, value string) {
	key := [2]string{name, label}
	if e.values[key] == nil {
		e.values[key] = labelSet{}
	}
	e.values[key][value] = true
}

// scrape asks a node's /metrics.
func (e *exposed) scrape(m *member) {
	m.flock.Helper()
	got := m.get("/metrics")
	if got.code != http.StatusOK {
		m.flock.Fatalf("/metrics of %s: %+v", m.name, got)
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(got.text + "\n"))
	if err != nil {
		m.flock.Fatal(err)
	}
	e.add(slices.Collect(maps.Values(families)), false)
}

// fqName is how a description, which has no other way to say it, spells its name.
var fqName = regexp.MustCompile(`^Desc\{fqName: "([^"]+)"`)

// complete adds what nothing has happened yet for: vectors without children, of which it
// makes one.
func (e *exposed) complete(t testing.TB, registries []*openRegistry) {
	t.Helper()
	for _, r := range registries {
		childless := prometheus.NewRegistry()
		for _, c := range r.collectors {
			for d := range described(c) {
				name := fqName.FindStringSubmatch(d.String())
				if name == nil {
					t.Fatalf("no name in %s", d)
				}
				e.described[name[1]] = true
			}
			if child := childOf(c); child != nil {
				if err := childless.Register(c); err != nil {
					t.Fatal(err)
				}
			}
		}
		families, err := childless.Gather()
		if err != nil {
			t.Fatal(err)
		}
		e.add(families, true)
	}
	for name := range e.described {
		if e.families[name] == nil && strings.HasPrefix(name, "starling_") {
			t.Errorf("%s is described but never seen: have what makes it appear happen in this test", name)
		}
	}
}

func described(c prometheus.Collector) <-chan *prometheus.Desc {
	descs := make(chan *prometheus.Desc)
	go func() { c.Describe(descs); close(descs) }()
	return descs
}

// childOf has a vector make a child, whatever its labels; nil if c is no vector.
func childOf(c prometheus.Collector) any {
	make1 := func(values []string) (any, error) { return nil, nil }
	switch v := c.(type) {
	case *prometheus.CounterVec:
		make1 = func(values []string) (any, error) { return v.GetMetricWithLabelValues(values...) }
	case *prometheus.GaugeVec:
		make1 = func(values []string) (any, error) { return v.GetMetricWithLabelValues(values...) }
	case *prometheus.HistogramVec:
		make1 = func(values []string) (any, error) { return v.GetMetricWithLabelValues(values...) }
	case *prometheus.SummaryVec:
		make1 = func(values []string) (any, error) { return v.GetMetricWithLabelValues(values...) }
	}
	const enough = 10
	for n := range enough {
		if child, err := make1(slices.Repeat([]string{"any"}, n)); err == nil {
			return child
		}
	}
	return nil
}

// watchFlock runs three nodes and a fourth, has happen what operators watch for, and returns
// all metrics that nodes can show.
func watchFlock(t *testing.T) *exposed {
	e := newExposed()
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		var registries []*openRegistry
		f.registry = func() Registry {
			r := &openRegistry{Registry: prometheus.NewRegistry()}
			registries = append(registries, r)
			return r
		}
		f.query = func(q *config.Query) { q.VerifyPushdown = 1 }
		f.cluster = f.equipped(bordertest.NewAuthority(t, "ours"), "starling.internal", "starling.internal")
		f.fresh("a", "b", "c")
		f.wantWritten(http.StatusNoContent)
		f.nodes["a"].query("sum(rate(m[5m]))")
		f.nodes["b"].query("m / m")
		e.scrapeAll(f)
		e.cutOff(f)
		e.refuse(f)
		e.move(f)
		e.complete(t, registries)
	})
	return e
}

func (e *exposed) scrapeAll(f *flock) {
	f.Helper()
	for _, m := range f.nodes {
		e.scrape(m)
	}
}

// wantWritten writes samples of now and of an hour ago through the node a.
func (f *flock) wantWritten(code int) {
	f.Helper()
	for _, at := range []time.Time{time.Now(), time.Now().Add(-time.Hour)} {
		if got := f.nodes["a"].writeAt("m", at, 1, 2, 3); got != code {
			f.Errorf("a write is answered %d, want %d", got, code)
		}
	}
}

// cutOff has the node c be cut off from a, and then b, too.
func (e *exposed) cutOff(f *flock) {
	f.Helper()
	a := f.nodes["a"]
	f.net.Partition([]string{ip(1), ip(2)}, []string{ip(3)})
	f.wantWritten(http.StatusNoContent)
	e.scrape(a) // c is only late
	f.eventually(time.Minute, "a gap", func() error {
		if len(a.gaps.Status()) == 0 {
			return errors.New("none is open")
		}
		return nil
	})
	e.scrapeAll(f)

	f.net.Partition([]string{ip(1)}, []string{ip(2), ip(3)})
	f.wantWritten(http.StatusServiceUnavailable)
	if got := a.query("m"); got.code != http.StatusServiceUnavailable {
		f.Errorf("a query of a node that is cut off: %+v", got)
	}
	if got := a.query("m", "partial_response", "true"); got.code != http.StatusOK {
		f.Errorf("a partial query of a node that is cut off: %+v", got)
	}
	e.scrapeAll(f)
	f.net.Heal()
	f.caughtUp(time.Minute)
}

// refuse sends what nobody takes.
func (e *exposed) refuse(f *flock) {
	f.Helper()
	a := f.nodes["a"]
	if code := a.writeAt("m", time.Now().Add(time.Hour), 1); code != http.StatusBadRequest {
		f.Errorf("a write of the future: %d", code)
	}
	if code := a.write("", 1); code != http.StatusBadRequest {
		f.Errorf("a write without a name: %d", code)
	}
	a.get("/api/v1/query_range?query=m&start=0&end=1&step=1")
	e.scrapeAll(f)
}

// move has a fourth node join and leave.
func (e *exposed) move(f *flock) {
	f.Helper()
	d := f.start("d", ip(4), func(c *config.Cluster) { c.Join = seeds(3) })
	f.eventuallyEvery(20*time.Millisecond, time.Minute, "a window is copied", func() error {
		if e.scrape(d); e.families["starling_transition_copied_until_timestamp_seconds"] == nil {
			return errors.New("no time until which it has copied")
		}
		return nil
	})
	e.scrapeAll(f)
	f.settled(4)
	f.nodes["a"].propose(table.Command{Kind: table.Leave, Nodes: []table.NodeID{d.cluster.Self()}})
	f.nodes["a"].query("sum(m)")
	e.scrapeAll(f)
}
