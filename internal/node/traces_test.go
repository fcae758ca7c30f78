package node

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// recorded keeps the spans of several nodes. It implements sdktrace.SpanProcessor.
type recorded struct {
	mu sync.Mutex
	// open are those that have begun and not ended, by name.
	open  map[trace.SpanID]string
	ended []sdktrace.ReadOnlySpan
}

func (r *recorded) OnStart(_ context.Context, s sdktrace.ReadWriteSpan) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.open[s.SpanContext().SpanID()] = s.Name()
}

func (r *recorded) OnEnd(s sdktrace.ReadOnlySpan) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.open, s.SpanContext().SpanID())
	r.ended = append(r.ended, s)
}

func (*recorded) ForceFlush(context.Context) error { return nil }
func (*recorded) Shutdown(context.Context) error   { return nil }

// of returns the spans of a trace in the order in which they began, and checks that all have ended.
func (r *recorded) of(t *testing.T, id string) []sdktrace.ReadOnlySpan {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.open) > 0 {
		t.Errorf("spans have not ended: %v", r.open)
	}
	spans := slices.DeleteFunc(slices.Clone(r.ended), func(s sdktrace.ReadOnlySpan) bool { return s.SpanContext().TraceID().String() != id })
	slices.SortStableFunc(spans, func(a, b sdktrace.ReadOnlySpan) int { return a.StartTime().Compare(b.StartTime()) })
	return spans
}

func attributeOf(s sdktrace.ReadOnlySpan, key string) (attribute.Value, bool) {
	for _, a := range s.Attributes() {
		if string(a.Key) == key {
			return a.Value, true
		}
	}
	return attribute.Value{}, false
}

func numberOf(s sdktrace.ReadOnlySpan, key string) (int64, bool) {
	v, ok := attributeOf(s, key)
	return v.AsInt64(), ok
}

// told is what a test compares of a span: counts as they are, and of what depends on where the
// series lie that it is there.
func told(s sdktrace.ReadOnlySpan, names map[string]string) string {
	node, _ := s.Resource().Set().Value("service.instance.id")
	text := s.Name() + " @" + names[node.AsString()]
	for _, key := range []string{"peer", "lacking"} {
		if v, ok := attributeOf(s, "starling."+key); ok {
			text += " " + key + "=" + names[v.AsString()]
		}
	}
	read, _ := numberOf(s, "starling.series.read")
	for _, key := range []string{"http.response.status_code", "starling.series", "starling.samples", "starling.owners", "starling.fragments", "starling.pushed", "starling.selector", "starling.fragment", "starling.outcome"} {
		if v, ok := attributeOf(s, key); ok && (read == 0 || v.Type() != attribute.INT64) {
			text += fmt.Sprintf(" %s=%s", key[strings.LastIndexByte(key, '.')+1:], v.String())
		}
	}
	if samples, ok := numberOf(s, "starling.samples"); ok && read > 0 && samples > read {
		text += " with samples"
	}
	if n, _ := numberOf(s, "starling.bytes"); n > 0 {
		text += " with bytes"
	}
	if s.Status().Code == codes.Error {
		text += " FAILED"
	}
	return text
}

// tree renders what is below a span, children by their texts.
func tree(spans []sdktrace.ReadOnlySpan, parent trace.SpanID, names map[string]string, indent string) string {
	var children []string
	for _, s := range spans {
		if s.Parent().SpanID() == parent {
			children = append(children, indent+told(s, names)+"\n"+tree(spans, s.SpanContext().SpanID(), names, indent+"  "))
		}
	}
	slices.Sort(children)
	return strings.Join(children, "")
}

// client is the span that requests come with.
const client = "00f067aa0ba902b7"

