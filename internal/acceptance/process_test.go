package acceptance

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"
)

// buildStarling compiles the program with the settings that go test uses, so that its
// packages come from the cache.
func buildStarling(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("builds and runs real processes, which -short leaves out")
	}
	return buildGo(t, "./cmd/starling", nil, nil)
}

// process is a node that runs as a process of its own.
type process struct {
	base   string // URL of its HTTP API.
	args   []string
	cmd    *exec.Cmd
	output *output
}

// output collects what a process writes while the test may read it.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write implements io.Writer.
func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// newProcesses prepares the nodes of one cluster on free ports of the loopback
// interface, each with a data directory of its own.
func newProcesses(t *testing.T, n int) []*process {
	t.Helper()
	addresses := freeAddresses(t, 3*n)
	var processes []*process
	var join []string
	for i := range n {
		http, rpc, gossip := addresses[3*i], addresses[3*i+1], addresses[3*i+2]
		join = append(join, "--cluster.join="+gossip)
		processes = append(processes, &process{
			base: "http://" + http,
			args: []string{
				"--web.listen-address=" + http,
				"--cluster.rpc-address=" + rpc,
				"--cluster.gossip-address=" + gossip,
				"--cluster.advertise-host=127.0.0.1",
				"--storage.tsdb.path=" + filepath.Join(t.TempDir(), "data"),
				fmt.Sprintf("--cluster.bootstrap-expect=%d", n),
			},
		})
	}
	for _, p := range processes {
		p.args = append(p.args, join...)
	}
	return processes
}

// start runs the node; it is killed at the latest with the end of the test.
func (p *process) start(t *testing.T, program string) {
	t.Helper()
	p.output = &output{}
	p.cmd = exec.Command(program, p.args...)
	p.cmd.Stdout, p.cmd.Stderr = p.output, p.output
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if p.cmd.ProcessState == nil {
			p.kill(t)
			t.Logf("%s had to be killed: %v", p.base, p.cmd.Wait())
		}
		if t.Failed() {
			t.Logf("──── %s\n%s", p.base, p.output)
		}
	})
}

// stop sends a signal and answers the exit status, -1 if the signal itself ended it.
func (p *process) stop(t *testing.T, signal os.Signal) int {
	t.Helper()
	if err := p.cmd.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- p.cmd.Wait() }()
	select {
	case err := <-ended:
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(30 * time.Second):
		p.kill(t)
		t.Fatalf("%s still ran 30 s after %s: %v", p.base, signal, <-ended)
		return 0
	}
}

func (p *process) kill(t *testing.T) {
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("killing %s: %v", p.base, err)
	}
}

// writeSample sends one sample by Remote Write 1.0 and answers status and body.
func writeSample(ctx context.Context, base, metric string, at time.Time, v float64) (int, []byte, error) {
	message := prompb.WriteRequest{Timeseries: []prompb.TimeSeries{{
		Labels:  []prompb.Label{{Name: "__name__", Value: metric}},
		Samples: []prompb.Sample{{Timestamp: at.UnixMilli(), Value: v}},
	}}}
	return postWrite(ctx, base, &message)
}

// postWrite sends a message by Remote Write 1.0 and answers status and body.
func postWrite(ctx context.Context, base string, message *prompb.WriteRequest) (int, []byte, error) {
	req, err := newWrite(ctx, base, message)
	if err != nil {
		return 0, nil, err
	}
	return do(req)
}

// newWrite is a request of Remote Write 1.0.
func newWrite(ctx context.Context, base string, message *prompb.WriteRequest) (*http.Request, error) {
	raw, err := message.Marshal()
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/api/v1/write", bytes.NewReader(snappy.Encode(nil, raw)))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/x-protobuf")
	req.Header.Set("Content-Encoding", "snappy")
	req.Header.Set("X-Prometheus-Remote-Write-Version", "0.1.0")
	return req, nil
}

