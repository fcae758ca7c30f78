package acceptance

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestKubernetesManifests has the types of Kubernetes's own API read the manifests, and follows what
// they refer to. What it is to find is broken first.
func TestKubernetesManifests(t *testing.T) {
	requireAcceptance(t)
	dir := t.TempDir()
	checker := filepath.Join(dir, "manifests")
	mustRun(t, command{dir: filepath.Join("testdata", "manifests"), args: []string{"go", "build", "-o", checker, "."}, env: []string{"GOFLAGS="}})
	manifests := filepath.Join(repository, "docs", "install", "kubernetes.yaml")
	mustRun(t, command{args: []string{checker, manifests}})

	b, err := os.ReadFile(manifests)
	if err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string][2]string{
		"a field that is unknown":       {"runAsNonRoot:", "runAsNobody:"},
		"a port that leads nowhere":     {"containerPort: 9081", "containerPort: 9082"},
		"a volume without a claim":      {"{name: data, mountPath", "{name: date, mountPath"},
		"pods that nobody selects":      {"matchLabels: {app.kubernetes.io/name: starling}", "matchLabels: {app.kubernetes.io/name: starring}"},
		"nodes that are not found":      {"publishNotReadyAddresses: true", "publishNotReadyAddresses: false"},
		"a file system to be written":   {"readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false"},
		"a probe of no port":            {"{path: /-/ready, port: http}", "{path: /-/ready, port: https}"},
		"a number where text has to be": {`prometheus.io/port: "9080"`, "prometheus.io/port: 9080"},
	} {
		if strings.Count(string(b), change[0]) == 0 {
			t.Fatalf("%s: %q is not there to be changed", what, change[0])
		}
		broken := filepath.Join(dir, "broken.yaml")
		if err := os.WriteFile(broken, []byte(strings.Replace(string(b), change[0], change[1], 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := (command{args: []string{checker, broken}}).run(t.Context()); err == nil {
			t.Errorf("%s is not found", what)
		}
	}
}
