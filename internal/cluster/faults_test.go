package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/starling-tsdb/starling/internal/statefile"
	"github.com/starling-tsdb/starling/internal/table"
)

func TestOtherClusterNameIsRefused(t *testing.T) {
	inWorld(t, func(w *world) {
		n := w.start("one", ip(1), nil)
		stranger := w.start("two", ip(2), func(c *Config) { c.ClusterName, c.Find.Join = "other", seeds(1) })
		w.eventually(time.Minute, "the refusal is logged", func() bool {
			return n.logs.has("level=WARN", "--cluster.name differs", "theirs=other", "ours=test", ip(2))
		})
		w.eventually(time.Minute, "the refused node says what may be wrong", func() bool {
			return stranger.logs.has("is its --cluster.name", "other")
		})
		time.Sleep(5 * time.Minute)
		if len(n.c.Members()) != 1 || stranger.c.Table() != nil {
			w.Errorf("members %v", states(n.c.Members()))
		}
		if lines := strings.Count(n.logs.String(), "--cluster.name differs"); lines > 12 {
			w.Errorf("the refusal was logged %d times in five minutes", lines)
		}
	})
}

func TestOtherClusterIDIsRefused(t *testing.T) {
	inWorld(t, func(w *world) {
		a := w.start("one", ip(1), nil)
		b := w.start("two", ip(2), nil)
		w.eventually(time.Minute, "two clusters", func() bool { return a.c.Table() != nil && b.c.Table() != nil })
		b.stop()
		b = w.start("two", ip(2), func(c *Config) { c.Find.Join = seeds(1) })
		time.Sleep(time.Minute)
		for _, n := range w.nodes {
			if len(n.c.Members()) != 1 || len(n.c.Table().Nodes()) != 1 {
				w.Errorf("%s: members %v, table %+v", n.name, states(n.c.Members()), n.c.Table())
			}
			if !n.logs.has("level=WARN", "another cluster ID", a.c.Table().ClusterID, b.c.Table().ClusterID) {
				w.Errorf("%s does not say which clusters met", n.name)
			}
		}
		// A request, a Raft stream and a table of the other cluster are refused as well.
		err := b.c.call(context.Background(), a.c.Self(), fmt.Sprintf("%s:%d", a.ip, rpcPort), opStatus, struct{}{}, &status{})
		if !errors.Is(err, ErrForeign) {
			w.Errorf("request to the other cluster: %v", err)
		}
		if _, err := a.c.streams.check(streamHello + b.c.clusterID() + " x " + string(a.c.Self())); err == nil {
			w.Error("a Raft stream of the other cluster was accepted")
		}
		if _, err := a.c.streams.check(streamHello + a.c.clusterID() + " x y"); err == nil {
			w.Error("a Raft stream for another node was accepted")
		}
		if err := a.c.Learn(b.c.Table()); !errors.Is(err, ErrForeign) {
			w.Errorf("learn the other cluster's table: %v", err)
		}
	})
}

// TestCrashesWhileFounding kills and restarts nodes at random moments around the
// founding, with cuts between them, and expects one cluster in the end.
func TestCrashesWhileFounding(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			inWorld(t, func(w *world) {
				rng := rand.New(rand.NewPCG(seed, 3))
				begin := func(name, ip string) {
					w.start(name, ip, func(c *Config) { c.Find.Join, c.Find.BootstrapExpect = seeds(1, 2, 3, 4), 3 })
				}
				for i := 1; i <= 3+int(seed%2); i++ {
					begin(nodeName(i), ip(i))
					time.Sleep(time.Duration(rng.IntN(1500)) * time.Millisecond)
				}
				for range 8 {
					time.Sleep(time.Duration(rng.IntN(1200)) * time.Millisecond)
					if rng.IntN(3) == 0 {
						w.net.Partition([]string{ip(1), ip(2)}, []string{ip(3), ip(4)})
						time.Sleep(time.Duration(rng.IntN(3000)) * time.Millisecond)
						w.net.Heal()
					}
					n := w.nodes[rng.IntN(len(w.nodes))]
					n.crash()
					begin(n.name, n.ip)
				}
				w.agree(2*time.Minute, len(w.nodes))
			})
		})
	}
}

