package acceptance

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/starling-tsdb/starling/internal/faults/load"
)

// What clients of a secured cluster say who they are, and the hash of the password.
const (
	secretUser, secretPassword = "starling", "first"
	secretHash                 = "$2a$04$nNwNAZYuMMiWy3TqeiovjuzC3g8B5cIgHxihnzz3O6/YhBuog7Jd6"
)

// secrets are what docs/compose/secrets.sh has made.
type secrets struct {
	dir string
	tls *tls.Config
}

// newSecrets makes secrets as an operator does, and has httpClient trust the nodes for as long as
// the test runs.
func newSecrets(t *testing.T) *secrets {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("gives files to the user of the containers: needs root")
	}
	s := &secrets{dir: filepath.Join(t.TempDir(), "secrets"), tls: &tls.Config{RootCAs: x509.NewCertPool()}}
	mustRun(t, command{
		env:  []string{"STARLING_PASSWORD_HASH=" + secretHash},
		args: []string{filepath.Join(repository, "docs/compose/secrets.sh"), s.dir, secretPassword},
	})
	ca, err := os.ReadFile(filepath.Join(s.dir, "front-ca.pem"))
	if err != nil || !s.tls.RootCAs.AppendCertsFromPEM(ca) {
		t.Fatalf("front-ca.pem: %v: %s", err, ca)
	}
	before := httpClient
	httpClient = &http.Client{Timeout: before.Timeout, Transport: &http.Transport{TLSClientConfig: s.tls}}
	t.Cleanup(func() { httpClient = before })
	return s
}

func (s *secrets) overlays() []string {
	return []string{filepath.Join(repository, "docs/compose/secured.yml"), filepath.Join(repository, "docs/compose/secured-five.yml")}
}

// papers are what the load shows: the password is in the URLs.
func (s *secrets) papers() load.Papers {
	if s == nil {
		return load.Papers{}
	}
	return load.Papers{TLS: s.tls}
}

// scheme is how URLs of nodes begin.
func (s *secrets) scheme() string {
	if s == nil {
		return "http://"
	}
	return "https://" + secretUser + ":" + secretPassword + "@"
}

// mustBeHealthy waits until the engine's health checks find all nodes in order.
func (c *changing) mustBeHealthy(t *testing.T) {
	t.Helper()
	for _, m := range c.used() {
		eventually(t, time.Minute, m.service+" is healthy", func(context.Context) error {
			if got := c.docker(t, m.service, "inspect", "--format", "{{.State.Health.Status}}"); got != "healthy" {
				return fmt.Errorf("it is %q: %s", got, c.docker(t, m.service, "inspect", "--format", "{{json .State.Health.Log}}"))
			}
			return nil
		})
	}
}

// mustBeShut wants the front doors to be open for nobody without the password, and the ports
// between nodes for nobody without a certificate.
func (c *changing) mustBeShut(t *testing.T) {
	t.Helper()
	for _, m := range c.used() {
		_, at, _ := strings.Cut(m.Base(), "@")
		for who, base := range map[string]string{"nobody": "https://", "a wrong password": "https://" + secretUser + ":second@"} {
			for _, path := range []string{"/metrics", "/api/v1/cluster", "/debug/pprof/"} {
				if status, body, err := fetch(t.Context(), base+at+path); err != nil || status != http.StatusUnauthorized {
					t.Errorf("%s%s for %s: %d %.100s, %v", m.service, path, who, status, body, err)
				}
			}
		}
		if status, body, err := fetch(t.Context(), "http://"+at+"/metrics"); err != nil || status != http.StatusBadRequest {
			t.Errorf("%s in clear: %d %.100s, %v", m.service, status, body, err)
		}
		peers := c.docker(t, m.service, "inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}") + ":9081"
		if err := greet(t.Context(), peers); err == nil || !strings.Contains(err.Error(), "certificate required") {
			t.Errorf("%s at the port for peers without a certificate: %v", m.service, err)
		}
	}
}

// greet speaks TLS without a certificate, and returns what the other side says to it.
func greet(ctx context.Context, address string) error {
	d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}} // it is asked whom it lets in, not who it is
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	_, err = conn.Read(make([]byte, 1))
	return err
}

// replaceKey has the nodes use another key of gossip, which each writes into its file.
func (c *changing) replaceKey(t *testing.T) {
	t.Helper()
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails
	var before []string
	if err := json.Unmarshal([]byte(readFile(t, filepath.Join(c.secrets.dir, "starling-1", "keyring", "keyring.json"))), &before); err != nil {
		t.Fatal(err)
	}
	encoded := base64.StdEncoding.EncodeToString(key)
	c.operateWith(t, encoded, "starling-1", "keyring", "add")
	c.operateWith(t, encoded, "starling-2", "keyring", "use")
	c.operateWith(t, before[0], "starling-3", "keyring", "remove")
	// A node that has joined no cluster yet finds the others by its file.
	for i := 1; i <= 5; i++ {
		file := filepath.Join(c.secrets.dir, fmt.Sprintf("starling-%d", i), "keyring", "keyring.json")
		if i <= len(nodes) {
			var now []string
			if err := json.Unmarshal([]byte(readFile(t, file)), &now); err != nil || !slices.Equal(now, []string{encoded}) {
				t.Errorf("%s has %d keys, not the new one alone: %v", file, len(now), err)
			}
			continue
		}
		content := fmt.Appendf(nil, "[%q]", encoded)
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// operateWith is operate with something on the standard input.
func (c *changing) operateWith(t *testing.T, input, service string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "docker", append([]string{"exec", "-i", c.container(t, service), "/bin/starling", "cluster"}, args...)...)
	cmd.Stdin = strings.NewReader(input)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("starling cluster %s on %s: %v: %s", strings.Join(args, " "), service, err, out)
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
