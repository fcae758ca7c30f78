package node

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/starling-tsdb/starling/internal/border/bordertest"
	"github.com/starling-tsdb/starling/internal/cluster"
	"github.com/starling-tsdb/starling/internal/config"
)

// recorder keeps what it sees on the way.
type recorder struct {
	mu      sync.Mutex
	packets []recordedPacket
	streams []*recordedStream
}

type recordedPacket struct {
	to     string
	packet []byte
}

// recordedStream is what one connection carried to an address.
type recordedStream struct {
	net.Conn
	to   string
	mu   *sync.Mutex
	sent bytes.Buffer
}

func (s *recordedStream) Write(b []byte) (int, error) {
	s.mu.Lock()
	s.sent.Write(b)
	s.mu.Unlock()
	return s.Conn.Write(b)
}

func (r *recorder) packet(to string, b []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.packets = append(r.packets, recordedPacket{to, b})
}

func (r *recorder) stream(address string, conn net.Conn) net.Conn {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := &recordedStream{Conn: conn, to: address, mu: &r.mu}
	r.streams = append(r.streams, s)
	return s
}

// soFar are the packets until now.
func (r *recorder) soFar() []recordedPacket {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.packets[:len(r.packets):len(r.packets)]
}

// replayPackets sends packets again, to whom they were sent.
func (f *flock) replayPackets(packets []recordedPacket) {
	f.Helper()
	t := f.net.Host(stranger).GossipTransport(7946)
	defer func() { _ = t.Shutdown() }()
	for i, p := range packets {
		if _, err := t.WriteTo(p.packet, p.to); err != nil {
			f.Error(err)
		}
		if i%100 == 99 {
			<-time.After(10 * time.Millisecond) // no queue overflows
		}
	}
	<-time.After(100 * time.Millisecond)
}

// All gossip of the past, sent again, evicts nobody who has restarted since: a node has another name with
// each start. A node that is down for longer can be made to look alive, until it does not answer: nothing but
// views depend on that. The table never changes.
func TestReplayedGossip(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		rec := &recorder{}
		f.net.Watch(rec.packet)
		ours := bordertest.NewAuthority(t, "ours")
		settings := map[string]config.Cluster{}
		m := f.secured(func(ip string, c *config.Cluster) {
			f.equipped(ours, "", ip)(c)
			f.keyed(gossipKey(1))(c)
			settings[ip] = *c
		})
		again := func() *member {
			t.Helper()
			c := f.start("c", ip(3), func(c *config.Cluster) { *c = settings[ip(3)]; c.AdvertiseHost = ip(3) })
			f.ready(c)
			return c
		}
		<-time.After(5 * time.Minute)
		m[2].halt() // it says good-bye
		<-time.After(time.Second)
		m[2] = again()
		f.allSeen(m)
		m[2].crash() // its death is spoken of
		f.eventually(time.Minute, "c is dead", func() error {
			if m[0].stateOf(m[2].cluster.Self()) == cluster.Alive {
				return fmt.Errorf("it is alive")
			}
			return nil
		})
		m[2] = again()
		f.allSeen(m)
		epoch, starts := m[0].placed.Load().table.Epoch, m[2].cluster.Starts()

		past := rec.soFar()
		f.replayPackets(past)
		for range 200 {
			for _, at := range m {
				if missing := at.missing(); len(missing) > 0 {
					t.Fatalf("after the replay %s lacks %v", at.name, missing)
				}
			}
			<-time.After(50 * time.Millisecond)
		}
		if now := m[0].placed.Load().table; now.Epoch != epoch || m[2].cluster.Starts() != starts {
			t.Errorf("epoch %d, start %d, before the replay %d, %d", now.Epoch, m[2].cluster.Starts(), epoch, starts)
		}

		id, alive := m[2].cluster.Self(), rec.soFar()
		m[2].crash()
		<-time.After(10 * time.Minute) // it is forgotten by memberlist
		f.replayPackets(alive)         // but for those that speak of its death
		resurrected := m[0].stateOf(id) == cluster.Alive
		if !resurrected {
			t.Error("nothing came of the replay: were the packets heard?")
		}
		if code := m[0].write("secret", 43); code != 204 {
			t.Errorf("write while a node looks alive: %d", code)
		}
		f.eventually(2*time.Minute, "c does not look alive any more", func() error {
			for _, at := range m[:2] {
				if state := at.stateOf(id); state == cluster.Alive {
					return fmt.Errorf("%s has it as %s", at.name, state)
				}
			}
			return nil
		})
		if now := m[0].placed.Load().table; now.Epoch != epoch {
			t.Errorf("the table has changed: epoch %d, before %d", now.Epoch, epoch)
		}
	})
}

// served counts the streams of appends that have ended on a node.
func (m *member) served() float64 {
	m.flock.Helper()
	families, err := m.registry.Gather()
	if err != nil {
		m.flock.Fatal(err)
	}
	n := 0.0
	for _, family := range families {
		if family.GetName() != "starling_peer_served_requests_total" {
			continue
		}
		for _, metric := range family.GetMetric() {
			for _, l := range metric.GetLabel() {
				if l.GetName() == "method" && strings.HasSuffix(l.GetValue(), "/Write") {
					n += metric.GetCounter().GetValue()
				}
			}
		}
	}
	return n
}

// Connections sent again byte by byte open nothing with TLS. Without it the appends in them are taken, and are the
// duplicates that they are.
func TestReplayedAppends(t *testing.T) {
	for _, secured := range []bool{false, true} {
		t.Run(fmt.Sprintf("TLS %v", secured), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFlock(t)
				rec := &recorder{}
				f.tap = rec.stream
				ours := bordertest.NewAuthority(t, "ours")
				m := f.secured(func(ip string, c *config.Cluster) {
					if secured {
						f.equipped(ours, "", ip)(c)
					}
				})
				for i := range 5 {
					if code := m[0].write("m", float64(i)); code != 204 {
						t.Fatalf("write: %d", code)
					}
					<-time.After(time.Second)
				}
				f.caughtUp(time.Minute)
				epoch, before, served := m[0].placed.Load().table.Epoch, m[1].holds(), m[1].served()
				f.replayStreams(rec, m[1].ip+":9081")
				if got := m[1].served() - served; (got > 0) == secured {
					t.Errorf("%v streams of appends were taken from the replay", got)
				}
				if after := m[1].holds(); !maps.Equal(before, after) {
					t.Errorf("holds %v, before the replay %v", after, before)
				}
				if a := m[1].query("m"); a.values["0"] != "4" {
					t.Errorf("query: %v %s", a.values, a.text)
				}
				if now := m[0].placed.Load().table.Epoch; now != epoch {
					t.Errorf("epoch %d, before the replay %d", now, epoch)
				}
				f.caughtUp(time.Minute)
			})
		})
	}
}

// replayStreams opens each connection to an address again, and sends what it had carried.
func (f *flock) replayStreams(r *recorder, to string) {
	f.Helper()
	r.mu.Lock()
	var contents [][]byte
	for _, s := range r.streams {
		if s.to == to {
			contents = append(contents, bytes.Clone(s.sent.Bytes()))
		}
	}
	r.mu.Unlock()
	if len(contents) == 0 {
		f.Fatal("nothing was recorded")
	}
	for _, b := range contents {
		conn, err := f.net.Host(stranger).Dial(f.Context(), to)
		if err != nil {
			f.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(2 * time.Second))
		_, _ = conn.Write(b)
		_, _ = io.Copy(io.Discard, conn)
		_ = conn.Close()
	}
	<-time.After(time.Second)
}
