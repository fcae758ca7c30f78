package acceptance

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/prometheus/prompb"

	"github.com/starling-tsdb/starling/internal/faults/ledger"
	"github.com/starling-tsdb/starling/internal/faults/load"
)

// upgradeFrom names the commit to upgrade from; without it, it is the one before HEAD.
const upgradeFrom = "STARLING_UPGRADE_FROM"

// TestUpgrade runs three nodes of an earlier commit and replaces their program by that of this
// tree, one node after the other, under load; then one of them goes back. Whatever was
// acknowledged is answered by every node, and no query fails of a node that serves, whichever
// program it and the others run.
func TestUpgrade(t *testing.T) {
	requireAcceptance(t)
	t.Parallel()
	before, after := buildEarlier(t), buildVersion(t, repository, versionAfter)
	u := newUpgrade(t, before)
	for _, step := range []struct {
		node    int
		program string
	}{{0, after}, {1, after}, {2, after}, {0, before}} {
		u.replace(t, step.node, step.program)
	}
	u.finish(t)
}

// maxDown is how long no write or no query may succeed at any node, on a busy machine.
const maxDown = 10 * time.Second

// What the programs say that they are.
const versionBefore, versionAfter = "before", "after"

// buildEarlier compiles the program of an earlier commit, out of the history of this repository.
// Its dependencies come from the cache, unless they were others.
func buildEarlier(t *testing.T) string {
	t.Helper()
	commit := os.Getenv(upgradeFrom)
	if commit == "" {
		commit = "HEAD~1"
	}
	git := func(args ...string) (string, error) {
		return command{dir: repository, args: append([]string{"git"}, args...)}.run(t.Context())
	}
	if out, err := git("log", "-1", "--format=%h %cd %s", "--date=short", commit, "--"); err != nil {
		t.Skipf("no commit to upgrade from, as in a shallow clone: %v", err)
	} else {
		t.Logf("upgrading from %s", bytes.TrimSpace([]byte(out)))
	}
	source := t.TempDir()
	archive := filepath.Join(t.TempDir(), "source.tar")
	if _, err := git("archive", "--output="+archive, commit); err != nil {
		t.Fatal(err)
	}
	mustRun(t, command{args: []string{"tar", "-xf", archive, "-C", source}})
	return buildVersion(t, source, versionBefore)
}

// buildVersion compiles the program of a source tree, and has it say which one it is.
func buildVersion(t *testing.T, source, version string) string {
	t.Helper()
	began := time.Now()
	program := filepath.Join(t.TempDir(), "starling")
	mustRun(t, command{dir: source, args: []string{
		"go", "build", "-buildvcs=false", "-ldflags=-X github.com/prometheus/common/version.Version=" + version, "-o", program, "./cmd/starling",
	}})
	t.Logf("built the program %s in %s", version, time.Since(began).Round(time.Second/10))
	return program
}

// upgrade is a cluster whose program is replaced, under load.
type upgrade struct {
	nodes []*upgradingNode
	load  *load.Load
	usage *load.Usage
	// asked is what is asked of all nodes all the time, with the answer.
	asked []fixedQuestion
	// askers end when stop is called.
	stop   func()
	askers sync.WaitGroup
	wrong  problems
	count  atomic.Int64
}

// upgradingNode is a node that runs one program or the other.
type upgradingNode struct {
	*process
	// serves is false from before the node is stopped until it is ready again.
	serves atomic.Bool
}

// Base implements load.Node.
func (n *upgradingNode) Base() string { return n.base }

// Member implements load.Node. Senders know nothing of an upgrade: they try again.
func (n *upgradingNode) Member() bool { return true }

// fixedQuestion is asked again and again, and has one answer.
type fixedQuestion struct {
	path string
	want []byte
}

// problems collects the first of what went wrong.
type problems struct {
	mu    sync.Mutex
	texts []string
	more  int
}

func (p *problems) addf(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.texts) == 10 {
		p.more++
		return
	}
	p.texts = append(p.texts, fmt.Sprintf(format, args...))
}

