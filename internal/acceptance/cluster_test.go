package acceptance

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

var nodes = []string{"starling-1", "starling-2", "starling-3"}

// victim is the node that is killed; all that prometheus-b writes goes through it.
const victim = "starling-2"

// TestClusterAnswersLikePrometheus runs docker-compose.yml, lets two Prometheus write to it
// while a node is killed and comes back, and two more join; then one leaves, and what every
// other one answers is compared with what the Prometheus themselves answer.
func TestClusterAnswersLikePrometheus(t *testing.T) {
	requireContainers(t)
	run := fmt.Sprint(os.Getpid())
	config := newConfigDir(t)
	p := newProject(t, []string{filepath.Join(repository, "docs/compose/five.yml"), "testdata/compose.acceptance.yml"},
		"STARLING_IMAGE="+buildStarlingImage(t),
		"ACCEPTANCE_PROMETHEUS_IMAGE="+buildImage(t, "starling-acceptance-prometheus:"+run, buildPrometheus(t, "prometheus")),
		"ACCEPTANCE_WORKLOAD_IMAGE="+buildWorkloadImage(t, "starling-acceptance-workload:"+run),
		"ACCEPTANCE_CONFIG="+string(config),
		"STARLING_1_PORT=0", "STARLING_2_PORT=0", "STARLING_3_PORT=0", "STARLING_4_PORT=0", "STARLING_5_PORT=0")

	p.up(t, nodes...)
	awaitCluster(t, p)
	p.up(t, "workload", "prometheus-a", "prometheus-b", "prometheus-reader")
	senders := map[string]string{"a": p.url(t, "prometheus-a", 9090), "b": p.url(t, "prometheus-b", 9090)}
	for _, base := range senders {
		eventually(t, time.Minute, base+" scrapes all", allTargetsUp(base, 5))
	}

	w := window{start: time.Now().Truncate(time.Second)}
	pause(t, 15*time.Second)
	w.outage = killUnderLoad(t, p, 12*time.Second)
	p.up(t, "starling-4", "starling-5")
	settleAll(t, p, "starling-1", "starling-2", "starling-3", "starling-4", "starling-5")
	pause(t, 10*time.Second)
	w.end = time.Now().Truncate(time.Second)

	compareMetadata(t, p, senders["a"])
	for name, base := range senders {
		config.stopScraping(t, name)
		reload(t, base)
	}
	for _, base := range senders {
		eventually(t, time.Minute, base+" has sent all", drained(base))
		mustHaveDroppedNothing(t, base)
	}
	mustRun(t, command{args: []string{"docker", "exec", p.container(t, "starling-1"), "/bin/starling", "cluster", "leave", "--yes", "--wait", victim}})
	left := []string{"starling-1", "starling-3", "starling-4", "starling-5"}
	settleAll(t, p, left...)
	compareFederation(t, p, left, senders["a"])
	compareAnswers(t, p, left, senders, w)
}

// settleAll waits until some nodes are all the members and miss nothing.
func settleAll(t *testing.T, p *project, members ...string) {
	t.Helper()
	for _, node := range members {
		awaitSettled(t, stepTimeout, node, p.url(t, node, 9080), len(members))
	}
}

// awaitCluster waits until all nodes serve and see one another.
func awaitCluster(t *testing.T, p *project) {
	t.Helper()
	for _, node := range nodes {
		base := p.url(t, node, 9080)
		eventually(t, time.Minute, node+" is ready", ready(base))
		eventually(t, time.Minute, node+" sees three nodes", clusterOf(base, 3))
	}
}

// killUnderLoad kills a node the hard way, keeps asking the others while it is gone, and
// starts it again. It answers a time at which it was dead.
func killUnderLoad(t *testing.T, p *project, down time.Duration) time.Time {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	for _, node := range nodes {
		if node == victim {
			continue
		}
		base := p.url(t, node, 9080)
		wg.Go(func() { keepAsking(ctx, t, node, base) })
	}

	p.docker(t, victim, "kill", "--signal", "KILL")
	pause(t, down)
	dead := time.Now().Truncate(time.Second).Add(-2 * time.Second)
	p.docker(t, victim, "start")
	base := p.url(t, victim, 9080)
	eventually(t, time.Minute, victim+" is ready again", ready(base))
	eventually(t, time.Minute, victim+" sees three nodes", clusterOf(base, 3))
	cancel()
	wg.Wait()
	return dead
}

