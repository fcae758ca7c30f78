package node

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/hashicorp/memberlist"
	"github.com/prometheus/prometheus/prompb"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/starling-tsdb/starling/internal/config"
	"github.com/starling-tsdb/starling/internal/simnet"
	"github.com/starling-tsdb/starling/internal/storage"
)

// flock is a cluster in this process: real nodes on a network in memory. It lives in a
// synctest bubble, but for the test that cannot.
type flock struct {
	testing.TB
	net  *simnet.Net
	dir  string
	tune func(*storage.Options)
	// handleBytes, if set, bounds what nodes remember of series.
	handleBytes int64
	// web, if set, changes the settings of HTTP.
	web func(*config.Web)
	// query, if set, changes the settings of queries.
	query func(*config.Query)
	// cluster changes the settings of every node.
	cluster func(*config.Cluster)
	// registry, if set, makes the registries of nodes.
	registry func() Registry
	// nearbyWork is Options.NearbyWork: negative where even a few series are to be divided.
	nearbyWork int
	// features are those of --enable-feature.
	features []string
	nodes    map[string]*member
	// logger, if set, takes what the nodes log.
	logger *slog.Logger
	// tap, if set, gets what each connection that is dialled carries to an address.
	tap func(address string, conn net.Conn) net.Conn
	// spans, if set, takes those of requests that come with a span.
	spans sdktrace.SpanProcessor
	// linger is how long the last timers run on when all nodes have stopped: those of
	// memberlist's probes. A bubble must not end before them.
	linger time.Duration
}

// member is one running node.
type member struct {
	*Node
	flock *flock
	name  string
	ip    string
	stop  context.CancelFunc
	done  chan error
	http  *http.Client
}

func newFlock(t testing.TB) *flock {
	t.Helper()
	f := &flock{TB: t, net: simnet.New(), dir: t.TempDir(), nodes: map[string]*member{}, linger: time.Minute}
	f.net.SetLatency(time.Millisecond)
	t.Cleanup(f.stopAll)
	return f
}

// host puts a node on a machine of the network in memory.
type host struct {
	*simnet.Host
	name string
	tap  func(address string, conn net.Conn) net.Conn
}

func (h host) Dial(ctx context.Context, address string) (net.Conn, error) {
	conn, err := h.Host.Dial(ctx, address)
	if err != nil || h.tap == nil {
		return conn, err
	}
	return h.tap(address, conn), nil
}

func (h host) Listen(address string) (net.Listener, error) {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		return nil, err
	}
	return h.Host.Listen(n)
}

func (h host) GossipTransport(string) (memberlist.Transport, error) {
	return h.Host.GossipTransport(7946), nil
}

func (h host) Hostname() string { return h.name }

// start runs a node; name stands for its data directory, ip for its machine.
func (f *flock) start(name, ip string, change func(*config.Cluster)) *member {
	f.Helper()
	c := config.Default()
	c.Storage.Path = filepath.Join(f.dir, name)
	c.Cluster.AdvertiseHost = ip
	c.Features = f.features
	if f.cluster != nil {
		f.cluster(&c.Cluster)
	}
	if change != nil {
		change(&c.Cluster)
	}
	if f.web != nil {
		f.web(&c.Web)
	}
	if f.query != nil {
		f.query(&c.Query)
	}
	var registry Registry
	if f.registry != nil {
		registry = f.registry()
	}
	c.Tracing.SamplingFraction = 0
	n, err := New(Options{
		Registry: registry, Spans: f.spans, NearbyWork: f.nearbyWork,
		Config: c, Network: host{f.net.Host(ip), name, f.tap}, Tune: f.tune, HandleBytes: f.handleBytes,
		Logger: cmp.Or(f.logger, slog.New(slog.DiscardHandler)),
	})
	if err != nil {
		f.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	m := &member{Node: n, flock: f, name: name, ip: ip, stop: cancel, done: make(chan error, 1)}
	// A client on the same machine, so that it is never cut off. It keeps no connections,
	// because it may run longer than the node.
	m.http = &http.Client{Timeout: 3 * time.Minute, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
			return f.net.Host(ip).Dial(ctx, address)
		},
	}}
	go func() { m.done <- n.Run(ctx) }()
	f.nodes[name] = m
	return m
}

// fresh starts nodes that found a cluster together, and waits until they are ready.
func (f *flock) fresh(names ...string) []*member {
	f.Helper()
	var members []*member
	for i, name := range names {
		members = append(members, f.start(name, ip(i+1), func(c *config.Cluster) {
			c.Join, c.BootstrapExpect = seeds(len(names)), len(names)
		}))
	}
	f.ready(members...)
	return members
}