// newUpgrade starts three nodes with a program, the load, and one who asks each node.
func newUpgrade(t *testing.T, program string) *upgrade {
	t.Helper()
	u := &upgrade{}
	processes := newProcesses(t, 3)
	var places []load.Node
	for _, p := range processes {
		p.start(t, program)
		n := &upgradingNode{process: p}
		n.serves.Store(true)
		u.nodes, places = append(u.nodes, n), append(places, n)
	}
	awaitProcesses(t, processes)
	client := load.NewClient(load.Papers{})
	t.Cleanup(client.Close)
	u.load = load.New(client, places, len(places))
	if err := u.load.WriteHistory(t.Context()); err != nil {
		t.Fatal(err)
	}
	u.prepare(t)
	u.usage = u.load.Use(t.Context())
	t.Cleanup(u.usage.Abandon)
	ctx, cancel := context.WithCancel(t.Context())
	u.stop = sync.OnceFunc(func() {
		cancel()
		u.askers.Wait()
	})
	t.Cleanup(u.stop)
	for _, n := range u.nodes {
		u.askers.Go(func() { u.ask(ctx, n) })
	}
	return u
}

// prepare asks the first node for what every node has to answer from now on: aggregations that
// owners evaluate in parts, series as they are stored, merges of both, and lists of labels, all of
// the history.
func (u *upgrade) prepare(t *testing.T) {
	t.Helper()
	u.writeBuckets(t)
	end, series := time.Now().Truncate(time.Second), `faults_gauge{sender="4"}`
	start := end.Add(-3 * time.Hour)
	add := func(path string, v url.Values) {
		path += "?" + v.Encode()
		status, body, err := fetch(t.Context(), u.nodes[0].base+path)
		if err != nil || status != http.StatusOK || bytes.Contains(body, []byte(`[]`)) {
			t.Fatalf("%s: %d, %v: %.300s", path, status, err, body)
		}
		u.asked = append(u.asked, fixedQuestion{path: path, want: body})
	}
	for _, query := range []string{
		`sum(rate(` + series + `[5m]))`,
		`sum by (sender) (count_over_time(` + series + `[10m])) / on (sender) avg by (sender) (` + series + `)`,
		`topk(2, max_over_time(` + series + `[10m]))`,
		`quantile(0.9, ` + series + `)`,
		`histogram_quantile(0.9, rate(upgrade_bucket[10m]))`,
		`histogram_quantile(0.9, sum by (le) (rate(upgrade_bucket[10m])))`,
		series,
	} {
		add("/api/v1/query_range", url.Values{"query": {query}, "start": {seconds(start)}, "end": {seconds(end)}, "step": {"180"}})
	}
	within := url.Values{"match[]": {series}, "start": {seconds(start)}, "end": {seconds(end)}}
	add("/api/v1/labels", within)
	add("/api/v1/label/number/values", within)
	add("/api/v1/series", within)
}

// writeBuckets writes an hour of three classic histograms, up to ten minutes ago.
func (u *upgrade) writeBuckets(t *testing.T) {
	t.Helper()
	var message prompb.WriteRequest
	for i := range 12 {
		series := prompb.TimeSeries{Labels: []prompb.Label{
			{Name: "__name__", Value: "upgrade_bucket"}, {Name: "instance", Value: fmt.Sprint(i % 3)}, {Name: "le", Value: []string{"0.1", "1", "10", "+Inf"}[i/3]},
		}}
		for n := range 60 {
			at := time.Now().Add(time.Duration(n-70) * time.Minute)
			series.Samples = append(series.Samples, prompb.Sample{Timestamp: at.UnixMilli(), Value: float64(n * (i + 1))})
		}
		message.Timeseries = append(message.Timeseries, series)
	}
	if status, body, err := postWrite(t.Context(), u.nodes[0].base, &message); err != nil || status/100 != 2 {
		t.Fatalf("writing histograms: %d, %v: %s", status, err, body)
	}
}

