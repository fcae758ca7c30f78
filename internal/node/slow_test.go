package node

import (
	"context"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	dto "github.com/prometheus/client_model/go"

	"github.com/starling-tsdb/starling/internal/config"
)

// slowClient is a connection on which a test says as little as it likes.
type slowClient struct {
	net.Conn
	t *testing.T
}

func (m *member) dial(t *testing.T, port int, first string) slowClient {
	t.Helper()
	conn, err := m.flock.net.Host(m.ip).Dial(context.Background(), fmt.Sprintf("%s:%d", m.ip, port))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, first); err != nil {
		t.Fatal(err)
	}
	return slowClient{conn, t}
}

// rest reads until the node hangs up.
func (c slowClient) rest() string {
	c.t.Helper()
	b, err := io.ReadAll(c)
	if err != nil && len(b) == 0 {
		c.t.Logf("the connection ended with %v", err)
	}
	return string(b)
}

// metric returns the sum of a node's metric over all labels, or over those with a value.
func (n *Node) metric(t testing.TB, name string, values ...string) float64 {
	t.Helper()
	families, err := n.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.Metric {
			has := func(v string) bool {
				return slices.ContainsFunc(m.Label, func(l *dto.LabelPair) bool { return l.GetValue() == v })
			}
			if !slices.ContainsFunc(values, has) && len(values) > 0 {
				continue
			}
			sum += m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return sum
}

// Clients that never finish their headers hold all connections, for ten seconds; whoever
// waited is served then.
func TestSlowHeaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		f.web = func(w *config.Web) { w.MaxConnections = 8 }
		a := f.start("a", ip(1), nil)
		f.ready(a)
		start := time.Now()
		for range 8 {
			c := a.dial(t, 9080, "POST /api/v1/write HTTP/1.1\r\nHost: a\r\nX-Slow")
			defer c.Close()
			go func() { // a byte a second keeps nothing alive
				for {
					if _, err := io.WriteString(c, "w"); err != nil {
						return
					}
					<-time.After(time.Second)
				}
			}()
		}
		if code := a.write("m", 1); code != http.StatusNoContent {
			t.Errorf("write behind slow clients: %d", code)
		}
		if took := time.Since(start); took < 9*time.Second || took > 11*time.Second {
			t.Errorf("served after %s, want the 10s that a header may take", took)
		}
	})
}

// Clients that send their bodies slowly hold what they have sent, and as little again, for
// a minute; others are served meanwhile. They hear 503, since nothing is wrong with their
// samples.
func TestSlowBodies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		a := f.start("a", ip(1), nil)
		f.ready(a)
		const slow = 100
		start := time.Now()
		heard := make(chan string, slow)
		for range slow {
			c := a.dial(t, 9080, "POST /api/v1/write HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-protobuf\r\nContent-Length: 30000000\r\n\r\n")
			defer c.Close()
			go func() {
				for {
					if _, err := io.WriteString(c, "x"); err != nil {
						return
					}
					<-time.After(time.Second)
				}
			}()
			go func() { heard <- c.rest() }()
		}
		<-time.After(time.Second)
		if held := a.metric(t, "starling_write_inflight_bytes"); held < slow || held > slow<<20 {
			t.Errorf("%v bytes are held for %d bodies of which nothing came yet", held, slow)
		}
		for range 20 {
			<-time.After(time.Second)
			if code := a.write("m", 1); code != http.StatusNoContent {
				t.Fatalf("write beside slow clients: %d", code)
			}
		}
		for range slow {
			if answer := <-heard; !strings.HasPrefix(answer, "HTTP/1.1 503 ") || !strings.Contains(answer, "Retry-After: 1\r\n") {
				t.Fatalf("a slow client hears %q, want 503 and when to try again", answer)
			}
		}
		if got := a.metric(t, "starling_write_requests_total", "503"); got != slow {
			t.Errorf("%v requests are counted as 503, which %d clients heard", got, slow)
		}
		if took := time.Since(start); took > 65*time.Second {
			t.Errorf("the last slow client was sent away after %s, want a minute", took)
		}
		if held := a.metric(t, "starling_write_inflight_bytes"); held != 0 {
			t.Errorf("%v bytes are held when all slow clients are gone", held)
		}
	})
}

// A client that does not read its answer holds its handler until the time for a query and
// a minute more is over.
func TestSlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		a := f.start("a", ip(1), nil)
		f.ready(a)
		values := make([]float64, 4000)
		metric := "m_" + strings.Repeat("x", 1000)
		if code := a.write(metric, values...); code != http.StatusNoContent {
			t.Fatal(code)
		}
		var slow []slowClient
		for range 30 { // more than may run at a time
			c := a.dial(t, 9080, "GET /federate?match[]="+metric+" HTTP/1.1\r\nHost: a\r\n\r\n")
			defer c.Close()
			slow = append(slow, c)
		}
		<-time.After(time.Second)
		start := time.Now()
		if code := a.write("other", 1); code != http.StatusNoContent {
			t.Errorf("write beside slow readers: %d", code)
		}
		if got := a.query("count(other)"); got.values[""] != "1" {
			t.Errorf("query beside slow readers: %+v", got)
		}
		if took := time.Since(start); took > time.Second {
			t.Errorf("a write and a query beside slow readers took %s", took)
		}
		<-time.After(3*time.Minute + time.Second)
		if got := a.get("/api/v1/labels"); got.code != http.StatusOK {
			t.Errorf("labels after the slow readers: %+v", got)
		}
		for _, c := range slow {
			if answer := c.rest(); strings.HasSuffix(answer, "\r\n0\r\n\r\n") && strings.HasPrefix(answer, "HTTP/1.1 200") {
				t.Fatalf("a slow reader got a whole answer of %d bytes", len(answer))
			}
		}
	})
}

// Peers' port: a connection that says nothing, and one that begins to speak gRPC and stops,
// are closed, and many of them keep nobody out.
func TestSilentPeers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		m := f.fresh("a", "b", "c")
		var silent []slowClient
		for i := range 300 {
			silent = append(silent, m[0].dial(t, 9081, []string{"", "P", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"}[i%3]))
		}
		start := time.Now()
		if code := m[1].write("m", 1, 2); code != http.StatusNoContent {
			t.Errorf("write beside silent peers: %d", code)
		}
		if took := time.Since(start); took > time.Second {
			t.Errorf("a write beside silent peers took %s", took)
		}
		for i, c := range silent {
			c.rest()
			if took := time.Since(start); took > 30*time.Second {
				t.Fatalf("silent connection %d was closed after %s", i, took)
			}
			c.Close()
		}
	})
}

func TestMaxSeriesFollowsMemory(t *testing.T) {
	for _, c := range []struct {
		flag   int
		memory int64
		want   int
	}{
		{config.AutoSeries, math.MaxInt64, 0},
		{config.AutoSeries, 1 << 30, 1 << 18},
		{config.AutoSeries, 1, 1},
		{0, 1 << 30, 0},
		{7, 1 << 30, 7},
	} {
		if got := maxSeries(c.flag, c.memory); got != c.want {
			t.Errorf("maxSeries(%d, %d) = %d, want %d", c.flag, c.memory, got, c.want)
		}
	}
}

func TestWriteBytesFollowMemory(t *testing.T) {
	for memory, want := range map[int64]int64{math.MaxInt64: 512 << 20, 1 << 30: 256 << 20, 1 << 20: 32 << 20} {
		if got := writeBytes(memory); got != want {
			t.Errorf("writeBytes(%d) = %d, want %d", memory, got, want)
		}
	}
}