// TestTableNeverGoesBack restarts nodes again and again while the table changes. Adopt
// checks each step; here each start has to begin where the last one ended.
func TestTableNeverGoesBack(t *testing.T) {
	inWorld(t, func(w *world) {
		w.together(3)
		w.agree(30*time.Second, 3)
		for i := 4; i <= 6; i++ {
			w.begin(i, 0)
			w.agree(30*time.Second, i)
			n := w.nodes[i%3]
			n.crash()
			before := n.c.Table().Epoch
			back := w.start(n.name, n.ip, func(c *Config) { c.Find.Join = seeds(1, 2, 3) })
			if got := back.c.Table(); got == nil || got.Epoch < before {
				w.Errorf("%s starts with %+v, it had adopted epoch %d", n.name, got, before)
			}
			w.agree(30*time.Second, i)
		}
		// Peers hand over tables; older ones are ignored.
		n := w.nodes[0]
		now := n.c.Table()
		old := *now
		old.Epoch, old.Current.Slots = now.Epoch-1, now.Current.Slots[:len(now.Current.Slots)-1]
		if err := n.c.Learn(&old); err != nil || n.c.Table() != now {
			w.Errorf("learn an older table: %v, epoch %d", err, n.c.Table().Epoch)
		}
		bad := *now
		bad.Epoch, bad.Current.ReplicationFactor = now.Epoch+1, -1
		if err := n.c.Learn(&bad); !errors.Is(err, table.ErrInvalid) || n.c.Table() != now {
			w.Errorf("learn an invalid table: %v", err)
		}
	})
}

func TestSnapshotsReachLateNodes(t *testing.T) {
	inWorld(t, func(w *world) {
		w.together(3)
		w.agree(30*time.Second, 3)
		for range 200 {
			w.change(w.nodes[0])
		}
		time.Sleep(10 * time.Minute)
		first, err := w.leader().c.consensus().store.log.FirstIndex()
		if err != nil || first < 50 {
			w.Errorf("the log still begins at %d, %v", first, err)
		}
		n := w.begin(4, 0)
		w.agree(time.Minute, 4)
		w.eventually(time.Minute, "the new node has the state of the snapshot", func() bool {
			t, err := n.c.consensus().fsm.table()
			return err == nil && t != nil && t.Epoch == n.c.Table().Epoch
		})
		n.crash()
		w.start(n.name, n.ip, func(c *Config) { c.Find.Join = seeds(1) })
		w.agree(time.Minute, 4)
	})
}

func TestPacketLoss(t *testing.T) {
	inWorld(t, func(w *world) {
		w.net.SetLoss(0.3, 1)
		w.net.SetLatency(20 * time.Millisecond)
		w.together(3)
		w.agree(2*time.Minute, 3)
	})
}

// broken starts a node on a directory that something happened to, and returns the error.
func (w *world) broken(name string) error {
	cfg := w.config(name, ip(1))
	cfg.GossipTransport = w.net.Host(ip(99)).GossipTransport(0)
	cfg.RaftListener, _ = w.net.Host(ip(99)).Listen(0)
	cfg.Dial, cfg.Caller = w.net.Host(ip(99)).Dial, simCaller{w.net.Host(ip(99))}
	c, err := New(cfg)
	if err == nil {
		c.Close()
	}
	return errors.Join(err, cfg.GossipTransport.Shutdown(), cfg.RaftListener.Close())
}

func TestDamagedDirectories(t *testing.T) {
	flip := func(name string) func(dir string) error {
		return func(dir string) error {
			path := filepath.Join(dir, name)
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			b[len(b)-5] ^= 0x20
			return os.WriteFile(path, b, 0o644)
		}
	}
	remove := func(name string) func(dir string) error {
		return func(dir string) error { return os.RemoveAll(filepath.Join(dir, name)) }
	}
	for _, c := range []struct {
		name   string
		damage func(dir string) error
		want   error
		says   string
	}{
		{"nothing", func(string) error { return nil }, nil, ""},
		{"identity damaged", flip(identityFile), statefile.ErrDamaged, identityFile},
		{"identity lost", remove(identityFile), errLost, identityFile},
		{"founding damaged", flip(foundingFile), statefile.ErrDamaged, foundingFile},
		{"founding lost", remove(foundingFile), errLost, foundingFile},
		{"raft lost", remove(raftDir), errLost, raftDir},
		{"raft log lost", remove(raftDir + "/" + logFile), errLost, raftDir},
		{"raft owner damaged", flip(raftDir + "/" + ownerFile), statefile.ErrDamaged, ownerFile},
		{"raft log damaged", flip(raftDir + "/" + logFile), statefile.ErrDamaged, logFile},
		{"raft log truncated", func(dir string) error {
			return os.Truncate(filepath.Join(dir, raftDir, logFile), 20)
		}, statefile.ErrDamaged, logFile},
		{"table of another cluster", func(dir string) error {
			b, err := table.Encode(tableOf("x", 1, "n"))
			return errors.Join(err, statefile.Replace(filepath.Join(dir, tableFile), b))
		}, errLost, tableFile},
	} {
		t.Run(c.name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				n := w.start("n", ip(1), nil)
				w.eventually(time.Minute, "a table", func() bool { return n.c.Table() != nil })
				time.Sleep(time.Second)
				n.stop()
				if err := c.damage(w.dirs["n"]); err != nil {
					w.Fatal(err)
				}
				err := w.broken("n")
				if !errors.Is(err, c.want) || (err != nil && (!strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "backup"))) {
					w.Errorf("error %v, want %v that names %q and says what to do", err, c.want, c.says)
				}
			})
		})
	}
}

