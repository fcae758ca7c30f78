package node

import (
	"bytes"
	"cmp"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/starling-tsdb/starling/internal/border/bordertest"
	"github.com/starling-tsdb/starling/internal/cluster"
	"github.com/starling-tsdb/starling/internal/config"
	"github.com/starling-tsdb/starling/internal/table"
)

// gossiper is somebody who speaks memberlist's protocol, with this label and key; no key is
// gossip in clear.
type gossiper struct {
	*flock
	ip    string
	label string
	key   []byte
	// claims is where it says that it is, its own address if it is empty.
	claims string
}

// intruderID is what a gossiper says that it is.
const intruderID = "01INTRUDER"

// meta is what it says of itself.
type meta struct{ memberlist.Delegate }

func (meta) NodeMeta(int) []byte                 { return []byte(`{"n":"intruder","r":9081,"h":2}`) }
func (meta) NotifyMsg([]byte)                    {}
func (meta) GetBroadcasts(int, int) [][]byte     { return nil }
func (meta) LocalState(bool) []byte              { return nil }
func (meta) MergeRemoteState(buf []byte, _ bool) {}

// join tries to become a member of the gossip, by a node. It returns how many others it hears of, and
// whether the node lists it.
func (g gossiper) join(at *member) (heard int, listed bool) {
	g.Helper()
	conf := memberlist.DefaultLANConfig()
	conf.Name, conf.Label, conf.Delegate = intruderID+"-1", g.label, meta{}
	conf.LogOutput = io.Discard
	conf.Transport = g.net.Host(g.ip).GossipTransport(7946)
	conf.AdvertiseAddr, conf.AdvertisePort = cmp.Or(g.claims, g.ip), 7946
	conf.TCPTimeout = time.Second
	if g.key != nil {
		var err error
		if conf.Keyring, err = memberlist.NewKeyring(nil, g.key); err != nil {
			g.Fatal(err)
		}
	}
	list, err := memberlist.Create(conf)
	if err != nil {
		g.Fatal(err)
	}
	defer func() {
		if err := list.Shutdown(); err != nil {
			g.Error(err)
		}
	}()
	_, _ = list.Join([]string{at.ip + ":7946"})
	<-time.After(time.Second)
	return list.NumMembers() - 1, slices.ContainsFunc(at.cluster.Members(), func(m cluster.Member) bool { return m.ID == intruderID })
}

// sealed is a packet as memberlist sends it.
func (g gossiper) sealed(plain []byte) []byte {
	g.Helper()
	packet := plain
	if g.key != nil {
		block, err := aes.NewCipher(g.key)
		if err != nil {
			g.Fatal(err)
		}
		gcm, err := cipher.NewGCM(block)
		if err != nil {
			g.Fatal(err)
		}
		nonce := make([]byte, gcm.NonceSize())
		_, _ = rand.Read(nonce)
		packet = slices.Concat([]byte{1}, nonce, gcm.Seal(nil, nonce, plain, []byte(g.label)))
	}
	if g.label == "" {
		return packet
	}
	return slices.Concat([]byte{244, byte(len(g.label))}, []byte(g.label), packet)
}

// dead is memberlist's message that a node is.
func dead(gossipName string) []byte {
	const deadMsg = 5
	text := func(s string) []byte { return append([]byte{0xa0 | byte(len(s))}, s...) }
	b := bytes.NewBuffer([]byte{deadMsg, 0x83})
	b.Write(text("Incarnation"))
	b.Write(binary.BigEndian.AppendUint32([]byte{0xce}, 1000))
	b.Write(text("Node"))
	b.Write(text(gossipName))
	b.Write(text("From"))
	b.Write(text(intruderID))
	return b.Bytes()
}

// say sends a packet to a node.
func (g gossiper) say(to *member, packet []byte) {
	g.Helper()
	t := g.net.Host(g.ip).GossipTransport(7946)
	defer func() { _ = t.Shutdown() }()
	if _, err := t.WriteTo(packet, to.ip+":7946"); err != nil {
		g.Error(err)
	}
	<-time.After(10 * time.Millisecond)
}

// evict tells one node that another is dead, and whether it believes that for a moment.
func (g gossiper) evict(whom, at *member) bool {
	g.Helper()
	g.say(at, g.sealed(dead(fmt.Sprintf("%s-%d", whom.cluster.Self(), whom.cluster.Starts()))))
	for range 50 {
		if at.stateOf(whom.cluster.Self()) != cluster.Alive {
			return true
		}
		<-time.After(5 * time.Millisecond)
	}
	return false
}

// stateOf is what gossip says of a node, on m.
func (m *member) stateOf(id table.NodeID) cluster.MemberState {
	for _, other := range m.cluster.Members() {
		if other.ID == id {
			return other.State
		}
	}
	return ""
}

