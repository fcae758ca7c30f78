package admin

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/starling-tsdb/starling/internal/api"
)

func TestClient(t *testing.T) {
	var path string
	var got api.CommandRequest
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		path = r.Method + " " + r.URL.Path + " " + user + ":" + password
		got = api.CommandRequest{}
		if r.Method == http.MethodPost {
			if r.Header.Get("Content-Type") != "application/json" || json.NewDecoder(r.Body).Decode(&got) != nil {
				t.Errorf("%s: not JSON", path)
			}
		}
		if _, err := w.Write([]byte(`{"status":"success","data":{"epoch":5}}`)); err != nil {
			t.Error(err)
		}
	})
	server := httptest.NewTLSServer(handler)
	defer server.Close()
	config := filepath.Join(t.TempDir(), "http.yml")
	if err := os.WriteFile(config, []byte("tls_config:\n  insecure_skip_verify: true\nbasic_auth:\n  username: u\n  password: p\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := NewClient(server.URL+"/prometheus/", config)
	if err != nil {
		t.Fatal(err)
	}
	request := api.CommandRequest{Op: "leave", Nodes: []string{"a"}}
	if s, err := c.Status(t.Context()); err != nil || s.Epoch != 5 || path != "GET /prometheus/api/v1/cluster u:p" {
		t.Errorf("status %+v, %v by %s", s, err, path)
	}
	if p, err := c.Plan(t.Context(), request); err != nil || p.Epoch != 5 || path != "POST /prometheus/api/v1/cluster/plan u:p" || !reflect.DeepEqual(got, request) {
		t.Errorf("plan %+v, %v by %s of %+v", p, err, path, got)
	}
	if r, err := c.Do(t.Context(), request); err != nil || r.Epoch != 5 || path != "POST /prometheus/api/v1/cluster/leave u:p" || got.Op != "" || len(got.Nodes) != 1 {
		t.Errorf("result %+v, %v by %s of %+v", r, err, path, got)
	}
}

// Errors are one line that says what to do.
func TestClientErrors(t *testing.T) {
	answer := func(status int, body string) *httptest.Server {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body))
		}))
		t.Cleanup(s.Close)
		return s
	}
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	secure.StartTLS()
	defer secure.Close()
	gone := answer(200, "")
	gone.Close()
	plain := answer(200, "")
	for _, c := range []struct{ name, url, want string }{
		{"refused", answer(409, `{"status":"error","errorType":"conflict","error":"leave: no node would be left"}`).URL, "leave: no node would be left"},
		{"password", answer(401, "Unauthorized").URL, "--http.config.file"},
		{"something else", answer(200, "<html>").URL, "is that a Starling"},
		{"an older version", answer(404, "404 page not found").URL, "is that a Starling"},
		{"nobody", gone.URL, "--url"},
		{"a certificate", secure.URL, "ca_file"},
		{"no TLS", strings.Replace(plain.URL, "http:", "https:", 1), "http://"},
	} {
		client, err := NewClient(c.url, "")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.Do(t.Context(), api.CommandRequest{Op: "leave"}); err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	for _, url := range []string{"localhost:9080", "", "http://", "ftp://a", "http://a b"} {
		if _, err := NewClient(url, ""); err == nil || !strings.Contains(err.Error(), "--url") {
			t.Errorf("%q: %v", url, err)
		}
	}
	if _, err := NewClient("http://a", "/none"); err == nil || !strings.Contains(err.Error(), "--http.config.file") {
		t.Errorf("no such file: %v", err)
	}
}

// A key is not sent to another machine in clear.
func TestKeysAreNotSentInClear(t *testing.T) {
	for url, want := range map[string]bool{
		"http://localhost:9080": true, "http://127.0.0.1:9080": true, "http://[::1]:9080/prefix": true,
		"https://192.0.2.1": true, "http://192.0.2.1:9080": false, "http://node-1:9080": false,
	} {
		c, err := NewClient(url, "")
		if err != nil {
			t.Fatal(err)
		}
		if err := c.checkConfidential(); (err == nil) != want {
			t.Errorf("%s: %v, want success: %v", url, err, want)
		}
	}
}
