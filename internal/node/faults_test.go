package node

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/starling-tsdb/starling/internal/config"
)

// What a client remembers: by metric, the greatest value that was acknowledged. Every
// metric only grows, and each write has a timestamp of its own.
type memory struct {
	acknowledged map[string]float64
	sent         map[string]float64
	samples      map[string]string // the metric of each sample that was acknowledged
}

// Random writes and queries through random nodes, while nodes crash, come back and are
// cut off: every successful answer holds everything that was acknowledged before it was
// asked for, and nothing that was never sent. STARLING_FAULT_SEEDS sets how many
// histories are tried.
func TestAcknowledgedIsAnswered(t *testing.T) {
	for seed := range faultSeeds(t, 10) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { newHistory(t, uint64(seed)).run() })
		})
	}
}

// faultSeeds is how many histories are tried, so many if nobody says.
func faultSeeds(t *testing.T, seeds int) int {
	t.Helper()
	if s := os.Getenv("STARLING_FAULT_SEEDS"); s != "" {
		var err error
		if seeds, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	return seeds
}

// newHistory begins with three nodes.
func newHistory(t *testing.T, seed uint64) *history {
	t.Helper()
	h := emptyHistory(t, seed)
	for i, m := range h.fresh("n0", "n1", "n2") {
		h.ips[m.name] = ip(i + 1)
	}
	return h
}

// emptyHistory has no nodes yet.
func emptyHistory(t *testing.T, seed uint64) *history {
	t.Helper()
	return &history{
		flock: newFlock(t), rng: rand.New(rand.NewPCG(seed, 7)), ips: map[string]string{}, zones: map[string]string{},
		memory: memory{map[string]float64{}, map[string]float64{}, map[string]string{}},
	}
}

func (h *history) run() {
	h.Helper()
	rng := h.rng
	for range 150 {
		h.step()
		pause := time.Duration(rng.IntN(400)) * time.Millisecond
		if rng.IntN(50) == 0 {
			pause = time.Minute // a hand-off has timed out, gossip has given up
		}
		<-time.After(pause)
	}
	h.settle()
}

// settle ends a history: once all faults heal, everything works again, and every copy is
// whole.
func (h *history) settle() {
	h.Helper()
	if h.writes == 0 || h.answers == 0 {
		h.Errorf("%d writes were acknowledged and %d queries answered: nothing was tested", h.writes, h.answers)
	}
	h.net.Heal()
	h.startAll()
	for _, m := range h.nodes {
		h.eventually(time.Minute, m.name+" answers again", func() error { return h.check(m, true) })
	}
	for _, m := range h.nodes {
		h.eventually(5*time.Minute, m.name+" is whole", m.whole)
	}
	h.caughtUp(2 * time.Minute)
	h.wantAll()
	h.Logf("%d logs damaged; %d writes acknowledged, %d refused; %d queries answered, %d refused", h.damages, h.writes, h.refusedWrites, h.answers, h.refusedQueries)
}

// wantAll has every member hold all that was acknowledged and that it owns.
func (h *history) wantAll() {
	h.Helper()
	for _, m := range h.nodes {
		if lacks := m.lacks(h.samples); len(lacks) > 0 {
			h.Errorf("%s lacks %d of %d samples that were acknowledged, as %s", m.name, len(lacks), len(h.samples), lacks[0])
		}
	}
}

// history is one random run.
type history struct {
	*flock
	memory
	rng        *rand.Rand
	ips, zones map[string]string // by node name
	// damaging has the logs of nodes that crash be damaged, one node's at a time: damaged is
	// the last one, and damages how many there were.
	damaging                                       bool
	damaged                                        string
	damages                                        int
	writes, refusedWrites, answers, refusedQueries int
}

func (h *history) step() {
	switch p := h.rng.IntN(100); {
	case p < 45:
		h.write()
	case p < 85:
		if err := h.check(h.any(), false); err != nil {
			h.Fatal(err)
		}
	case p < 88:
		if len(h.nodes) > 1 {
			m := h.any()
			m.crash()
			if h.damaging {
				h.damage(m)
			}
		}
	case p < 94:
		h.startAll()
	case p < 97:
		h.cut()
	default:
		h.net.Heal()
	}
}

// any returns a random node that runs.
func (h *history) any() *member {
	names := slices.Sorted(maps.Keys(h.nodes))
	return h.nodes[names[h.rng.IntN(len(names))]]
}

func (h *history) startAll() {
	for _, name := range slices.Sorted(maps.Keys(h.ips)) {
		h.start(name)
	}
}

func (h *history) start(name string) {
	if h.nodes[name] == nil {
		h.flock.start(name, h.ips[name], func(c *config.Cluster) {
			c.Join, c.BootstrapExpect, c.Zone = seeds(3), 3, h.zones[name]
		})
	}
}

// cut separates one node from the others; clients reach both sides.
func (h *history) cut() {
	lonely := h.ips[slices.Sorted(maps.Keys(h.ips))[h.rng.IntN(len(h.ips))]]
	var others []string
	for _, ip := range h.ips {
		if ip != lonely {
			others = append(others, ip)
		}
	}
	h.net.Partition([]string{lonely}, others)
}

func (h *history) write() {
	metric := fmt.Sprintf("m%d", h.rng.IntN(4))
	h.sent[metric]++
	value := h.sent[metric]
	at := time.Now()
	if h.rng.IntN(5) == 0 {
		at = at.Add(-time.Duration(h.rng.IntN(40*60*1000)) * time.Millisecond)
	}
	switch code := h.any().writeAt(metric, at, value); code {
	case http.StatusNoContent:
		h.acknowledged[metric] = value
		h.samples[held1(metric, "0", at.UnixMilli(), value)] = metric
		h.writes++
	case 0, http.StatusServiceUnavailable:
		h.refusedWrites++
	default:
		h.Fatalf("write of %s: status %d", metric, code)
	}
}

// check asks for every metric's greatest value.
func (h *history) check(m *member, must bool) error {
	for metric, sent := range h.sent {
		acknowledged := h.acknowledged[metric]
		got := m.query(fmt.Sprintf("max_over_time(%s[1h])", metric))
		switch {
		case got.code == http.StatusOK:
			value, _ := strconv.ParseFloat(got.values["0"], 64)
			if value < acknowledged || value > sent {
				return fmt.Errorf("%s answers %v for %s: acknowledged %v, sent %v", m.name, value, metric, acknowledged, sent)
			}
			h.answers++
		case must || got.code != http.StatusServiceUnavailable && got.code != 0:
			return fmt.Errorf("%s: query of %s: %+v", m.name, metric, got)
		default:
			h.refusedQueries++
		}
	}
	return nil
}
