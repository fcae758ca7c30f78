package node

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/starling-tsdb/starling/internal/api"
	"github.com/starling-tsdb/starling/internal/border/bordertest"
	"github.com/starling-tsdb/starling/internal/config"
	"github.com/starling-tsdb/starling/internal/keyring"
)

// gossipKey is a key of gossip, the n-th.
func gossipKey(n byte) []byte { return bytes.Repeat([]byte{n}, 32) }

// keyed is a change of the settings that gives a node a file of keys.
func (f *flock) keyed(keys ...[]byte) func(*config.Cluster) {
	f.Helper()
	var texts []string
	for _, k := range keys {
		texts = append(texts, base64.StdEncoding.EncodeToString(k))
	}
	b, err := json.Marshal(texts)
	if err != nil {
		f.Fatal(err)
	}
	path := filepath.Join(f.TempDir(), "keyring.json")
	bordertest.Write(f, map[string][]byte{path: b})
	return func(c *config.Cluster) { c.GossipKeyringFile = path }
}

// keys changes the keys by a node, as an operator does; with a key, its fingerprint is sent but
// by add.
func (m *member) keys(op string, key []byte) (answer, api.KeyringStatus) {
	m.flock.Helper()
	var a answer
	switch op {
	case "list":
		a = m.get("/api/v1/cluster/keyring")
	case "add":
		a = m.post("/api/v1/cluster/keyring/add", fmt.Sprintf(`{"key":%q}`, base64.StdEncoding.EncodeToString(key)))
	default:
		a = m.post("/api/v1/cluster/keyring/"+op, fmt.Sprintf(`{"fingerprint":%q}`, keyring.Fingerprint(key)))
	}
	var body struct{ Data api.KeyringStatus }
	if a.code == 200 {
		if err := json.Unmarshal([]byte(a.text), &body); err != nil {
			m.flock.Fatal(err)
		}
	}
	if key != nil && strings.Contains(a.text, base64.StdEncoding.EncodeToString(key)) {
		m.flock.Errorf("%s: the answer has the key in it", op)
	}
	return a, body.Data
}

// wantKeys has an operation end like this on all nodes: these keys, the first one in use.
func (m *member) wantKeys(op string, key []byte, keys ...[]byte) {
	m.flock.Helper()
	a, status := m.keys(op, key)
	if a.code != 200 {
		m.flock.Fatalf("%s: %d %s", op, a.code, a.text)
	}
	var want []string
	for _, k := range keys {
		want = append(want, keyring.Fingerprint(k))
	}
	for _, n := range status.Nodes {
		if n.Error != "" || !slices.Equal(n.Keys, want) {
			m.flock.Errorf("%s: %s has %v %s, want %v", op, n.Name, n.Keys, n.Error, want)
		}
	}
}

// allSeen waits until all nodes see all others alive.
func (f *flock) allSeen(m []*member) {
	f.Helper()
	f.eventually(time.Minute, "all see all", func() error {
		for _, at := range m {
			if missing := at.missing(); len(missing) > 0 {
				return fmt.Errorf("%s lacks %v", at.name, missing)
			}
		}
		return nil
	})
}

// logBuffer takes the lines of several nodes.
type logBuffer struct {
	mu  sync.Mutex
	log bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.log.Write(p)
}

func (b *logBuffer) text() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.log.String()
}

