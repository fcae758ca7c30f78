package main

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The command speaks TLS where the node's own configuration says so.
func TestHealthSpeaksTheSchemeOfTheNode(t *testing.T) {
	answer := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/-/ready" {
			w.WriteHeader(http.StatusNotFound)
		}
	})
	plain, secure := httptest.NewServer(answer), httptest.NewTLSServer(answer)
	defer plain.Close()
	defer secure.Close()
	withTLS := filepath.Join(t.TempDir(), "web.yml")
	if err := os.WriteFile(withTLS, []byte("tls_server_config:\n  cert_file: c.pem\n  key_file: k.pem\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	withUsers := filepath.Join(t.TempDir(), "web.yml")
	if err := os.WriteFile(withUsers, []byte("basic_auth_users: {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, file, url string
		want            int
	}{
		{"plain", "", plain.URL, 0},
		{"no TLS in the file", withUsers, plain.URL, 0},
		{"TLS", withTLS, secure.URL, 0},
		{"TLS where the node speaks plain", withTLS, plain.URL, exitFailure},
		{"plain where the node speaks TLS", "", secure.URL, exitFailure},
		{"no such file", filepath.Join(t.TempDir(), "none"), plain.URL, exitFailure},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, address, _ := strings.Cut(c.url, "//")
			if got := run([]string{"health", "--web.listen-address=" + address, "--web.config.file=" + c.file}); got != c.want {
				t.Errorf("exit status %d, want %d", got, c.want)
			}
		})
	}
}

// A node that asks for a password is asked with that of a file, and without one fails and says why.
func TestHealthWithAPassword(t *testing.T) {
	node := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "u" || password != "p" {
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	defer node.Close()
	file := func(content string) string {
		path := filepath.Join(t.TempDir(), "client.yml")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	_, address, _ := strings.Cut(node.URL, "//")
	for _, c := range []struct {
		name, file string
		want       int
	}{
		{"none", "", exitFailure},
		{"right", file("basic_auth:\n  username: u\n  password: p\n"), 0},
		{"wrong", file("basic_auth:\n  username: u\n  password: q\n"), exitFailure},
		{"no such file", "none.yml", exitFailure},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := run([]string{"health", "--web.listen-address=" + address, "--http.config.file=" + c.file}); got != c.want {
				t.Errorf("exit status %d, want %d", got, c.want)
			}
		})
	}
}
