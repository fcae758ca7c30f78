package acceptance

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	promconfig "github.com/prometheus/common/config"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"

	"github.com/starling-tsdb/starling/internal/faults/load"
	"github.com/starling-tsdb/starling/internal/history"
)

// kept is what a database has kept that is moved to a cluster.
type kept struct {
	series, days int
	interval     time.Duration
	end          time.Time
	dir          string
}

// TestImport moves the blocks of a Prometheus to three nodes, as docs/migration.md says: with a wide
// window for late samples. Every sample is read back from every node.
func TestImport(t *testing.T) {
	requireAcceptance(t)
	t.Parallel()
	k := kept{series: 40, days: 3, interval: time.Minute, end: time.Now().Add(-3 * time.Hour).Truncate(2 * time.Hour), dir: t.TempDir()}
	if os.Getenv("STARLING_ACCEPTANCE") == long {
		k.series, k.days, k.interval = 300, 15, 15*time.Second
	}
	program := buildStarling(t)
	k.write(t)
	t.Run("beside new samples", func(t *testing.T) { k.importLate(t, program) })
	t.Run("into an empty cluster", func(t *testing.T) { k.importFirst(t, program) })
}

// wide are the flags of nodes that take old samples, the window at last.
var wide = []string{"--storage.tsdb.retention.time=30d", "--storage.tsdb.out-of-order-time-window=31d"}

func (k kept) command(program string, p *process, progress string) []string {
	return []string{program, "import", "--from.blocks=" + k.dir, "--url=" + p.base, "--progress=" + progress, "--label=moved=yes"}
}

// importLate has nodes take new samples already. The import is killed in the middle and started
// again, on another node; afterwards the window is narrow again.
func (k kept) importLate(t *testing.T, program string) {
	processes := newProcesses(t, 3)
	startAll(t, processes, program, wide)
	now := time.Now()
	mustWrite(t, processes[0].base, "acceptance_new", now, 1)

	progress := filepath.Join(t.TempDir(), "progress")
	first := k.command(program, processes[0], progress)
	began := time.Now()
	killed := exec.Command(first[0], first[1:]...)
	if err := killed.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, "something is imported", func(context.Context) error {
		_, err := os.Stat(progress)
		return err
	})
	if err := killed.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	t.Logf("killed: %v", killed.Wait())
	out := mustRun(t, command{args: k.command(program, processes[1], progress)})
	k.report(t, processes, began, out)
	if !strings.Contains(out, "Going on from") {
		t.Errorf("the import says\n%s", out)
	}
	stopCleanly(t, processes)
	began = time.Now()
	startAll(t, processes, program, wide[:1])
	t.Logf("all nodes have started again after %s", time.Since(began).Round(time.Second))
	for _, p := range processes {
		k.mustBeThere(t, p.base)
		mustRead(t, p.base, "acceptance_new", now, "1")
	}
	if status, body, err := writeSample(t.Context(), processes[0].base, "acceptance_new", now.Add(-24*time.Hour), 1); status != http.StatusBadRequest {
		t.Errorf("an old sample is answered %d, %v after the window is narrow again: %s", status, err, body)
	}
	stopCleanly(t, processes)
}

// importFirst has the import be the first that the nodes are sent: none of it is late.
func (k kept) importFirst(t *testing.T, program string) {
	processes := newProcesses(t, 3)
	startAll(t, processes, program, wide)
	began := time.Now()
	out := mustRun(t, command{args: k.command(program, processes[0], filepath.Join(t.TempDir(), "progress"))})
	k.report(t, processes, began, out)
	const late = "prometheus_tsdb_head_out_of_order_samples_appended_total"
	for _, p := range processes {
		n, err := load.NewClient(load.Papers{}).Metric(t.Context(), p.base, late)
		if err != nil || n != 0 {
			t.Errorf("%s took %v samples out of order, %v", p.base, n, err)
		}
	}
	k.mustBeThere(t, processes[1].base)
	stopCleanly(t, processes)
}

// report tells what an import took, and checks that it wrote all.
func (k kept) report(t *testing.T, processes []*process, began time.Time, out string) {
	t.Helper()
	samples := k.series * k.days * int(24*time.Hour/k.interval)
	t.Logf("%d samples in %s: %s", samples, time.Since(began).Round(time.Second), lastLine(out))
	if !strings.Contains(out, " 0 refused") {
		t.Errorf("the import says\n%s", out)
	}
	for _, p := range processes {
		t.Log(p.usage(t))
	}
}

// startAll starts processes with further flags.
func startAll(t *testing.T, processes []*process, program string, flags []string) {
	t.Helper()
	for _, p := range processes {
		args := p.args
		p.args = append(args[:len(args):len(args)], flags...)
		p.start(t, program)
		p.args = args
	}
	for _, p := range processes {
		eventually(t, 10*time.Minute, p.base+" has replayed its log", ready(p.base))
	}
	awaitProcesses(t, processes)
}