// keepAsking checks that a surviving node answers every query, in full.
func keepAsking(ctx context.Context, t *testing.T, node, base string) {
	ticks := time.NewTicker(200 * time.Millisecond)
	defer ticks.Stop()
	var asked int
	var failures []string
	for {
		select {
		case <-ctx.Done():
			t.Logf("%s was asked %d times while %s was gone, %d failures", node, asked, victim, len(failures))
			if len(failures) > 0 {
				t.Errorf("%s failed %d of %d queries while one node was dead; the first: %s", node, len(failures), asked, failures[0])
			}
			return
		case <-ticks.C:
		}
		asked++
		status, body, err := fetch(ctx, base+"/api/v1/query?query="+url.QueryEscape(`count(up{job="workload"})`))
		switch {
		case ctx.Err() != nil:
			asked--
		case err != nil:
			failures = append(failures, err.Error())
		case status != http.StatusOK || !bytes.Contains(body, []byte(`"2"]`)):
			failures = append(failures, fmt.Sprintf("%d: %.300s", status, body))
		}
	}
}

func mustHaveDroppedNothing(t *testing.T, base string) {
	t.Helper()
	q, err := readQueues(t.Context(), base)
	if err != nil {
		t.Fatal(err)
	}
	if q.failed != 0 {
		t.Errorf("%s gave up on %g samples: a node refused what it has to take", base, q.failed)
	}
}

// compareAnswers asks every node everything, for both senders, and then a Prometheus
// that has no data of its own and reads through a node.
func compareAnswers(t *testing.T, p *project, nodes []string, senders map[string]string, w window) {
	reader := p.url(t, "prometheus-reader", 9090)
	for name, base := range senders {
		w.sender = name
		o := &oracle{base: base, window: w, answers: make(map[question][]byte)}
		t.Run("prometheus-"+name, func(t *testing.T) {
			for _, node := range nodes {
				agree(t, o, node, p.url(t, node, 9080), func(question) bool { return true })
			}
			agree(t, o, "remote read", reader, question.isPromQL)
		})
	}
}

// compareMetadata has to run while targets are scraped: Prometheus forgets the metadata
// with the target. Nodes may know more families, from other senders.
func compareMetadata(t *testing.T, p *project, prometheus string) {
	t.Helper()
	const path = "/api/v1/metadata"
	want, err := readMetadata(t.Context(), prometheus+path)
	if err != nil {
		t.Fatal(err)
	}
	for _, node := range nodes {
		base := p.url(t, node, 9080)
		eventually(t, 10*time.Second, node+" has all metadata", func(ctx context.Context) error {
			got, err := readMetadata(ctx, base+path)
			if err != nil {
				return err
			}
			var missing []string
			for family, w := range want {
				if g := got[family]; !slices.Equal(w, g) {
					missing = append(missing, fmt.Sprintf("%s: want %s, got %s", family, w, g))
				}
			}
			slices.Sort(missing)
			if len(missing) > 0 {
				return fmt.Errorf("%d of %d families: %s", len(missing), len(want), strings.Join(missing[:min(5, len(missing))], "\n"))
			}
			return nil
		})
	}
}

// readMetadata answers the sorted entries of each family, encoded.
func readMetadata(ctx context.Context, url string) (map[string][]string, error) {
	status, body, err := fetch(ctx, url)
	if err != nil {
		return nil, err
	}
	var answer struct{ Data map[string][]any }
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, fmt.Errorf("%s: %d: %w: %.300s", url, status, err, body)
	}
	families := make(map[string][]string, len(answer.Data))
	for family, entries := range answer.Data {
		families[family] = sorted(entries)
	}
	return families, nil
}

// compareFederation asks for the newest samples of series that do not go stale.
func compareFederation(t *testing.T, p *project, nodes []string, prometheus string) {
	path := "/federate?match[]=" + url.QueryEscape(`workload_stamped{prometheus="a"}`)
	want := readLines(t, prometheus+path)
	if len(want) < 5 {
		t.Errorf("Prometheus federates %d lines, want some to compare: %q", len(want), want)
	}
	for _, node := range nodes {
		if got := readLines(t, p.url(t, node, 9080)+path); !slices.Equal(want, got) {
			t.Errorf("%s federates\n%q\nwant\n%q", node, got, want)
		}
	}
}

func readLines(t *testing.T, url string) []string {
	t.Helper()
	status, body, err := fetch(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	if status != http.StatusOK {
		t.Errorf("%s: %d: %.300s", url, status, body)
		return nil
	}
	lines := strings.Split(strings.TrimSpace(string(body)), "\n")
	slices.Sort(lines)
	return lines
}