func TestDamagedTableComesBackFromTheLeader(t *testing.T) {
	for _, how := range []string{"damaged", "lost"} {
		t.Run(how, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.together(3)
				w.agree(30*time.Second, 3)
				w.change(w.nodes[0])
				w.agree(30*time.Second, 3)
				n := w.nodes[1]
				n.stop()
				path := filepath.Join(w.dirs[n.name], tableFile)
				if how == "lost" {
					_ = os.Remove(path)
				} else if err := os.Truncate(path, 30); err != nil {
					w.Fatal(err)
				}
				w.net.Partition([]string{n.ip}, []string{w.nodes[0].ip, w.nodes[1].ip})
				back := w.start(n.name, n.ip, func(c *Config) { c.Find.Join = seeds(1, 2, 3) })
				time.Sleep(time.Minute)
				if back.c.Table() != nil {
					w.Errorf("alone, it came to %+v, which may be old", back.c.Table())
				}
				old := *w.nodes[0].c.Table()
				old.Epoch--
				back.c.seat.offer(&old) // as Raft does when it replays
				time.Sleep(time.Second)
				if back.c.Table() != nil {
					w.Errorf("it adopted epoch %d again", old.Epoch)
				}
				if err := back.c.Learn(w.nodes[0].c.Table()); err == nil {
					w.Error("it took its first table from a peer")
				}
				w.net.Heal()
				w.agree(time.Minute, 3)
				for _, tab := range back.adopted {
					if tab.Epoch != 2 {
						w.Errorf("it went through epoch %d again", tab.Epoch)
					}
				}
			})
		})
	}
}

func TestDamagedPeersCostAddressesOnly(t *testing.T) {
	inWorld(t, func(w *world) {
		w.together(3)
		w.agree(30*time.Second, 3)
		n := w.nodes[1]
		n.stop()
		if err := os.Truncate(filepath.Join(w.dirs[n.name], peersFile), 40); err != nil {
			w.Fatal(err)
		}
		n = w.start(n.name, n.ip, func(c *Config) { c.Find.Join = seeds(1, 3) })
		w.agree(time.Minute, 3)
		if !n.logs.has("level=WARN", "remembered peers is damaged") {
			w.Error("the damage is not logged")
		}
	})
}

func TestTwoProcessesOneDirectory(t *testing.T) {
	inWorld(t, func(w *world) {
		w.start("n", ip(1), nil)
		if err := w.broken("n"); err == nil || !strings.Contains(err.Error(), "another process") {
			w.Errorf("second process: %v", err)
		}
	})
}

func TestFoundingIgnoresStrayVouches(t *testing.T) {
	f := &formation{self: "a", expect: 2, newCluster: "c"}
	f.VouchFor, f.Seq = "a", 1
	if a, changed := f.receive("b", vouch{Seq: 4, Withdraw: true, Expect: 2}); !a.Dropped || !changed {
		t.Fatalf("withdrawal: %+v, changed %v", a, changed)
	}
	// The vouch that was withdrawn arrives late, also after a restart.
	f = &formation{self: "a", expect: 2, newCluster: "c", founding: f.founding}
	if a, _ := f.receive("b", vouch{Seq: 4, Expect: 2}); !a.Dropped || !f.fresh() {
		t.Errorf("a stray vouch counted: %+v, cluster %q", a, f.Cluster)
	}
	if a, _ := f.receive("b", vouch{Seq: 5, Expect: 2}); a.Cluster != "c" {
		t.Errorf("a new vouch does not count: %+v", a)
	}
}

func TestMetadataFits(t *testing.T) {
	long := func(n int) string { return strings.Repeat("m", n) }
	m := metadata{
		Cluster: long(26), Zone: long(maxZone), Name: long(maxName), Version: long(maxVersion),
		RPC: 65535, HTTP: 65535, Epoch: 1<<64 - 1, Ready: 1<<64 - 1, Expect: maxExpect, Leaving: true,
	}
	b, err := json.Marshal(m)
	if err != nil || len(b) > 512 {
		t.Errorf("the largest metadata have %d bytes, %v", len(b), err)
	}
}