// Everything at once: TLS, encrypted gossip and allowed networks, with a restart, all certificates
// replaced by those of another authority and the key of gossip rotated, while the cluster serves.
func TestSecuredCluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		var logs logBuffer
		f.logger = slog.New(slog.NewTextHandler(&logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
		first, second := bordertest.NewAuthority(t, "first"), bordertest.NewAuthority(t, "second")
		old, young := gossipKey(1), gossipKey(2)
		settings := map[string]config.Cluster{}
		m := f.secured(func(ip string, c *config.Cluster) {
			f.equipped(first, "starling.internal", "starling.internal")(c)
			f.keyed(old)(c)
			c.AllowedCIDRs = []string{"10.0.0.0/24"}
			settings[ip] = *c
		})
		n := 0
		serves := func(when string) {
			t.Helper()
			n++
			for _, from := range m {
				if code := from.write("m", float64(n)); code != 204 {
					t.Errorf("%s: write to %s: %d", when, from.name, code)
				}
				if a := from.query("m"); a.code != 200 || a.values["0"] != fmt.Sprint(n) {
					t.Errorf("%s: query of %s: %d %v %s", when, from.name, a.code, a.values, a.text)
				}
				<-time.After(10 * time.Millisecond)
			}
		}
		restart := func(i int) {
			t.Helper()
			m[i].halt()
			serving := slices.Concat(m[:i], m[i+1:])
			for _, from := range serving {
				if code := from.write("meanwhile", 1); code != 204 {
					t.Errorf("write to %s while another restarts: %d", from.name, code)
				}
			}
			m[i] = f.start(m[i].name, m[i].ip, func(c *config.Cluster) { *c = settings[m[i].ip]; c.AdvertiseHost = m[i].ip })
			f.ready(m[i])
		}
		serves("at first")
		m[0].wantKeys("list", nil, old)
		m[0].wantKeys("add", young, old, young)
		serves("key added")
		m[1].wantKeys("use", young, young, old)
		serves("key in use")
		restart(2)
		f.allSeen(m)
		serves("after a restart")
		m[2].wantKeys("remove", old, young)
		serves("key removed")

		for _, step := range []struct {
			when    string
			by      *bordertest.Authority
			trusted []*bordertest.Authority
		}{
			{"both authorities trusted", first, []*bordertest.Authority{first, second}},
			{"certificates of the second", second, []*bordertest.Authority{first, second}},
			{"the second alone trusted", second, []*bordertest.Authority{second}},
		} {
			for _, at := range m {
				f.reissue(settings[at.ip].TLS, step.by, []string{"starling.internal"}, step.trusted...)
				<-time.After(30 * time.Second)
				serves(step.when + " on " + at.name)
			}
		}
		restart(0)
		f.allSeen(m)
		serves("at last")
		f.caughtUp(time.Minute)
		for _, at := range m {
			said := logs.text() + at.get("/metrics").text + at.get("/api/v1/status/flags").text + at.get("/api/v1/cluster").text + at.get("/api/v1/cluster/keyring").text
			if !strings.Contains(said, keyring.Fingerprint(young)) {
				t.Errorf("%s does not speak of its key", at.name)
			}
			for _, key := range [][]byte{old, young} {
				for _, form := range []string{base64.StdEncoding.EncodeToString(key), hex.EncodeToString(key), string(key), fmt.Sprint(key)} {
					if strings.Contains(said, form) {
						t.Errorf("%s has told a key", at.name)
					}
				}
			}
		}
	})
}

// Gossip with another key, or in clear, is neither heard nor answered; a key that was removed opens nothing any more.
func TestIntrudersOfEncryptedGossip(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		ours := bordertest.NewAuthority(t, "ours")
		old, young := gossipKey(1), gossipKey(2)
		m := f.secured(func(ip string, c *config.Cluster) {
			f.equipped(ours, "", ip)(c)
			f.keyed(old)(c)
		})
		gossiper{flock: f, ip: stranger, label: "starling"}.wantNothing("in clear", m)
		gossiper{flock: f, ip: stranger, label: "starling", key: young}.wantNothing("with another key", m)
		gossiper{flock: f, ip: stranger, key: old}.wantNothing("with the key and without the label", m)
		gossiper{flock: f, ip: stranger, label: "sparrow", key: old}.wantNothing("with the key and another label", m)
		holder := gossiper{flock: f, ip: stranger, label: "starling", key: old}
		holder.wantAll("with the key", m)
		f.eventually(time.Minute, "the intruder is gone", func() error {
			for _, at := range m {
				if state := at.stateOf(intruderID); state == "alive" {
					return fmt.Errorf("%s has it", at.name)
				}
			}
			return nil
		})
		m[0].wantKeys("add", young, old, young)
		m[0].wantKeys("use", young, young, old)
		m[0].wantKeys("remove", old, young)
		holder.wantNothing("with the key that was removed", m)
	})
}

