package node

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

const (
	// pageTimeout is more than a page takes, whoever is away: a node that does not answer is given
	// reportTimeout.
	pageTimeout = reportTimeout + 200*time.Millisecond
	// queryTimeout is more than a query takes that others do not answer.
	queryTimeout = 5 * time.Second
)

// lookAt gets a page in time, and checks what it says.
func (m *member) lookAt(path string, code int, wants ...string) {
	m.flock.Helper()
	begin := time.Now()
	got, most := m.get(path), pageTimeout
	if strings.Contains(path, "/graph") {
		most = queryTimeout
	}
	if took := time.Since(begin); got.code != code || took > most {
		m.flock.Errorf("%s: %d after %s: %s", path, got.code, took, got.text)
	}
	for _, want := range wants {
		if !strings.Contains(got.text, want) {
			m.flock.Errorf("%s does not say %q: %s", path, want, got.text)
		}
	}
}

// loses waits until a node gives so many others up.
func (m *member) loses(n int) {
	m.flock.Helper()
	m.flock.eventually(time.Minute, m.name+" gives others up", func() error {
		if missing := m.missing(); len(missing) != n {
			return fmt.Errorf("missing: %v", missing)
		}
		return nil
	})
}

// The page is there whoever is away: nodes that were just cut off are shown as unreachable, and
// those given up as dead, within a bounded time.
func TestPageWithoutPeers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		m := f.fresh("a", "b", "c")
		<-time.After(2 * loadInterval)
		m[0].lookAt("/", http.StatusOK, "All is well", "3 of 3", "this node")
		m[0].lookAt("/prometheus/", http.StatusOK, "All is well")
		f.net.Partition([]string{ip(1)}, []string{ip(2), ip(3)})
		<-time.After(2 * time.Second) // so that it is asked again
		m[0].lookAt("/", http.StatusOK, "b is unreachable", "c is unreachable")
		m[0].loses(2)
		<-time.After(2 * time.Second)
		m[0].lookAt("/", http.StatusOK, "b is dead, and keeps its slot", "2 owners are away", "node is gone")
	})
}

// A query on the page is one of the API's: its answers, its refusals and its honesty.
func TestPageQueries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		m := f.fresh("a", "b", "c")
		if code := m[0].write("m", 1, 2, 3); code != http.StatusNoContent {
			t.Fatal(code)
		}
		graph := func(expr string) string { return "/graph?show=instant&expr=" + url.QueryEscape(expr) }
		m[1].lookAt(graph("m"), http.StatusOK, "3 series", `<span class="k">i</span>=<span class="v">"2"</span>`)
		m[1].lookAt("/prometheus"+graph("sum(m)"), http.StatusOK, "1 series", `<td class="n">6</td>`)
		m[1].lookAt("/graph?range=5m&expr=m", http.StatusOK, "3 series", `class="dot s2"`)
		m[1].lookAt(graph("sum("), http.StatusBadRequest, "bad_data", "parse error")
		m[1].lookAt(graph(`m{i=~"`+strings.Repeat("a", 5000)+`"}`), http.StatusBadRequest, "4096")
		f.net.Partition([]string{ip(1)}, []string{ip(2)}, []string{ip(3)})
		m[1].loses(2)
		m[1].lookAt(graph("m"), http.StatusServiceUnavailable)
		m[1].lookAt(graph("m")+"&partial_response=true", http.StatusOK, `<li class="alarm">`)
	})
}
