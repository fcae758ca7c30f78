package node

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/starling-tsdb/starling/internal/config"
	"github.com/starling-tsdb/starling/internal/storage"
)

var differentialSeed = flag.Uint64("differential.seed", 0, "the one history of TestFastPathIsPlain to run, 0 for as many as usual")

// TestFastPathIsPlain sends random requests to clusters whose members fail, restart, come and go,
// and compares what is answered and stored with what the plain way of taking them comes to:
// series that are remembered by their bytes, that are appended by reference and that travel
// by number are stored as if they were read, looked up and sent anew each time.
//
// With STARLING_DIFFERENTIAL=1h it goes on with fresh seeds for an hour.
func TestFastPathIsPlain(t *testing.T) {
	var seen differentialCounts
	defer func() { seen.report(t) }()
	run := func(t *testing.T, seed uint64) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				defer func() {
					if t.Failed() {
						t.Logf("to repeat it: go test -run 'TestFastPathIsPlain' ./internal/node -differential.seed %d", seed)
					}
				}()
				newDifferential(t, seed, &seen).run()
			})
		})
	}
	first, seeds := uint64(1), uint64(6)
	if testing.Short() {
		seeds = 3
	}
	if *differentialSeed > 0 {
		first, seeds = *differentialSeed, 1
	}
	length := time.Duration(0)
	if text := os.Getenv("STARLING_DIFFERENTIAL"); text != "" {
		var err error
		if length, err = time.ParseDuration(text); err != nil {
			t.Fatalf("STARLING_DIFFERENTIAL: %v", err)
		}
		first = uint64(time.Now().UnixNano())
	}
	for start := time.Now(); ; first += seeds {
		t.Run("histories", func(t *testing.T) {
			for i := range seeds {
				run(t, first+i)
			}
		})
		if time.Since(start) >= length || t.Failed() {
			return
		}
	}
}

// differentialCounts are of all histories.
type differentialCounts struct {
	histories, requests, repeated, samples, invalid atomic.Int64
	// named counts the series that the nodes were to look up by their bytes, added those that
	// they did not find.
	named, added, refused, evicted atomic.Int64
	// sent counts samples that went to peers.
	sent, tables, restarts, cuts, dropped atomic.Int64
}

func (c *differentialCounts) report(t *testing.T) {
	named, missed := c.named.Load(), c.added.Load()+c.refused.Load()
	t.Logf("%d histories, %d requests and %d repetitions, %d samples, %d items invalid; %d series named, %d of them not known yet, %d not remembered for want of room, %d forgotten; %d samples sent to peers; %d changes of tables, %d restarts, %d partitions and broken connections; heads dropped %d series",
		c.histories.Load(), c.requests.Load(), c.repeated.Load(), c.samples.Load(), c.invalid.Load(), named, c.added.Load(), c.refused.Load(), c.evicted.Load(), c.sent.Load(), c.tables.Load(), c.restarts.Load(), c.cuts.Load(), c.dropped.Load())
	if t.Failed() {
		return
	}
	if *differentialSeed == 0 && 2*missed > named {
		t.Errorf("of %d series %d were not remembered: the fast path is hardly tested", named, missed)
	}
}

// differential is one random history.
type differential struct {
	*flock
	seed  uint64
	rng   *rand.Rand // of who makes trouble
	plain *plain
	pool  *pool
	seen  *differentialCounts
	// trouble is what senders ask for, every now and then.
	trouble chan struct{}
	// over ends the senders.
	over context.Context

	mu   sync.Mutex
	live []*member // that requests are sent to
	ips  int       // that were used
}

func newDifferential(t *testing.T, seed uint64, seen *differentialCounts) *differential {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 11))
	d := &differential{flock: newFlock(t), seed: seed, rng: rng, seen: seen, pool: &pool{next: 60}, trouble: make(chan struct{}, 1)}
	startTimes := seed%3 == 0
	d.plain = newPlain(seed%4 == 0, startTimes)
	d.tune = func(o *storage.Options) {
		// Short enough for heads to drop series.
		o.MinBlockDuration, o.OutOfOrderWindow = 4*time.Minute, 30*time.Minute
		if startTimes {
			o.Features = append(o.Features, "st-storage")
		}
	}
	if seed%3 == 1 {
		d.handleBytes = 24 << 10 << rng.IntN(3)
	}
	over, end := context.WithCancel(context.Background())
	d.over = over
	t.Cleanup(end)
	return d
}

