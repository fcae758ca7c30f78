package acceptance

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// httpClient has a deadline of its own, so that a server that hangs is a failure that
// names the request.
var httpClient = &http.Client{Timeout: 30 * time.Second}

// fetch answers the status and the body of a GET.
func fetch(ctx context.Context, url string) (int, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, nil, err
	}
	return do(req)
}

func do(req *http.Request) (int, []byte, error) {
	status, _, body, err := answerTo(req)
	return status, body, err
}

// answerTo is do with the header of the answer.
func answerTo(req *http.Request) (int, http.Header, []byte, error) {
	res, err := httpClient.Do(req)
	if err != nil {
		return 0, nil, nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, nil, nil, fmt.Errorf("%s: %w", req.URL, err)
	}
	return res.StatusCode, res.Header, body, nil
}

// ready is a check for eventually: the server says that it serves.
func ready(base string) func(context.Context) error {
	return func(ctx context.Context) error {
		status, body, err := fetch(ctx, base+"/-/ready")
		if err != nil {
			return err
		}
		if status != http.StatusOK {
			return fmt.Errorf("%s/-/ready: %d: %s", base, status, bytes.TrimSpace(body))
		}
		return nil
	}
}

// clusterOf is a check for eventually: the server knows a cluster of n nodes, each with
// a slot and alive, and no further ones.
func clusterOf(base string, n int) func(context.Context) error {
	return func(ctx context.Context) error {
		status, body, err := fetch(ctx, base+"/api/v1/cluster")
		if err != nil {
			return err
		}
		var answer struct {
			Data struct {
				Nodes []struct {
					State string `json:"state"`
					Slot  *int   `json:"slot"`
				} `json:"nodes"`
			} `json:"data"`
		}
		if err := json.Unmarshal(body, &answer); err != nil {
			return fmt.Errorf("%s/api/v1/cluster: %d: %w: %s", base, status, err, body)
		}
		var serving int
		for _, node := range answer.Data.Nodes {
			if node.State == "alive" && node.Slot != nil {
				serving++
			}
		}
		if serving != n || len(answer.Data.Nodes) != n {
			return fmt.Errorf("%s/api/v1/cluster: want %d nodes, alive and with a slot: %s", base, n, body)
		}
		return nil
	}
}

// configDir is the directory that the Prometheus containers read their settings from.
type configDir string

// newConfigDir writes the settings of all three: two senders and a reader.
func newConfigDir(t *testing.T) configDir {
	t.Helper()
	c := configDir(t.TempDir())
	for _, name := range []string{"a", "b"} {
		scrape := strings.ReplaceAll(readTestdata(t, "prometheus.yml"), "NAME", name)
		c.write(t, name, scrape+readTestdata(t, "remote_write."+name+".yml"))
	}
	c.write(t, "reader", readTestdata(t, "remote_read.yml"))
	return c
}

// stopScraping takes the targets out of a sender's settings and leaves its queues as
// they are, to be adopted with the next reload.
func (c configDir) stopScraping(t *testing.T, name string) {
	t.Helper()
	c.write(t, name, readTestdata(t, "remote_write."+name+".yml"))
}

func (c configDir) write(t *testing.T, name, content string) {
	t.Helper()
	dir := filepath.Join(string(c), name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "prometheus.yml"), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func readTestdata(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// reload makes a Prometheus read its settings again.
func reload(t *testing.T, base string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, base+"/-/reload", nil)
	if err != nil {
		t.Fatal(err)
	}
	status, body, err := do(req)
	if err != nil {
		t.Fatal(err)
	}
	if status != http.StatusOK {
		t.Fatalf("reloading %s: %d: %s", base, status, body)
	}
}

// allTargetsUp is a check for eventually.
func allTargetsUp(base string, n int) func(context.Context) error {
	return func(ctx context.Context) error {
		_, body, err := fetch(ctx, base+"/api/v1/query?query="+url.QueryEscape("sum(up) == "+fmt.Sprint(n)))
		if err != nil {
			return err
		}
		if !bytes.Contains(body, []byte(`"value"`)) {
			return fmt.Errorf("want %d targets up: %s", n, body)
		}
		return nil
	}
}

// queues is what a Prometheus says of its own remote writing, summed over its queues.
type queues struct {
	appended float64 // Samples that its own TSDB took, the measure of being at rest.
	pending  float64
	failed   float64 // Failed for good or dropped, never to be sent again.
	behind   float64 // Seconds between the newest sample enqueued and the newest one sent.
}

func readQueues(ctx context.Context, base string) (queues, error) {
	status, body, err := fetch(ctx, base+"/metrics")
	if err != nil {
		return queues{}, err
	}
	if status != http.StatusOK {
		return queues{}, fmt.Errorf("%s/metrics: %d", base, status)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(body))
	if err != nil {
		return queues{}, fmt.Errorf("%s/metrics: %w", base, err)
	}
	var q queues
	for name, f := range families {
		for _, m := range f.GetMetric() {
			v := m.GetGauge().GetValue() + m.GetCounter().GetValue()
			switch short := strings.TrimPrefix(name, "prometheus_remote_storage_"); {
			case name == "prometheus_tsdb_head_samples_appended_total":
				q.appended += v
			case short == name:
			case strings.HasSuffix(short, "_pending"):
				q.pending += v
			case short == "exemplars_failed_total":
				// Exemplars are stored as well as can be: a node that has just joined takes
				// none of a series that it has no sample of.
			case strings.HasSuffix(short, "_failed_total"), strings.HasSuffix(short, "_dropped_total"):
				q.failed += v
			case short == "queue_highest_timestamp_seconds":
				q.behind += v
			case short == "queue_highest_sent_timestamp_seconds":
				q.behind -= v
			}
		}
	}
	if q.appended == 0 {
		return queues{}, errors.New("no sample appended yet, or its counter has another name in this release")
	}
	return q, nil
}

// drained is a check for eventually: nothing is scraped any more, and every sample was
// sent and confirmed, for a few seconds, since targets go stale only some time after
// their last scrape.
func drained(base string) func(context.Context) error {
	var last queues
	var since time.Time
	return func(ctx context.Context) error {
		q, err := readQueues(ctx, base)
		if err != nil {
			return err
		}
		if q.pending != 0 || q.behind != 0 || q != last {
			last, since = q, time.Now()
		}
		if quiet := time.Since(since); quiet < 3*time.Second {
			return fmt.Errorf("%s: quiet for %s only: %+v", base, quiet.Round(time.Millisecond), q)
		}
		return nil
	}
}