// sampled has all requests of a client come with a span, of a trace.
func (m *member) sampled(id string) {
	transport := m.http.Transport
	m.http.Transport = roundTrip(func(r *http.Request) (*http.Response, error) {
		r = r.Clone(r.Context())
		r.Header.Set("traceparent", "00-"+id+"-"+client+"-01")
		return transport.RoundTrip(r)
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

// RoundTrip implements http.RoundTripper.
func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// checkTree compares the spans of a trace: one tree, below the client's span.
func checkTree(t *testing.T, r *recorded, id string, names map[string]string, want string) {
	t.Helper()
	spans := r.of(t, id)
	from, err := trace.SpanIDFromHex(client)
	if err != nil {
		t.Fatal(err)
	}
	got := tree(spans, from, names, "")
	if got != want {
		t.Errorf("trace %s is\n%s\nand should be\n%s", id, got, want)
	}
	if n := strings.Count(got, "\n"); n != len(spans) {
		t.Errorf("%d of %d spans are below the client's", n, len(spans))
	}
}

func tracedFlock(t *testing.T, nearbyWork int) (*recorded, []*member, map[string]string) {
	t.Helper()
	f := newFlock(t)
	f.nearbyWork = nearbyWork
	r := &recorded{open: map[trace.SpanID]string{}}
	f.spans = r
	m := f.fresh("a", "b", "c")
	names := map[string]string{}
	for _, n := range m {
		names[string(n.cluster.Self())] = n.name
	}
	return r, m, names
}

const (
	writeTrace = "0af7651916cd43dd8448eb211c80319c"
	queryTrace = "4bf92f3577b34da6a3ce929d0e0e4736"
)

// TestTraces: a write and a query that come with a sampled span can be followed from the front door
// to every replica.
func TestTraces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, m, names := tracedFlock(t, -1)
		for i := range 20 {
			if code := m[0].writeAt("m", time.Now().Add(time.Duration(i-20)*10*time.Second), make([]float64, 100)...); code != http.StatusNoContent {
				t.Fatal(code)
			}
		}
		m[0].flock.caughtUp(time.Minute)
		if n := len(r.ended); n > 0 {
			t.Errorf("%d spans of requests that were not sampled: %s", n, r.ended[0].Name())
		}

		m[0].sampled(writeTrace)
		if code := m[0].write("m", make([]float64, 100)...); code != http.StatusNoContent {
			t.Fatal(code)
		}
		<-time.After(time.Second)
		checkTree(t, r, writeTrace, names, `POST /api/v1/write @a status_code=204
  decode @a series=100 samples=100
  write @a series=100 samples=100 outcome=written
    append @a peer=a series=100 samples=100 outcome=confirmed
      store @a series=100 samples=100
        sync @a
    append @a peer=b series=100 samples=100 outcome=confirmed with bytes
      starling.peer.v1.Peer/Append @b
        store @b series=100 samples=100
          sync @b
    append @a peer=c series=100 samples=100 outcome=confirmed with bytes
      starling.peer.v1.Peer/Append @c
        store @c series=100 samples=100
          sync @c
    plan @a owners=3
`)

		m[1].sampled(queryTrace)
		if a := m[1].query("sum(rate(m[5m])) + on () group_left () quantile(0.5, m @ end())"); a.code != http.StatusOK {
			t.Fatal(a)
		}
		<-time.After(time.Second)
		checkTree(t, r, queryTrace, names, `GET /api/v1/query @b status_code=200
  query @b series=1 samples=2200 fragments=1
    fragment @b series=1 samples=2100 pushed=true fragment=sum(rate(m[5m])) outcome=parts
      evaluate @b
        ask @b peer=a outcome=answered with samples with bytes
          starling.peer.v1.Peer/Evaluate @a with samples
        ask @b peer=b outcome=answered with samples
        ask @b peer=c outcome=answered with samples with bytes
          starling.peer.v1.Peer/Evaluate @c with samples
        prove @b
          ask @b peer=a outcome=answered
            starling.peer.v1.Peer/State @a
          ask @b peer=b outcome=answered
          ask @b peer=c outcome=answered
            starling.peer.v1.Peer/State @c
    select @b selector=m
      ask @b peer=a outcome=answered with samples with bytes
        starling.peer.v1.Peer/Select @a with samples
      ask @b peer=b outcome=answered with samples
      ask @b peer=c outcome=answered with samples with bytes
        starling.peer.v1.Peer/Select @c with samples
      prove @b
        ask @b peer=a outcome=answered
          starling.peer.v1.Peer/State @a
        ask @b peer=b outcome=answered
        ask @b peer=c outcome=answered
          starling.peer.v1.Peer/State @c
`)
		// Each of 100 series was read once for the fragment and once as stored.
		var series, samples int64
		for _, s := range r.of(t, queryTrace) {
			if s.Name() == "ask" {
				read, _ := numberOf(s, "starling.series.read")
				looked, _ := numberOf(s, "starling.samples")
				series, samples = series+read, samples+looked
			}
		}
		if series != 200 || samples != 4200 {
			t.Errorf("the owners' spans say %d series and %d samples", series, samples)
		}
	})
}