func (d *differential) run() {
	d.Helper()
	names := []string{"n1", "n2", "n3", "n4"}[:3+d.rng.IntN(2)]
	d.live, d.ips = d.fresh(names...), len(names)
	var sending sync.WaitGroup
	for i := range senders {
		s := &sender{differential: d, rng: rand.New(rand.NewPCG(d.seed, uint64(100+i))), number: i}
		for range 15 + s.rng.IntN(15) {
			s.scrape = append(s.scrape, s.rng.IntN(d.pool.next))
		}
		sending.Go(func() { s.run(30) })
	}
	done := make(chan struct{})
	go func() { sending.Wait(); close(done) }()
	for sending := true; sending; {
		select {
		case <-done:
			sending = false
		case <-d.trouble:
			if !d.plain.exact {
				d.makeTrouble()
			}
		}
	}
	d.net.Heal()
	d.ready(d.members()...)
	d.caughtUp(5 * time.Minute)
	d.confirmAll()
	d.compareAll()
	for _, m := range d.members() {
		d.count(m)
	}
	d.seen.histories.Add(1)
}

// confirmAll sends what is known for long through each member, and has all owners confirm it:
// a stream that fails time and again would be made good by hand-offs, and not be noticed.
func (d *differential) confirmAll() {
	d.Helper()
	<-time.After(5 * time.Second) // until broken connections are made anew
	unconfirmed := func() (n float64) {
		for _, m := range d.members() {
			n += m.metric(d, "starling_replication_samples_total", "false")
		}
		return n
	}
	before := unconfirmed()
	s := &sender{differential: d, rng: d.rng}
	for i := range min(80, d.pool.next) {
		s.scrape = append(s.scrape, i)
	}
	for range 2 {
		for _, s.to = range d.members() {
			<-time.After(time.Second)
			sp := &speller{rng: d.rng, version: 1}
			s.sendOnce(sp.request(s.scraped()), sp.version)
		}
	}
	if n := unconfirmed() - before; n > 0 {
		d.fail("%v samples are not confirmed though nothing is wrong", n)
	}
}

// fail reports a difference.
func (d *differential) fail(format string, args ...any) {
	d.Errorf("seed %d: "+format, append([]any{d.seed}, args...)...)
}

func (d *differential) members() []*member {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.live)
}

// any returns a member that runs, or ran until just now.
func (d *differential) any(rng *rand.Rand) *member {
	live := d.members()
	return live[rng.IntN(len(live))]
}

// swap has senders use one member instead of another; either may be nil.
func (d *differential) swap(old, next *member) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.live = slices.DeleteFunc(d.live, func(m *member) bool { return m == old })
	if next != nil {
		d.live = append(d.live, next)
	}
}

// makeTrouble is something that happens to the cluster, one at a time.
func (d *differential) makeTrouble() {
	d.Helper()
	m := d.any(d.rng)
	switch d.rng.IntN(9) {
	case 0, 1:
		d.restart(m, m.halt)
	case 2:
		d.restart(m, m.crash)
	case 3, 4:
		d.isolate(m)
	case 5, 6:
		d.seen.cuts.Add(1)
		d.net.Break(m.ip, d.any(d.rng).ip)
	case 7:
		d.join()
	case 8:
		d.leave(m)
	}
}

func (d *differential) restart(m *member, stop func()) {
	d.Helper()
	d.seen.restarts.Add(1)
	d.count(m)
	stop()
	<-time.After(time.Duration(d.rng.IntN(10)) * time.Second)
	next := d.start(m.name, m.ip, d.cluster)
	d.swap(m, next)
	d.ready(next)
}

func (d *differential) cluster(c *config.Cluster) { c.Join, c.BootstrapExpect = seeds(d.ips), 3 }

