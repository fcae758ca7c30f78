package acceptance

import (
	"path/filepath"
	"testing"
)

// TestRulesWithPromtool has Prometheus's own tool check and test the rules. Package watch runs the
// same tests within seconds.
func TestRulesWithPromtool(t *testing.T) {
	requireAcceptance(t)
	promtool := buildPrometheus(t, "promtool")
	for _, args := range [][]string{
		{"check", "rules", "--lint=all", "--lint-fatal", "starling.rules.yml"},
		{"test", "rules", "starling.rules_test.yml"},
	} {
		t.Log(mustRun(t, command{dir: filepath.Join(repository, "docs", "alerts"), args: append([]string{promtool}, args...)}))
	}
}
