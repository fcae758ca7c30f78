package acceptance

import (
	"strings"
	"testing"
)

// TestMeasuringQueries runs what measures queries, with nodes as it starts them for everybody but for
// less data and less often, and wants a report.
func TestMeasuringQueries(t *testing.T) {
	requireAcceptance(t)
	query := buildGo(t, "./bench/query", nil, nil)
	report := mustRun(t, command{dir: repository, args: []string{
		query, "-program", buildStarling(t), "-prometheus", buildPrometheus(t, "prometheus"), "-work", t.TempDir(),
		"-series", "6000", "-scrapes", "90", "-rounds", "1",
	}})
	for _, of := range []string{"All answers agree.", "| sum of rate ", "| avg by ", "| count of many ", "| ten series ", "| all series of a metric "} {
		if !strings.Contains(report, of) {
			t.Errorf("the report says nothing of %q:\n%s", of, report)
		}
	}
}