// samplesOf returns the values of each series, by the value of a label, and by timestamp in
// milliseconds.
func samplesOf(t *testing.T, base, selector, label string) map[string]map[int64]string {
	t.Helper()
	v := url.Values{"query": {selector}, "time": {seconds(time.Now().Add(9 * time.Minute))}}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	status, body, err := fetch(ctx, base+"/api/v1/query?"+v.Encode())
	if err != nil || status != http.StatusOK {
		t.Fatalf("%s: %d, %v: %.300s", selector, status, err, body)
	}
	var answer struct {
		Data struct {
			Result []struct {
				Metric map[string]string
				Values [][2]any
			}
		}
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		t.Fatal(err)
	}
	there := map[string]map[int64]string{}
	for _, r := range answer.Data.Result {
		values := make(map[int64]string, len(r.Values))
		for _, v := range r.Values {
			values[int64(v[0].(float64)*1000+0.5)] = v[1].(string)
		}
		there[r.Metric[label]] = values
	}
	return there
}

// mustWrite ends the test unless the sample was acknowledged.
func mustWrite(t *testing.T, base, metric string, at time.Time, v float64) {
	t.Helper()
	status, body, err := writeSample(t.Context(), base, metric, at, v)
	if err != nil {
		t.Fatal(err)
	}
	if status/100 != 2 {
		t.Fatalf("writing to %s: %d: %s", base, status, body)
	}
}

// mustRead checks the value of a metric at a time on one node.
func mustRead(t *testing.T, base, metric string, at time.Time, want string) {
	t.Helper()
	v := url.Values{"query": {metric}, "time": {seconds(at)}}
	status, body, err := fetch(t.Context(), base+"/api/v1/query?"+v.Encode())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(body, []byte(`"`+want+`"]`)) {
		t.Errorf("%s answers %d: %s, want the value %s of %s", base, status, body, want, metric)
	}
}

// TestThreeProcesses is the quick start, end to end: form a cluster, write to one node,
// read on every node, lose a node, restart all of them, stop cleanly.
func TestThreeProcesses(t *testing.T) {
	program := buildStarling(t)
	processes := newProcesses(t, 3)
	for _, p := range processes {
		p.start(t, program)
	}
	awaitProcesses(t, processes)

	at := time.Now()
	mustWrite(t, processes[0].base, "acceptance_first", at, 42)
	for _, p := range processes {
		mustRead(t, p.base, "acceptance_first", at, "42")
	}

	if code := processes[1].stop(t, syscall.SIGKILL); code != -1 {
		t.Errorf("killed node exited with %d", code)
	}
	mustWrite(t, processes[2].base, "acceptance_second", at, 43)
	mustRead(t, processes[0].base, "acceptance_first", at, "42")
	mustRead(t, processes[0].base, "acceptance_second", at, "43")

	processes[1].start(t, program)
	awaitProcesses(t, processes)
	for _, p := range processes {
		mustRead(t, p.base, "acceptance_second", at, "43")
	}

	stopCleanly(t, processes)
	for _, p := range processes {
		p.start(t, program)
	}
	awaitProcesses(t, processes)
	for _, p := range processes {
		mustRead(t, p.base, "acceptance_first", at, "42")
		mustRead(t, p.base, "acceptance_second", at, "43")
	}
	stopCleanly(t, processes)
}

