package main

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/starling-tsdb/starling/internal/border/bordertest"
	"github.com/starling-tsdb/starling/internal/border/issue"
)

// house is a node whose front door asks for certificates.
type house struct {
	*testing.T
	node *process
	dir  string
	// servers and clients are authorities of certificates of either.
	servers, clients *bordertest.Authority
}

// doors are one of each kind of thing that there is behind the front door.
var doors = []string{
	"GET /metrics", "GET /-/ready", "GET /-/healthy", "GET /debug/pprof/", "GET /debug/pprof/heap", "GET /", "GET /nothing",
	"POST /api/v1/write", "POST /api/v1/otlp/v1/metrics", "POST /api/v1/read", "GET /api/v1/query?query=1", "GET /federate?match[]=m",
	"GET /api/v1/cluster", "POST /api/v1/cluster/leave", "POST /api/v1/cluster/keyring/add", "POST /api/v1/admin/tsdb/snapshot",
	"GET /api/v1/status/config", "GET /prometheus/api/v1/query?query=1",
}

const webConfig = `tls_server_config:
  cert_file: node.pem
  key_file: node-key.pem
  client_auth_type: RequireAndVerifyClientCert
  client_ca_file: clients-ca.pem
`

// newHouse starts a node with a file of the front door.
func newHouse(t *testing.T, config string) *house {
	t.Helper()
	h := &house{T: t, dir: t.TempDir(), servers: bordertest.NewAuthority(t, "servers"), clients: bordertest.NewAuthority(t, "clients")}
	h.certify()
	h.put(map[string][]byte{"clients-ca.pem": h.clients.PEM, "web.yml": []byte(config)})
	h.node = serve(t, "--web.config.file="+h.path("web.yml"))
	return h
}

func (h *house) path(file string) string { return filepath.Join(h.dir, file) }

// put replaces files of the node, each at once.
func (h *house) put(files map[string][]byte) {
	h.Helper()
	at := map[string][]byte{}
	for name, b := range files {
		at[h.path(name)] = b
	}
	bordertest.Write(h, at)
}

// certify gives the node another certificate.
func (h *house) certify() {
	h.Helper()
	cert, key := h.servers.Issue(issue.Leaf{Hosts: []string{"127.0.0.1"}})
	h.put(map[string][]byte{"node.pem": cert, "node-key.pem": key})
}

// papers returns a certificate for a client.
func (h *house) papers(by *bordertest.Authority, l issue.Leaf) *tls.Certificate {
	h.Helper()
	cert, key := by.Issue(l)
	c, err := tls.X509KeyPair(cert, key)
	if err != nil {
		h.Fatal(err)
	}
	return &c
}

// visitor is a client that shows a certificate, or none.
type visitor struct {
	*http.Client
	house *house
	// shown is the serial number of the node's certificate that was last seen.
	shown string
}

func (h *house) visitor(own *tls.Certificate) *visitor {
	v := &visitor{house: h}
	trusted := x509.NewCertPool()
	trusted.AppendCertsFromPEM(h.servers.PEM)
	c := &tls.Config{
		RootCAs: trusted, ClientSessionCache: tls.NewLRUClientSessionCache(10),
		VerifyConnection: func(s tls.ConnectionState) error {
			v.shown = s.PeerCertificates[0].SerialNumber.String()
			return nil
		},
	}
	if own != nil {
		// Shown whatever authorities the node names.
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return own, nil }
	}
	v.Client = &http.Client{Transport: &http.Transport{TLSClientConfig: c}, Timeout: 10 * time.Second}
	h.Cleanup(v.CloseIdleConnections)
	return v
}

// knock asks at a door by a connection of its own, and returns the status, 0 if there was no
// answer by HTTP, and the beginning of the answer or why there was none.
func (v *visitor) knock(door string) (int, string) {
	v.CloseIdleConnections()
	return v.ask(door)
}

// ask is knock by the connection that there is.
func (v *visitor) ask(door string) (int, string) {
	v.house.Helper()
	method, path, _ := strings.Cut(door, " ")
	req, err := http.NewRequest(method, "https://"+v.house.node.address+path, nil)
	if err != nil {
		v.house.Fatal(err)
	}
	resp, err := v.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	// All of it, so that the connection can be used again.
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(b[:min(len(b), 200)])
}

// mustSee has a visitor be let in.
func (v *visitor) mustSee(when string) {
	v.house.Helper()
	if code, body := v.knock("GET /metrics"); code != http.StatusOK {
		v.house.Errorf("%s: a client with the right certificate: %d %s", when, code, body)
	}
}