func (g gossiper) wantNothing(what string, m []*member) {
	g.Helper()
	if heard, listed := g.join(m[0]); heard > 0 || listed {
		g.Errorf("%s: heard of %d nodes, listed: %v", what, heard, listed)
	}
	if g.evict(m[2], m[0]) {
		g.Errorf("%s: %s took %s for dead", what, m[0].name, m[2].name)
	}
}

// wantAll is the control of wantNothing. What a gossiper can do is to be listed and to have
// somebody look dead until that node contradicts: it gets no slot, and takes none.
func (g gossiper) wantAll(what string, m []*member) {
	g.Helper()
	epoch := m[0].placed.Load().table.Epoch
	if !g.evict(m[2], m[0]) {
		g.Errorf("%s: %s did not take %s for dead", what, m[0].name, m[2].name)
	}
	g.eventually(10*time.Second, m[2].name+" is alive again", func() error {
		if state := m[0].stateOf(m[2].cluster.Self()); state != cluster.Alive {
			return fmt.Errorf("it is %s", state)
		}
		return nil
	})
	if heard, listed := g.join(m[0]); heard != len(m) || !listed {
		g.Errorf("%s: heard of %d nodes, listed: %v", what, heard, listed)
	}
	if now := m[0].placed.Load().table; now.Epoch != epoch || now.Member(intruderID) {
		g.Errorf("%s: the table has changed", what)
	}
}

// Gossip with another label, or none, is not heard.
func TestIntrudersOfGossip(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		m := f.secured(func(string, *config.Cluster) {})
		gossiper{flock: f, ip: stranger}.wantNothing("without a label", m)
		gossiper{flock: f, ip: stranger, label: "sparrow"}.wantNothing("with another label", m)
		gossiper{flock: f, ip: stranger, label: "starling", key: make([]byte, 32)}.wantNothing("with a key where there is none", m)
		gossiper{flock: f, ip: stranger, label: "starling"}.wantAll("with the label", m)
	})
}

// Who is outside of the networks of a cluster is heard neither by gossip nor at the port for
// peers; who is inside is.
func TestIntrudersFromOutside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		m := f.secured(func(_ string, c *config.Cluster) { c.AllowedCIDRs = []string{"fd00::/8", "::ffff:10.0.0.0/120"} })
		i := f.intruder(m[1])
		i.by(f.net.Host(stranger).Dial).wantNothing("from outside", m[0])
		gossiper{flock: f, ip: stranger, label: "starling"}.wantNothing("from outside", m)
		i.by(f.net.Host("10.0.0.99").Dial).wantAll("from inside", m[0])
		gossiper{flock: f, ip: "10.0.0.99", label: "starling"}.wantAll("from inside", m)
	})
}

// A whole node that starts outside does not join, and one inside does.
func TestNodeOutsideDoesNotJoin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		m := f.secured(func(_ string, c *config.Cluster) { c.AllowedCIDRs = []string{"10.0.0.0/24"} })
		d := f.start("d", stranger, func(c *config.Cluster) { join(3)(c); c.BootstrapExpect = 0 })
		<-time.After(time.Minute)
		for _, at := range m {
			if state := at.stateOf(d.cluster.Self()); state != "" {
				t.Errorf("%s knows %s: %s", at.name, d.name, state)
			}
		}
		d.halt()
		inside := f.start("e", "10.0.0.4", func(c *config.Cluster) {
			join(3)(c)
			c.BootstrapExpect, c.AllowedCIDRs = 0, []string{"10.0.0.0/24"}
		})
		f.ready(inside)
	})
}

// A node says once for each port, when it starts, that it is open at a public address.
func TestWarnsAtPublicAddresses(t *testing.T) {
	for _, c := range []struct {
		ip                string
		tls, keys         bool
		wantTLS, wantKeys int
	}{
		{"10.1.2.3", false, false, 0, 0},
		{"fd12::1", false, false, 0, 0},
		{"127.0.0.1", false, false, 0, 0},
		{"fe80::1", false, false, 0, 0},
		{"192.0.2.1", false, false, 1, 1},
		{"2001:db8::1", false, false, 1, 1},
		{"192.0.2.1", true, false, 0, 1},
		{"192.0.2.1", false, true, 1, 0},
		{"192.0.2.1", true, true, 0, 0},
	} {
		t.Run(fmt.Sprint(c), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFlock(t)
				var logs logBuffer
				f.logger = slog.New(slog.NewTextHandler(&logs, &slog.HandlerOptions{Level: slog.LevelWarn}))
				f.ready(f.start("a", c.ip, func(to *config.Cluster) {
					if c.tls {
						f.equipped(bordertest.NewAuthority(t, "ours"), "", c.ip)(to)
					}
					if c.keys {
						f.keyed(gossipKey(1))(to)
					}
				}))
				<-time.After(2 * time.Minute)
				for text, want := range map[string]int{"a public address without TLS": c.wantTLS, "a public address by gossip in clear": c.wantKeys} {
					if got := strings.Count(logs.text(), text); got != want {
						t.Errorf("%d warnings of %s, want %d", got, text, want)
					}
				}
			})
		})
	}
}
