package node

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
)

var update = flag.Bool("update", false, "rewrite docs/metrics.md")

// metricsPage lists all metrics. The test writes what stands between its two marks, but for
// what to watch for, which people write.
const (
	metricsPage = "../../docs/metrics.md"
	beginMark   = "<!-- From here on `go test ./internal/node -run TestMetrics -update` writes all but the last column. -->\n"
	endMark     = "<!-- Up to here. -->\n"
)

// sections say where a metric is listed: with the first prefix that it has.
var sections = []struct {
	title    string
	prefixes []string
}{
	{"The node and its cluster", []string{"starling_ready", "starling_build_info", "starling_cluster_", "starling_placement_"}},
	{"Writes", []string{"starling_write_", "starling_ingest_", "starling_replication_"}},
	{"Gaps and hand-off", []string{"starling_gap_", "starling_gaps_", "starling_handoff_"}},
	{"Queries", []string{"starling_query_"}},
	{"Storage", []string{"starling_storage_"}},
	{"Transitions", []string{"starling_transition_", "starling_under_replicated_"}},
	{"Comparing and mending copies", []string{"starling_repair_"}},
	{"HTTP and requests between nodes", []string{"starling_http_", "starling_peer_", "starling_tracing_"}},
}

// TestMetrics starts nodes and compares all that they show with what is written of it.
func TestMetrics(t *testing.T) {
	e := watchFlock(t)
	t.Run("settings", func(t *testing.T) { compareSettings(t, e) })
	t.Run("names and help", func(t *testing.T) { lint(t, e) })
	t.Run("rules and dashboards", func(t *testing.T) { compareWatched(t, e) })
	t.Run(metricsPage, func(t *testing.T) { comparePage(t, e) })
}

// compareSettings compares the metrics of what a node was told with that.
func compareSettings(t *testing.T, e *exposed) {
	limit := e.families["starling_write_inflight_limit_bytes"].Metric[0].GetGauge().GetValue()
	if want := writeBytes(debug.SetMemoryLimit(-1)); limit != float64(want) {
		t.Errorf("write requests may have %v bytes, and the metric says %v", want, limit)
	}
	const info = "starling_cluster_node_info"
	if names := slices.Sorted(maps.Keys(e.values[[2]string{info, "name"}])); !slices.Equal(names, []string{"a", "b", "c", "d"}) {
		t.Errorf("%s names %v", info, names)
	}
	for peer := range e.values[[2]string{"starling_gaps_open", "peer"}] {
		if !e.values[[2]string{info, "id"}][peer] {
			t.Errorf("%s does not know the peer %s of a gap", info, peer)
		}
	}
}

// ours returns the names of Starling's own metrics, sorted.
func (e *exposed) ours() []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(e.families)), func(name string) bool {
		return !strings.HasPrefix(name, "starling_")
	})
}

// lint holds the metrics to the conventions of Prometheus, and their help to sentences.
func lint(t *testing.T, e *exposed) {
	var ours []*dto.MetricFamily
	for _, name := range e.ours() {
		f := e.families[name]
		ours = append(ours, f)
		if help := f.GetHelp(); len(help) < 20 || !strings.HasSuffix(help, ".") {
			t.Errorf("%s: the help %q is not a sentence that says something", name, help)
		}
	}
	problems, err := promlint.NewWithMetricFamilies(ours).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// comparePage compares the page with what nodes show.
func comparePage(t *testing.T, e *exposed) {
	text, err := os.ReadFile(metricsPage)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(text), beginMark)
	listed, after, closed := strings.Cut(rest, endMark)
	if !found || !closed {
		t.Fatalf("no lines %q and %q", beginMark, endMark)
	}
	want := metricTables(t, e, watchedFor(listed))
	if *update {
		if err := os.WriteFile(metricsPage, []byte(before+beginMark+want+endMark+after), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if want != listed {
		t.Errorf("it does not show the metrics as they are: `go test ./internal/node -run TestMetrics -update` rewrites it; what is to be watched for is for you to write:\n%s", difference(listed, want))
	}
	compareOthers(t, e, before+after)
}

// watchedFor returns what people have written in the last column, by metric.
func watchedFor(listed string) map[string]string {
	watch := map[string]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z0-9_]+)` .*\\| ([^|]*) \\|$").FindAllStringSubmatch(listed, -1) {
		watch[row[1]] = row[2]
	}
	return watch
}

// unwritten stands in the last column until somebody has written it.
const unwritten = "?"

// metricTables renders all metrics of Starling.
func metricTables(t *testing.T, e *exposed, watch map[string]string) string {
	t.Helper()
	var b strings.Builder
	left := e.ours()
	for _, s := range sections {
		fmt.Fprintf(&b, "\n## %s\n\n| metric | type | labels | meaning | watch for |\n|---|---|---|---|---|\n", s.title)
		left = slices.DeleteFunc(left, func(name string) bool {
			if !slices.ContainsFunc(s.prefixes, func(p string) bool { return strings.HasPrefix(name, p) }) {
				return false
			}
			if watch[name] == "" || watch[name] == unwritten {
				watch[name] = unwritten
				t.Errorf("%s: nobody has written what to watch for; a dash, if nothing", name)
			}
			f := e.families[name]
			labels := slices.Sorted(maps.Keys(e.labels[name]))
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", name, strings.ToLower(f.GetType().String()),
				strings.Join(labels, ", "), strings.ReplaceAll(f.GetHelp(), "|", `\|`), watch[name])
			return true
		})
	}
	for _, name := range left {
		t.Errorf("%s is in no section: add its prefix to one", name)
	}
	return b.String() + "\n"
}

// compareOthers wants each metric of libraries to be covered by one of the prefixes that the
// page names, as `go_…`, and each prefix to cover something.
func compareOthers(t *testing.T, e *exposed, page string) {
	t.Helper()
	used := map[string]bool{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z_]+_)…` ").FindAllStringSubmatch(page, -1) {
		used[row[1]] = false
	}
	for name := range e.families {
		if strings.HasPrefix(name, "starling_") {
			continue
		}
		covered := false
		for prefix := range used {
			if strings.HasPrefix(name, prefix) {
				used[prefix], covered = true, true
			}
		}
		if !covered {
			t.Errorf("no row of a prefix covers %s", name)
		}
	}
	for prefix, is := range used {
		if !is {
			t.Errorf("no metric begins with %s", prefix)
		}
	}
}

// difference returns the lines that one text has and the other has not.
func difference(got, want string) string {
	var b strings.Builder
	in := func(text string) map[string]bool {
		lines := map[string]bool{}
		for line := range strings.Lines(text) {
			lines[line] = true
		}
		return lines
	}
	write := func(sign, text string, other map[string]bool) {
		for line := range strings.Lines(text) {
			if !other[line] {
				b.WriteString(sign + line)
			}
		}
	}
	write("- ", got, in(want))
	write("+ ", want, in(got))
	return b.String()
}