func (d *differential) isolate(m *member) {
	d.seen.cuts.Add(1)
	var others []string
	for _, o := range d.members() {
		if o != m {
			others = append(others, o.ip)
		}
	}
	d.net.Partition([]string{m.ip}, others)
	<-time.After(time.Duration(1000+d.rng.IntN(9000)) * time.Millisecond)
	d.net.Heal()
}

func (d *differential) join() {
	d.Helper()
	if len(d.members()) > 4 {
		return
	}
	d.ips++
	m := d.start(fmt.Sprint("n", d.ips), ip(d.ips), d.cluster)
	d.eventually(5*time.Minute, m.name+" owns", func() error {
		if p := m.placed.Load(); p == nil || !p.table.Member(m.cluster.Self()) || p.table.Transition != nil {
			return fmt.Errorf("its table is %+v", p)
		}
		return nil
	})
	d.seen.tables.Add(1)
	d.swap(nil, m)
}

func (d *differential) leave(m *member) {
	d.Helper()
	if len(d.members()) < 4 || m.serving() != nil {
		return
	}
	if answer := m.post("/api/v1/cluster/leave", fmt.Sprintf(`{"nodes":[%q]}`, m.cluster.Self())); answer.code/100 != 2 {
		d.Logf("%s does not leave: %+v", m.name, answer)
		return
	}
	d.eventually(5*time.Minute, m.name+" has left", func() error {
		if p := m.placed.Load(); p.table.Member(m.cluster.Self()) {
			return fmt.Errorf("its table is %+v", p.table)
		}
		return nil
	})
	d.seen.tables.Add(1)
	d.swap(m, nil)
	d.count(m)
	m.halt()
}

// count reads the metrics of a member that is about to stop.
func (d *differential) count(m *member) {
	for name, to := range map[string]*atomic.Int64{
		"starling_ingest_handles_added_total":       &d.seen.added,
		"starling_ingest_handles_refused_total":     &d.seen.refused,
		"starling_ingest_handles_evicted_total":     &d.seen.evicted,
		"starling_replication_samples_total":        &d.seen.sent,
		"prometheus_tsdb_head_series_removed_total": &d.seen.dropped,
	} {
		to.Add(int64(m.metric(d, name)))
	}
}

// tally counts a request that was answered.
func (d *differential) tally(body []byte, version int, v verdict, repeated int) {
	d.seen.requests.Add(1)
	d.seen.repeated.Add(int64(repeated))
	d.seen.samples.Add(int64(v.floats + v.histograms))
	d.seen.invalid.Add(int64(v.invalid))
	for _, it := range d.plain.decode(body, version).series {
		if it.labels.Len() > 0 && len(it.samples) > 0 {
			d.seen.named.Add(1)
		}
	}
}

// torn is a body that is cut off, and compressed well.
func (d *differential) torn(rng *rand.Rand, body []byte) []byte {
	msg, err := snappy.Decode(nil, body)
	if err != nil {
		d.fail("%v", err)
	}
	return snappy.Encode(nil, msg[:rng.IntN(len(msg))])
}

// pool are the series that there are to send, numbered, of which new ones are made.
type pool struct {
	mu   sync.Mutex
	next int
}

func (p *pool) fresh() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.next++
	return p.next - 1
}

func (p *pool) any(rng *rand.Rand) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return rng.IntN(p.next)
}

// pairs are the labels of a series in the order in which they are sent.
func (p *pool) pairs(i int) [][2]string {
	if i%5 == 4 { // what comes first is how another series is spelled
		return append(p.pairs(i-1), [2]string{"zone", fmt.Sprint(i)})
	}
	pairs := [][2]string{{labels.MetricName, fmt.Sprint("metric", i%9)}, {"instance", fmt.Sprint("host-", i, ":9100")}, {"job", "node"}}
	switch i % 7 {
	case 0:
		slices.Reverse(pairs)
	case 1:
		pairs[0][1] = fmt.Sprint("Größe.", i%9)
		pairs = append(pairs, [2]string{"ВЫСОТА", "Ü ber"}, [2]string{"http.Method", "GET"})
	case 2:
		pairs = append(pairs, [2]string{"le", fmt.Sprint(i % 4)}, [2]string{"path", "/" + strings.Repeat("p", i%300) + "\u200b"})
	}
	return pairs
}
