package node

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/starling-tsdb/starling/internal/config"
)

// Hashes of the passwords "first" and "second".
const (
	firstHash  = "$2a$04$nNwNAZYuMMiWy3TqeiovjuzC3g8B5cIgHxihnzz3O6/YhBuog7Jd6"
	secondHash = "$2a$04$fw4eTEiBlxY8mauoDq4RU.Q2YrU1o35u9NN7LHBeLGuaZ5b06vX0W"
)

// knock sends a request and returns its status and the beginning of its answer.
func (m *member) knock(method, path, password string) (int, string) {
	m.flock.Helper()
	req, err := http.NewRequest(method, "http://"+m.ip+":9080"+path, nil)
	if err != nil {
		m.flock.Fatal(err)
	}
	if password != "" {
		req.SetBasicAuth("alice", password)
	}
	resp, err := m.http.Do(req)
	if err != nil {
		m.flock.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 200))
	if err != nil {
		m.flock.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// TestFrontDoor: with --web.config.file nobody without a password gets anything, neither samples nor
// profiles nor commands; who has one does; and what the file says counts from the next request on.
func TestFrontDoor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		file := filepath.Join(f.TempDir(), "web.yml")
		users := func(hash string) {
			if err := os.WriteFile(file, []byte("basic_auth_users:\n  alice: "+hash+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		users(firstHash)
		f.web = func(w *config.Web) { w.ConfigFile = file }
		a := f.start("a", ip(1), nil)
		f.ready(a)
		for _, door := range []string{
			"GET /metrics", "GET /-/ready", "GET /debug/pprof/", "GET /debug/pprof/heap", "GET /", "GET /graph?expr=1", "GET /assets/page.css", "GET /favicon.ico", "GET /prometheus/", "GET /nothing",
			"POST /api/v1/write", "POST /api/v1/otlp/v1/metrics", "POST /api/v1/read", "GET /api/v1/query?query=1", "GET /federate?match[]=m",
			"GET /api/v1/cluster", "POST /api/v1/cluster/leave", "POST /api/v1/cluster/remove", "POST /api/v1/cluster/keyring/add",
			"GET /api/v1/status/config", "GET /prometheus/api/v1/query?query=1",
		} {
			method, path, _ := strings.Cut(door, " ")
			for _, password := range []string{"", "wrong"} {
				if code, body := a.knock(method, path, password); code != http.StatusUnauthorized || strings.Contains(body, "{") {
					t.Errorf("%s with the password %q: %d %q", door, password, code, body)
				}
			}
			if code, _ := a.knock(method, path, "first"); code == http.StatusUnauthorized {
				t.Errorf("%s with a password is refused", door)
			}
		}
		users(secondHash)
		if code, _ := a.knock("GET", "/metrics", "first"); code != http.StatusUnauthorized {
			t.Errorf("the password that was replaced: %d", code)
		}
		if code, _ := a.knock("GET", "/metrics", "second"); code != http.StatusOK {
			t.Errorf("the new password: %d", code)
		}
	})
}

// TestFrontDoorIsNotOpenedByAFile: a file that is cut short, as while it is written or where the disk
// is full, asks for less than it did, or cannot be read at all. It lets nobody in without a password.
func TestFrontDoorIsNotOpenedByAFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		file := filepath.Join(f.TempDir(), "web.yml")
		whole := "http_server_config:\n  http2: false\nbasic_auth_users:\n  alice: " + firstHash + "\n  bob: " + secondHash + "\n"
		put := func(content string) {
			t.Helper()
			if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		put(whole)
		f.web = func(w *config.Web) { w.ConfigFile = file }
		a := f.start("a", ip(1), nil)
		f.ready(a)
		shut := func(when string) {
			t.Helper()
			for _, password := range []string{"", "wrong", "second"} {
				for _, door := range []string{"GET /metrics", "GET /debug/pprof/", "POST /api/v1/cluster/leave"} {
					method, path, _ := strings.Cut(door, " ")
					code, body := a.knock(method, path, password)
					if code != http.StatusUnauthorized && code != http.StatusInternalServerError && code != http.StatusServiceUnavailable || strings.Contains(body, "{") {
						t.Errorf("%s: %s with the password %q: %d %q", when, door, password, code, body)
					}
				}
			}
		}
		for n := range whole {
			put(whole[:n])
			shut(fmt.Sprintf("cut after %q", whole[:n]))
		}
		for _, content := range []string{"basic_auth_users: {}\n", "{}", "# nothing", "\x00", "basic_auth_users: [alice]", whole + "nonsense: true\n"} {
			put(content)
			shut(fmt.Sprintf("with %q", content))
		}
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		shut("without a file")
		put(whole)
		shut("with the file again")
		if code, _ := a.knock("GET", "/metrics", "first"); code != http.StatusOK {
			t.Errorf("with the password, after all that: %d", code)
		}
	})
}

// TestAdminAPIIsOff: nobody deletes or copies by HTTP, as in a Prometheus without
// --web.enable-admin-api.
func TestAdminAPIIsOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		a := f.start("a", ip(1), nil)
		f.ready(a)
		if code := a.write("m", 1); code != http.StatusNoContent {
			t.Fatal(code)
		}
		for _, command := range []string{"delete_series?match[]=m", "clean_tombstones", "snapshot"} {
			if code, body := a.knock("POST", "/api/v1/admin/tsdb/"+command, ""); code != http.StatusInternalServerError || !strings.Contains(body, "admin APIs disabled") {
				t.Errorf("%s: %d %s", command, code, body)
			}
		}
		f.eventually(time.Second, "the sample is still there", func() error {
			if got := a.query("m"); got.values["0"] != "1" {
				return fmt.Errorf("have %+v", got)
			}
			return nil
		})
	})
}