// ask has a node answer all questions in turn, and once more with statistics, for as long as it serves.
func (u *upgrade) ask(ctx context.Context, n *upgradingNode) {
	ticks := time.NewTicker(100 * time.Millisecond)
	defer ticks.Stop()
	for i := 0; ; i++ {
		select {
		case <-ticks.C:
		case <-ctx.Done():
			return
		}
		if !n.serves.Load() {
			continue
		}
		q := u.asked[i%len(u.asked)]
		status, body, err := fetch(ctx, n.base+q.path)
		if ctx.Err() != nil || !n.serves.Load() {
			continue
		}
		u.count.Add(1)
		if err != nil || status != http.StatusOK {
			u.wrong.addf("%s%s: %d, %v: %.300s", n.base, q.path, status, err, body)
		} else if d := diff(q.want, body, false, sumTolerance); d != "" {
			u.wrong.addf("%s%s: %s", n.base, q.path, d)
		}
		if status, body, err := fetch(ctx, n.base+u.asked[0].path+"&stats=all"); err != nil || status != http.StatusOK {
			if ctx.Err() == nil && n.serves.Load() {
				u.wrong.addf("%s%s with statistics: %d, %v: %.300s", n.base, u.asked[0].path, status, err, body)
			}
		}
	}
}

// replace stops a node in order, starts it with a program, and waits until the cluster is whole, as
// an operator does before the next one.
func (u *upgrade) replace(t *testing.T, node int, program string) {
	t.Helper()
	began := time.Now()
	n := u.nodes[node]
	n.serves.Store(false)
	if code := n.stop(t, syscall.SIGTERM); code != 0 {
		t.Errorf("%s exited with %d after SIGTERM", n.base, code)
	}
	n.start(t, program)
	for _, n := range u.nodes {
		awaitSettled(t, 30*time.Second, n.base, n.base, len(u.nodes))
	}
	n.serves.Store(true)
	pause(t, time.Second)
	if t.Failed() {
		t.FailNow()
	}
	_, body, err := fetch(t.Context(), n.base+"/api/v1/status/buildinfo")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("node %d was replaced in %s: %.60s", node+1, time.Since(began).Round(time.Second/10), body)
	u.command(t, program)
}

// command asks a node of each program for the status of the cluster, by a program.
func (u *upgrade) command(t *testing.T, program string) {
	t.Helper()
	for _, n := range u.nodes {
		mustRun(t, command{args: []string{program, "cluster", "status", "--url=" + n.base}})
	}
}

// finish ends the load, reads everything back from every node, and judges what was answered.
func (u *upgrade) finish(t *testing.T) {
	t.Helper()
	u.stop()
	if err := u.usage.Finish(); err != nil {
		t.Error(err)
	}
	writes, reads := u.load.Down()
	if err := u.load.ReadAll(t.Context()); err != nil {
		t.Error(err)
	}
	counts, found := u.load.Ledger.Counts(), u.load.Ledger.Found
	t.Logf("%d samples sent, %d acknowledged, %d refused, %d lost, %d twice, %d invented; %d fixed questions asked", counts.Sent, counts.Acknowledged,
		counts.Refused, found(ledger.Lost), found(ledger.Duplicated), found(ledger.Invented), u.count.Load())
	t.Logf("no write succeeded anywhere for %s at the longest, no query for %s", writes.Anywhere.Round(time.Millisecond), reads.Anywhere.Round(time.Millisecond))
	if writes.Anywhere > maxDown || reads.Anywhere > maxDown {
		t.Errorf("that is longer than %s", maxDown)
	}
	for _, failure := range u.load.Failures(false) {
		t.Error(failure)
	}
	for _, text := range u.wrong.texts {
		t.Error(text)
	}
	if u.wrong.more > 0 {
		t.Errorf("and %d more", u.wrong.more)
	}
	for _, n := range u.nodes {
		if code := n.stop(t, syscall.SIGTERM); code != 0 {
			t.Errorf("%s exited with %d after SIGTERM", n.base, code)
		}
	}
}