// mustSeeNothing has a visitor get no answer at some doors.
func (v *visitor) mustSeeNothing(when string, doors ...string) {
	v.house.Helper()
	for _, door := range doors {
		if code, body := v.knock(door); code != 0 {
			v.house.Errorf("%s: %s: %d %q", when, door, code, body)
		}
	}
}

// TestClientCertificates: where certificates of clients are asked for, every door is shut for
// those who have none that is good.
func TestClientCertificates(t *testing.T) {
	h := newHouse(t, webConfig)
	clientAuth := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	for who, own := range map[string]*tls.Certificate{
		"no certificate":           nil,
		"by another authority":     h.papers(bordertest.NewAuthority(t, "others"), issue.Leaf{Usages: clientAuth}),
		"by an authority so named": h.papers(bordertest.NewAuthority(t, "clients"), issue.Leaf{Usages: clientAuth}),
		"expired":                  h.papers(h.clients, issue.Leaf{Usages: clientAuth, Until: time.Now().Add(-time.Minute)}),
		"one for servers":          h.papers(h.clients, issue.Leaf{Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}),
		"the node's own authority": h.papers(h.servers, issue.Leaf{}),
	} {
		h.visitor(own).mustSeeNothing(who, doors...)
	}
	resp, err := http.Get("http://" + h.node.address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil || resp.StatusCode != http.StatusBadRequest || len(b) > 100 {
		t.Errorf("in clear: %d %.200s, %v", resp.StatusCode, b, err)
	}
	old := h.visitor(h.papers(h.clients, issue.Leaf{}))
	old.Transport.(*http.Transport).TLSClientConfig.MaxVersion = tls.VersionTLS11
	old.mustSeeNothing("by TLS 1.1", "GET /metrics")
	good := h.visitor(h.papers(h.clients, issue.Leaf{Usages: clientAuth}))
	for _, door := range doors {
		if code, body := good.knock(door); code == 0 || code == http.StatusUnauthorized || code == http.StatusForbidden {
			t.Errorf("%s with a good certificate: %d %s", door, code, body)
		}
	}
}

// TestFrontDoorIsMoved: certificates and authorities are replaced under a node that runs. What
// cannot be used opens nothing, and ends nothing.
func TestFrontDoorIsMoved(t *testing.T) {
	h := newHouse(t, webConfig)
	good, nobody := h.visitor(h.papers(h.clients, issue.Leaf{})), h.visitor(nil)
	stranger := h.visitor(h.papers(bordertest.NewAuthority(t, "others"), issue.Leaf{}))
	shut := func(when string) {
		t.Helper()
		nobody.mustSeeNothing(when+", without a certificate", "GET /metrics")
		stranger.mustSeeNothing(when+", with another authority's", "GET /metrics")
	}
	good.mustSee("at first")
	first := good.shown

	h.certify()
	// One who was never there before: a session that is resumed shows no certificate again.
	fresh := h.visitor(h.papers(h.clients, issue.Leaf{}))
	fresh.mustSee("with another certificate of the node")
	if fresh.shown == first {
		t.Error("the node shows the certificate that was replaced")
	}
	// In one file both are replaced at once.
	cert, key := h.servers.Issue(issue.Leaf{Hosts: []string{"127.0.0.1"}})
	h.put(map[string][]byte{
		"both.pem": slices.Concat(cert, key),
		"web.yml":  []byte(strings.NewReplacer("node.pem", "both.pem", "node-key.pem", "both.pem").Replace(webConfig)),
	})
	good.mustSee("with a file of both")
	h.put(map[string][]byte{"web.yml": []byte(webConfig)})
	cert, err := os.ReadFile(h.path("node.pem"))
	if err != nil {
		t.Fatal(err)
	}
	_, otherKey := h.servers.Issue(issue.Leaf{})
	for what, files := range map[string]map[string][]byte{
		"half a certificate": {"node.pem": cert[:len(cert)/2]},
		"another key":        {"node-key.pem": otherKey},
		"no key":             {"node-key.pem": nil},
	} {
		good.mustSee("before " + what)
		h.put(files)
		if code, body := good.ask("GET /metrics"); code != http.StatusOK {
			t.Errorf("with %s, by a connection that is open: %d %s", what, code, body)
		}
		if code, _ := good.knock("GET /metrics"); code != 0 {
			t.Errorf("with %s a new connection is answered %d", what, code)
		}
		shut("with " + what)
		h.certify()
	}
	configs := []string{
		strings.Replace(webConfig, "RequireAndVerifyClientCert", "RequestClientCert", 1),
		strings.Replace(webConfig, "RequireAndVerifyClientCert", "RequireAnyClientCert", 1),
		"{", "nonsense: true\n",
	}
	for n := range webConfig {
		configs = append(configs, webConfig[:n])
	}
	for _, config := range configs {
		h.put(map[string][]byte{"web.yml": []byte(config)})
		for _, v := range []*visitor{nobody, stranger} {
			if code, body := v.knock("GET /metrics"); code != 0 && code != http.StatusServiceUnavailable || strings.Contains(body, "HELP") {
				t.Errorf("with the configuration %q: %d %q", config, code, body)
			}
		}
	}
	h.put(map[string][]byte{"web.yml": []byte(webConfig), "clients-ca.pem": h.clients.PEM[:100]})
	shut("with half an authority")
	h.put(map[string][]byte{"clients-ca.pem": h.clients.PEM})
	if err := h.node.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	good.mustSee("after all that")

	// One authority of clients is taken back for another.
	next := bordertest.NewAuthority(t, "next")
	h.put(map[string][]byte{"clients-ca.pem": next.PEM})
	if code, body := good.ask("GET /metrics"); code != http.StatusOK {
		t.Errorf("by the connection of one whose authority is taken back: %d %s", code, body)
	}
	good.mustSeeNothing("with a certificate whose authority is taken back", doors...)
	h.visitor(h.papers(next, issue.Leaf{})).mustSee("by the next authority")
}

// TestOperatorShowsACertificate: `starling cluster` and `starling health` reach a node that asks
// for certificates and passwords with a file that has them, and say what is wrong without.
func TestOperatorShowsACertificate(t *testing.T) {
	h := newHouse(t, webConfig+"basic_auth_users:\n  alice: $2a$04$nNwNAZYuMMiWy3TqeiovjuzC3g8B5cIgHxihnzz3O6/YhBuog7Jd6\n")
	cert, key := h.clients.Issue(issue.Leaf{})
	h.put(map[string][]byte{
		"client.pem": cert, "client-key.pem": key, "servers-ca.pem": h.servers.PEM,
		"client.yml":    []byte("basic_auth: {username: alice, password: first}\ntls_config: {ca_file: servers-ca.pem, cert_file: client.pem, key_file: client-key.pem}\n"),
		"nobody.yml":    []byte("basic_auth: {username: alice, password: first}\ntls_config: {ca_file: servers-ca.pem}\n"),
		"forgetful.yml": []byte("tls_config: {ca_file: servers-ca.pem, cert_file: client.pem, key_file: client-key.pem}\n"),
		"distrust.yml":  []byte("basic_auth: {username: alice, password: first}\ntls_config: {cert_file: client.pem, key_file: client-key.pem}\n"),
	})
	command := func(file string, args ...string) *exec.Cmd {
		return starling(t, append(args, "--web.listen-address="+h.node.address, "--web.config.file="+h.path("web.yml"), "--http.config.file="+h.path(file))...)
	}
	for start := time.Now(); command("client.yml", "health").Run() != nil && time.Since(start) < 20*time.Second; {
		continue // each of them takes a while
	}
	for _, c := range []struct {
		file string
		want int
		says string
	}{
		{"client.yml", 0, ""},
		{"nobody.yml", exitFailure, ""}, // why, or that the connection was closed
		{"forgetful.yml", exitFailure, "--http.config.file"},
		{"distrust.yml", exitFailure, "certificate signed by unknown authority"},
	} {
		for _, args := range [][]string{{"health", "--timeout=10s"}, {"cluster", "status"}, {"cluster", "plan", "replication", "1"}} {
			cmd := command(c.file, args...)
			out, err := cmd.CombinedOutput()
			if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != c.want || !strings.Contains(string(out), c.says) {
				t.Errorf("starling %s with %s: %v: %s", strings.Join(args, " "), c.file, err, out)
			}
		}
	}
}

// TestRateLimit: what is beyond the limit is refused, whoever asks for what.
func TestRateLimit(t *testing.T) {
	h := newHouse(t, webConfig+"rate_limit: {interval: 1h, burst: 2}\n")
	good := h.visitor(h.papers(h.clients, issue.Leaf{}))
	for i, want := range []int{http.StatusOK, http.StatusOK, http.StatusTooManyRequests, http.StatusTooManyRequests} {
		if code, _ := good.ask(doors[i%2*7]); (code == http.StatusTooManyRequests) != (want == http.StatusTooManyRequests) {
			t.Errorf("request %d is answered %d", i, code)
		}
	}
}