// TestRecoverProcesses loses two of three nodes for good: what the last one holds is answered and
// written to again once an operator has said so by `starling cluster`.
func TestRecoverProcesses(t *testing.T) {
	program := buildStarling(t)
	processes := newProcesses(t, 3)
	for _, p := range processes {
		p.start(t, program)
	}
	awaitProcesses(t, processes)
	at, last := time.Now(), processes[2].base
	mustWrite(t, processes[0].base, "acceptance_left", at, 42)
	operate := func(args ...string) (string, error) {
		return command{args: append([]string{program, "cluster", "--url=" + last}, args...)}.run(t.Context())
	}
	if out, err := operate("recover", "--yes"); exitCode(err) != 1 || !strings.Contains(out+fmt.Sprint(err), "leader") {
		t.Errorf("a healthy cluster is recovered: %v: %s", err, out)
	}
	for _, p := range processes[:2] {
		p.stop(t, syscall.SIGKILL)
	}
	eventually(t, time.Minute, "the last node recovers", func(context.Context) error {
		_, err := operate("recover", "--yes")
		return err
	})
	var status struct {
		Data struct {
			Self  string
			Nodes []struct{ ID string }
		}
	}
	_, body, err := fetch(t.Context(), last+"/api/v1/cluster")
	if err != nil || json.Unmarshal(body, &status) != nil || len(status.Data.Nodes) != 3 {
		t.Fatalf("%v: %s", err, body)
	}
	remove := []string{"remove", "--accept-loss", "--yes", "--wait"}
	for _, n := range status.Data.Nodes {
		if n.ID != status.Data.Self {
			remove = append(remove, n.ID)
		}
	}
	if out, err := operate(remove...); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	mustRead(t, last, "acceptance_left", at, "42")
	mustWrite(t, last, "acceptance_since", at, 43)
	mustRead(t, last, "acceptance_since", at, "43")
	stopCleanly(t, processes[2:])
}

func awaitProcesses(t *testing.T, processes []*process) {
	t.Helper()
	for _, p := range processes {
		eventually(t, 30*time.Second, p.base+" is ready", ready(p.base))
		eventually(t, 30*time.Second, p.base+" sees the cluster", clusterOf(p.base, len(processes)))
	}
}

func stopCleanly(t *testing.T, processes []*process) {
	t.Helper()
	for _, p := range processes {
		if code := p.stop(t, syscall.SIGTERM); code != 0 {
			t.Errorf("%s exited with %d after SIGTERM", p.base, code)
		}
	}
}

// TestOneProcess runs a node without any setting but its ports, and asks for its health.
func TestOneProcess(t *testing.T) {
	program := buildStarling(t)
	addresses := freeAddresses(t, 4)
	p := &process{
		base: "http://" + addresses[0],
		args: []string{
			"--web.listen-address=" + addresses[0],
			"--cluster.rpc-address=" + addresses[1],
			"--cluster.gossip-address=" + addresses[2],
			"--storage.tsdb.path=" + filepath.Join(t.TempDir(), "data"),
		},
	}
	p.start(t, program)
	eventually(t, 30*time.Second, "the node is ready", ready(p.base))
	at := time.Now()
	mustWrite(t, p.base, "acceptance_alone", at, 1.5)
	mustRead(t, p.base, "acceptance_alone", at, "1.5")

	mustRun(t, command{args: []string{program, "health", "--url=" + p.base + "/-/ready"}})
	_, err := command{args: []string{program, "health", "--url=http://" + addresses[3] + "/-/ready"}}.run(t.Context())
	if code := exitCode(err); code != 1 {
		t.Errorf("health of a node that does not run: exit status %d, want 1", code)
	}
	if code := p.stop(t, syscall.SIGINT); code != 0 {
		t.Errorf("exit status %d after SIGINT, want 0", code)
	}
}