// usage tells the memory that the process took at most, and what its directory takes.
func (p *process) usage(t *testing.T) string {
	t.Helper()
	if runtime.GOOS != "linux" {
		return "unknown"
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	var memory string
	for line := range strings.Lines(string(status)) {
		if strings.HasPrefix(line, "VmHWM") {
			memory = strings.Join(strings.Fields(line), " ")
		}
	}
	return memory + "; " + strings.ReplaceAll(mustRun(t, command{args: []string{"sh", "-c", "cd " + p.dataDir() + " && for d in . wal wbl chunks_head; do du -sm $d; done"}}), "\n", ", ")
}

func lastLine(s string) string { return s[strings.LastIndexByte(s, '\n')+1:] }

// write makes blocks of two hours: counters, gauges with stale markers, and native
// histograms.
func (k kept) write(t *testing.T) {
	t.Helper()
	for start := k.end.AddDate(0, 0, -k.days); start.Before(k.end); start = start.Add(2 * time.Hour) {
		w, err := tsdb.NewBlockWriter(slog.New(slog.DiscardHandler), k.dir, (2 * time.Hour).Milliseconds())
		if err != nil {
			t.Fatal(err)
		}
		app := w.Appender(t.Context())
		for i := range k.series {
			ls := labels.FromStrings(labels.MetricName, fmt.Sprintf("kept_%d", i%10), "instance", fmt.Sprintf("host-%d", i))
			for at := start; at.Before(start.Add(2 * time.Hour)); at = at.Add(k.interval) {
				if err := k.append(app, ls, i, at); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := app.Commit(); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func (k kept) append(app storage.Appender, ls labels.Labels, i int, at time.Time) error {
	n := at.Unix() / int64(k.interval.Seconds())
	var err error
	switch {
	case i%20 == 7:
		_, err = app.AppendHistogram(0, ls, at.UnixMilli(), tsdbutil.GenerateTestHistogram(n%100), nil)
	case i%20 == 3 && n%50 == 49:
		_, err = app.Append(0, ls, at.UnixMilli(), math.Float64frombits(value.StaleNaN))
	case i%2 == 0:
		_, err = app.Append(0, ls, at.UnixMilli(), float64(n*int64(i+1)))
	default:
		_, err = app.Append(0, ls, at.UnixMilli(), float64(n*7919%10_000)/100)
	}
	return err
}

// mustBeThere compares all that a node answers to a remote read with the blocks, hour after hour.
func (k kept) mustBeThere(t *testing.T, base string) {
	t.Helper()
	blocks, err := history.OpenBlocks(k.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer blocks.Close()
	node, err := history.NewRemoteRead(base+"/api/v1/read", promconfig.HTTPClientConfig{})
	if err != nil {
		t.Fatal(err)
	}
	compared := 0
	for start := k.end.AddDate(0, 0, -k.days); start.Before(k.end); start = start.Add(6 * time.Hour) {
		mint, maxt := start.UnixMilli(), start.Add(6*time.Hour).UnixMilli()-1
		want := keptSamples(t, blocks, mint, maxt, "yes")
		got := keptSamples(t, node, mint, maxt, "")
		if len(want) != len(got) {
			t.Fatalf("%s has %d samples from %s on, want %d", base, len(got), start, len(want))
		}
		for name, text := range want {
			if got[name] != text {
				t.Fatalf("%s: %s is %q, want %q", base, name, got[name], text)
			}
		}
		compared += len(want)
	}
	t.Logf("%s has all %d samples", base, compared)
}

// keptSamples reads samples of the series that were kept, as text, by series and time; with a label
// that was added on the way, unless it is there.
func keptSamples(t *testing.T, s history.Source, mint, maxt int64, moved string) map[string]string {
	t.Helper()
	set, err := s.Select(t.Context(), mint, maxt, []*labels.Matcher{labels.MustNewMatcher(labels.MatchRegexp, labels.MetricName, "kept_.*")})
	if err != nil {
		t.Fatal(err)
	}
	defer set.Close()
	samples := map[string]string{}
	var it chunkenc.Iterator
	for set.Next() {
		ls := set.At().Labels()
		if moved != "" {
			ls = labels.NewBuilder(ls).Set("moved", moved).Labels()
		}
		name := ls.String()
		it = set.At().Iterator(it)
		for kind := it.Next(); kind != chunkenc.ValNone; kind = it.Next() {
			at := it.AtT()
			if at < mint || at > maxt {
				continue
			}
			var text string
			if kind == chunkenc.ValFloat {
				_, v := it.At()
				text = fmt.Sprintf("%x", math.Float64bits(v))
			} else {
				_, fh := it.AtFloatHistogram(nil)
				text = fh.Compact(0).String()
			}
			samples[fmt.Sprintf("%s @%d", name, at)] = text
		}
	}
	if err := set.Err(); err != nil {
		t.Fatal(err)
	}
	return samples
}