// TestTracesOfFewSeries: it shows that the node which is asked answered alone, or tried to.
func TestTracesOfFewSeries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, m, names := tracedFlock(t, 12)
		for metric, n := range map[string]int{"few": 3, "many": 60} {
			if code := m[0].write(metric, make([]float64, n)...); code != http.StatusNoContent {
				t.Fatal(code)
			}
		}
		m[0].flock.caughtUp(time.Minute)
		m[1].sampled(queryTrace)
		if a := m[1].query("few"); a.code != http.StatusOK {
			t.Fatal(a)
		}
		m[2].sampled(writeTrace)
		if a := m[2].query("many"); a.code != http.StatusOK {
			t.Fatal(a)
		}
		<-time.After(time.Second)
		asked := func(id string) (text string) {
			for _, s := range r.of(t, id) {
				if _, proving := numberOf(s, "starling.series.read"); proving || s.Status().Code == codes.Error || s.Name() == "ask" && strings.Contains(told(s, names), "divided") {
					text += told(s, names) + "\n"
				}
			}
			return text
		}
		if got, want := asked(queryTrace), "ask @b peer=b outcome=answered\n"; got != want {
			t.Errorf("few series:\n%s\nand should be\n%s", got, want)
		}
		got := strings.Split(asked(writeTrace), "\n")
		if len(got) < 2 || got[0] != "ask @c peer=c outcome=divided" || strings.Contains(strings.Join(got, ""), "FAILED") {
			t.Errorf("many series:\n%s", strings.Join(got, "\n"))
		}
	})
}

// TestTracesOfDeadReplicas: what a node that is gone was asked says so, and who notes what it lacks.
func TestTracesOfDeadReplicas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, m, names := tracedFlock(t, -1)
		m[2].crash()
		m[0].sampled(writeTrace)
		if code := m[0].write("m", make([]float64, 100)...); code != http.StatusNoContent {
			t.Fatal(code)
		}
		<-time.After(20 * time.Second)
		checkTree(t, r, writeTrace, names, `POST /api/v1/write @a status_code=204
  decode @a series=100 samples=100
  write @a series=100 samples=100 outcome=written
    append @a peer=a series=100 samples=100 outcome=confirmed
      store @a series=100 samples=100
        sync @a
    append @a peer=b series=100 samples=100 outcome=confirmed with bytes
      starling.peer.v1.Peer/Append @b
        store @b series=100 samples=100
          sync @b
    append @a peer=c series=100 samples=100 outcome=failed FAILED
    note gap @a peer=a lacking=c
    note gap @a peer=b lacking=c
      starling.peer.v1.Peer/Note @b
    plan @a owners=3
`)

		m[1].sampled(queryTrace)
		if a := m[1].query("sum(m)"); a.code != http.StatusOK {
			t.Fatal(a)
		}
		<-time.After(20 * time.Second)
		checkTree(t, r, queryTrace, names, `GET /api/v1/query @b status_code=200
  query @b series=1 samples=100 fragments=1
    fragment @b series=1 samples=100 pushed=true fragment=sum(m) outcome=parts
      evaluate @b
        ask @b peer=a outcome=answered with bytes
          starling.peer.v1.Peer/Evaluate @a
        ask @b peer=b outcome=answered
        prove @b
          ask @b peer=a outcome=answered
            starling.peer.v1.Peer/State @a
          ask @b peer=b outcome=answered
          ask @b peer=c outcome=failed FAILED
`)
	})
}

// TestTracesOfWholeFragments: a part of a query that its owners do not evaluate says why.
func TestTracesOfWholeFragments(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, m, _ := tracedFlock(t, -1)
		for i, n := range m {
			if err := n.gaps.Note(t.Context(), m[(i+1)%3].cluster.Self(), 0); err != nil {
				t.Fatal(err)
			}
		}
		m[0].sampled(queryTrace)
		if a := m[0].query("sum(m)"); a.code != http.StatusOK {
			t.Fatal(a)
		}
		<-time.After(time.Second)
		for _, s := range r.of(t, queryTrace) {
			pushed, isFragment := attributeOf(s, "starling.pushed")
			if reason, _ := attributeOf(s, "starling.reason"); isFragment && !pushed.AsBool() && strings.Contains(reason.AsString(), "known to hold all of it") {
				return
			}
		}
		t.Errorf("no span says that the fragment was not pushed, and why: %d spans", len(r.of(t, queryTrace)))
	})
}