// TestPromtool lets Prometheus's own tool write and read, and check the settings that
// docker-compose.yml gives to Prometheus.
func TestPromtool(t *testing.T) {
	requireAcceptance(t)
	program, promtool := buildStarling(t), buildPrometheus(t, "promtool")
	mustRun(t, command{args: []string{promtool, "check", "config", "--syntax-only", filepath.Join(repository, "docs/compose/prometheus.yml")}})

	p := newProcesses(t, 1)[0]
	p.start(t, program)
	eventually(t, 30*time.Second, "the node is ready", ready(p.base))
	metrics := filepath.Join(t.TempDir(), "metrics")
	if err := os.WriteFile(metrics, []byte("# TYPE acceptance_pushed gauge\nacceptance_pushed{by=\"promtool\"} 7\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	mustRun(t, command{args: []string{promtool, "push", "metrics", p.base, metrics}})
	for _, tc := range []struct {
		args []string
		says string
	}{
		{args: []string{"instant", p.base, "acceptance_pushed"}, says: `by="promtool", job="promtool"} => 7 @`},
		{args: []string{"series", "--match=acceptance_pushed", p.base}, says: "acceptance_pushed"},
		{args: []string{"labels", p.base, "by"}, says: "promtool"},
	} {
		out := mustRun(t, command{args: append([]string{promtool, "query"}, tc.args...)})
		if !strings.Contains(out, tc.says) {
			t.Errorf("promtool query %s: %q, want it to say %q", strings.Join(tc.args, " "), out, tc.says)
		}
	}
	if code := p.stop(t, syscall.SIGTERM); code != 0 {
		t.Errorf("exit status %d after SIGTERM, want 0", code)
	}
}

func exitCode(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return 0
}

// TestRefusesToStart holds the messages a person meets first: one line that names the
// flag, and an exit status that tells a wrong command line from a wrong environment.
func TestRefusesToStart(t *testing.T) {
	program := buildStarling(t)
	taken := newProcesses(t, 1)[0]
	taken.start(t, program)
	eventually(t, 30*time.Second, "the node that is in the way is ready", ready(taken.base))

	for _, tc := range []struct {
		name string
		env  []string
		args []string
		code int
		says string
	}{
		{name: "unknown flag", args: []string{"--no-such-flag"}, code: 2, says: "no-such-flag"},
		{name: "unknown command", args: []string{"fly"}, code: 2, says: "fly"},
		{name: "bad duration", args: []string{"--query.timeout=soon"}, code: 1, says: "--query.timeout"},
		{name: "bad duration in the environment", env: []string{"STARLING_QUERY_TIMEOUT=soon"}, code: 1, says: "--query.timeout"},
		{name: "bad choice", args: []string{"--storage.wal-sync=maybe"}, code: 1, says: "--storage.wal-sync"},
		{name: "no copies", args: []string{"--cluster.replication-factor=0"}, code: 1, says: "--cluster.replication-factor"},
		{name: "unknown feature", args: []string{"--enable-feature=flying"}, code: 1, says: "--enable-feature"},
		{name: "HTTP address in use", args: taken.args[:1], code: 1, says: "--web.listen-address"},
		{name: "RPC address in use", args: taken.args[1:2], code: 1, says: "--cluster.rpc-address"},
		{name: "gossip address in use", args: taken.args[2:3], code: 1, says: "--cluster.gossip-address"},
		{name: "data directory in use", args: taken.args[4:5], code: 1, says: "--storage.tsdb.path"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			addresses := freeAddresses(t, 3)
			// A later flag overrides an earlier one only where kingpin allows it, so
			// the case's own comes instead.
			args := tc.args
			for _, fallback := range []string{
				"--web.listen-address=" + addresses[0],
				"--cluster.rpc-address=" + addresses[1],
				"--cluster.gossip-address=" + addresses[2],
				"--storage.tsdb.path=" + filepath.Join(t.TempDir(), "data"),
			} {
				flag, _, _ := strings.Cut(fallback, "=")
				if !strings.HasPrefix(strings.Join(tc.args, " "), flag) {
					args = append(args[:len(args):len(args)], fallback)
				}
			}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			_, err := command{env: tc.env, args: append([]string{program}, args...)}.run(ctx)
			if ctx.Err() != nil {
				t.Fatalf("it runs: %v", args)
			}
			if code := exitCode(err); code != tc.code {
				t.Errorf("exit status %d, want %d: %v", code, tc.code, err)
			}
			if err == nil || !hasLine(err.Error(), tc.says) {
				t.Errorf("no line of the error says %q: %v", tc.says, err)
			}
		})
	}
}

// hasLine tells whether a line that the program itself wrote contains a text; logs are
// not what a person should have to read.
func hasLine(s, text string) bool {
	for line := range strings.Lines(s) {
		if strings.HasPrefix(line, "starling: ") && strings.Contains(line, text) {
			return true
		}
	}
	return false
}
