package node

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"
)

// A peer that hangs costs the writes of series that it owns the grace, those of others
// nothing, and the coordinator no more memory than may be on its way to one peer.
func TestHungPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		m := f.fresh("a", "b", "c", "d")
		m[0].write("warm", 1)
		hung, rest := m[3], m[:3]
		apart := metricOwnedBy(m[0], rest)
		shared := metricOwnedBy(m[0], []*member{m[0], m[1], hung})
		m[0].write(apart, 1)
		m[0].write(shared, 1)
		f.net.Partition([]string{ip(1), ip(2), ip(3)}, []string{ip(4)})

		for range 20 {
			if took := timed(t, m[0], apart); took > 10*time.Millisecond {
				t.Errorf("a write that does not need the hung peer took %s", took)
			}
			if took := timed(t, m[0], shared); took > writeGrace+10*time.Millisecond {
				t.Errorf("a write that shares an owner with the hung peer took %s, want the grace of %s at most", took, writeGrace)
			}
		}
	})
}

// A peer that is only slow is noted until it has confirmed, and nothing is handed off.
func TestSlowPeerIsHandedNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		m := f.fresh("a", "b", "c")
		m[0].write("m", 1)
		f.caughtUp(time.Minute)
		at := time.Now()
		for i := range 5 {
			f.net.Partition([]string{ip(1), ip(2)}, []string{ip(3)})
			if code := m[0].writeAt("m", at.Add(time.Duration(i)*time.Second), 2); code != http.StatusNoContent {
				t.Fatalf("write: %d", code)
			}
			for _, up := range m[:2] {
				if noted := up.gaps.Noted(); len(noted) != 1 || !noted[0].Late || noted[0].Peer != m[2].cluster.Self() {
					t.Errorf("%s notes %v, want that c is late", up.name, noted)
				}
			}
			f.net.Heal()
			time.Sleep(500 * time.Millisecond)
			for _, up := range m[:2] {
				if noted := up.gaps.Noted(); len(noted) != 0 {
					t.Errorf("%s notes %v, though c has confirmed", up.name, noted)
				}
			}
		}
		if held := m[2].holds(); len(held) != 6 {
			t.Errorf("c holds %d samples, want 6", len(held))
		}
		for _, up := range m {
			if n := up.metric(t, "starling_handoff_given_samples_total"); n != 0 {
				t.Errorf("%s handed off %v samples, though nobody missed any", up.name, n)
			}
		}
		if n := m[0].metric(t, "starling_ingest_gap_notes_total", "withdrawn"); n != 10 {
			t.Errorf("%v notes were withdrawn, want 10", n)
		}
	})
}

// timed writes one sample and returns how long the answer took.
func timed(t *testing.T, m *member, metric string) time.Duration {
	t.Helper()
	start := time.Now()
	if code := m.write(metric, float64(start.UnixNano())); code != http.StatusNoContent {
		t.Fatalf("write of %s with a hung peer: %d", metric, code)
	}
	return time.Since(start)
}

// What is on its way to a peer that hangs stays under its limit, whatever is written, and
// is given up when the time for a write is over.
func TestHungPeerHoldsBoundedMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		m := f.fresh("a", "b", "c")
		m[0].write("warm", 1)
		f.net.Partition([]string{ip(1), ip(2)}, []string{ip(3)})
		var highest float64
		for i := range 10 {
			if code := m[0].writeLarge(t, i); code != http.StatusNoContent {
				t.Fatalf("write %d with a hung peer: %d", i, code)
			}
			highest = max(highest, m[0].metric(t, "starling_peer_inflight_bytes"))
		}
		t.Logf("at most %.0f bytes were on their way", highest)
		if highest < peerInFlightBytes/2 || highest > peerInFlightBytes {
			t.Errorf("%.0f bytes were on their way to the hung peer, at most %d may be", highest, peerInFlightBytes)
		}
		f.eventually(2*writeTimeout, "nothing on its way", func() error {
			if m[0].metric(t, "starling_peer_inflight_bytes") > 0 {
				return errors.New("still on its way")
			}
			return nil
		})
	})
}

// writeLarge writes 10 MB of series that nobody else writes.
func (m *member) writeLarge(t *testing.T, n int) int {
	t.Helper()
	var req prompb.WriteRequest
	for i := range 500 {
		req.Timeseries = append(req.Timeseries, prompb.TimeSeries{
			Labels: []prompb.Label{
				{Name: "__name__", Value: "large"}, {Name: "x", Value: fmt.Sprintf("%d-%d-%020000d", n, i, 0)},
			},
			Samples: []prompb.Sample{{Timestamp: time.Now().UnixMilli(), Value: 1}},
		})
	}
	body, err := req.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	resp, err := m.http.Post("http://"+m.ip+":9080/api/v1/write", "application/x-protobuf", bytes.NewReader(snappy.Encode(nil, body)))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}