func ip(i int) string { return fmt.Sprintf("10.0.0.%d", i) }

func seeds(n int) []string {
	var s []string
	for i := range n {
		s = append(s, ip(i+1)+":7946")
	}
	return s
}

// eventually polls on virtual time.
func (f *flock) eventually(within time.Duration, what string, check func() error) {
	f.Helper()
	f.eventuallyEvery(100*time.Millisecond, within, what, check)
}

// eventuallyEvery polls at an interval.
func (f *flock) eventuallyEvery(interval, within time.Duration, what string, check func() error) {
	f.Helper()
	var err error
	for start := time.Now(); time.Since(start) < within; {
		if err = check(); err == nil {
			return
		}
		<-time.After(interval)
	}
	f.Fatalf("%s: not within %s: %v", what, within, err)
}

func (f *flock) ready(members ...*member) {
	f.Helper()
	for _, m := range members {
		f.eventually(time.Minute, m.name+" ready", m.Node.ready)
	}
}

// halt stops a node in order.
func (m *member) halt() {
	m.flock.Helper()
	m.stop()
	if err := <-m.done; err != nil {
		m.flock.Errorf("%s ended with %v", m.name, err)
	}
	delete(m.flock.nodes, m.name)
}

// crash cuts a node off before it can say anything, and then stops it.
func (m *member) crash() {
	m.flock.net.Down(m.ip)
	m.stop()
	if err := <-m.done; err != nil {
		m.flock.Logf("%s ended with %v", m.name, err)
	}
	delete(m.flock.nodes, m.name)
	m.flock.net.Up(m.ip)
}

func (f *flock) stopAll() {
	for _, m := range f.nodes {
		m.stop()
	}
	for _, m := range f.nodes {
		if err := <-m.done; err != nil {
			f.Errorf("%s ended with %v", m.name, err)
		}
	}
	<-time.After(f.linger)
}

// write sends one sample per value, at the present time, and returns the status.
func (m *member) write(metric string, values ...float64) int {
	m.flock.Helper()
	return m.writeAt(metric, time.Now(), values...)
}

func (m *member) writeAt(metric string, at time.Time, values ...float64) int {
	m.flock.Helper()
	var req prompb.WriteRequest
	for i, v := range values {
		req.Timeseries = append(req.Timeseries, prompb.TimeSeries{
			Labels:  []prompb.Label{{Name: "__name__", Value: metric}, {Name: "i", Value: strconv.Itoa(i)}},
			Samples: []prompb.Sample{{Timestamp: at.UnixMilli(), Value: v}},
		})
	}
	body, err := req.Marshal()
	if err != nil {
		m.flock.Fatal(err)
	}
	resp, err := m.http.Post("http://"+m.ip+":9080/api/v1/write", "application/x-protobuf", bytes.NewReader(snappy.Encode(nil, body)))
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode
}

// answer is what the query API says.
type answer struct {
	code     int
	values   map[string]string // by label i
	warnings []string
	text     string
}

func (m *member) query(expr string, params ...string) answer {
	m.flock.Helper()
	form := url.Values{"query": {expr}}
	for i := 0; i+1 < len(params); i += 2 {
		form.Set(params[i], params[i+1])
	}
	a := m.get("/api/v1/query?" + form.Encode())
	var body struct {
		Data struct {
			Result []struct {
				Metric map[string]string
				Value  [2]any
			}
		}
		Warnings []string
	}
	if a.code != http.StatusOK {
		return a
	}
	if err := json.Unmarshal([]byte(a.text), &body); err != nil {
		m.flock.Fatalf("%s: %v in %q", expr, err, a.text)
	}
	a.warnings = body.Warnings
	a.values = map[string]string{}
	for _, r := range body.Data.Result {
		a.values[r.Metric["i"]] = fmt.Sprint(r.Value[1])
	}
	return a
}

func (m *member) get(path string) answer { return read(m.http.Get("http://" + m.ip + ":9080" + path)) }

// post sends a command as JSON.
func (m *member) post(path, body string) answer {
	return read(m.http.Post("http://"+m.ip+":9080"+path, "application/json", strings.NewReader(body)))
}

func read(resp *http.Response, err error) answer {
	if err != nil {
		return answer{text: err.Error()}
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return answer{text: err.Error()}
	}
	return answer{code: resp.StatusCode, text: strings.TrimSpace(string(b))}
}