// What would cut a node off is refused, and changes nothing.
func TestKeyringRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		ours := bordertest.NewAuthority(t, "ours")
		old, young := gossipKey(1), gossipKey(2)
		settings := map[string]config.Cluster{}
		m := f.secured(func(ip string, c *config.Cluster) {
			f.equipped(ours, "", ip)(c)
			f.keyed(old)(c)
			settings[ip] = *c
		})
		refused := func(op string, key []byte, want string) {
			t.Helper()
			if a, _ := m[0].keys(op, key); a.code != 409 || !strings.Contains(a.text, want) {
				t.Errorf("%s: %d %s, want 409 and %q", op, a.code, a.text, want)
			}
			for _, at := range []*member{m[0], m[1]} {
				if got := at.keyring.Fingerprints(); got[0] != keyring.Fingerprint(old) {
					t.Errorf("%s: %s has %v", op, at.name, got)
				}
			}
		}
		refused("use", young, "lacks the key")
		refused("remove", old, "encrypts with the key")
		refused("remove", young, "no node has a key")

		m[2].halt()
		a, status := m[0].keys("add", young)
		if a.code != 200 || len(status.Nodes) != 3 || !slices.ContainsFunc(status.Nodes, func(n api.KeyringNode) bool { return n.Error != "" && n.ID != "" }) {
			t.Errorf("add with one node down: %d %s", a.code, a.text)
		}
		refused("use", young, "cannot be asked for its keys")
		m[2] = f.start("c", ip(3), func(c *config.Cluster) { *c = settings[ip(3)]; c.AdvertiseHost = ip(3) })
		f.ready(m[2])
		f.allSeen(m)
		<-time.After(time.Second) // the next attempt to connect
		refused("use", young, "lacks the key")
		m[1].wantKeys("add", young, old, young)
		m[1].wantKeys("use", young, young, old)
	})
}

// Without TLS between nodes keys do not travel, and without a keyring there are none.
func TestKeyringNeedsTLS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		m := f.secured(func(_ string, c *config.Cluster) { f.keyed(gossipKey(1))(c) })
		for _, op := range []string{"list", "add", "use", "remove"} {
			if a, _ := m[0].keys(op, gossipKey(2)); a.code != 409 || !strings.Contains(a.text, "keys do not travel in clear") {
				t.Errorf("%s: %d %s", op, a.code, a.text)
			}
		}
	})
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		ours := bordertest.NewAuthority(t, "ours")
		m := f.secured(func(ip string, c *config.Cluster) { f.equipped(ours, "", ip)(c) })
		if a, _ := m[0].keys("list", nil); a.code != 409 || !strings.Contains(a.text, "--cluster.gossip-keyring-file is not set") {
			t.Errorf("%d %s", a.code, a.text)
		}
	})
}

// No error about a file of keys has a key in it.
func TestBadKeyringFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "nothing")
	c := config.Default()
	c.Cluster.GossipKeyringFile = path
	secret := base64.StdEncoding.EncodeToString(gossipKey(3))
	for _, content := range []string{fmt.Sprintf("[%q, \"short\"]", secret), secret, "[" + secret} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		n := &Node{opts: Options{Config: c}}
		err := n.openKeyring()
		if err == nil || !strings.Contains(err.Error(), "--cluster.gossip-keyring-file") || strings.Contains(err.Error(), secret) {
			t.Errorf("opened %d bytes: %v", len(content), err)
		}
	}
}
