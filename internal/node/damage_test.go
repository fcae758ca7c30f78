package node

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestDamageIsMadeGood overwrites the middle of one node's log. The node starts and says what is
// damaged; as long as another one is gone, no node takes the damaged one's word for a complete
// answer; and when all are there it is made good, and as good as any other.
func TestDamageIsMadeGood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		m := f.fresh("a", "b", "c")
		for i := range 20 {
			if code := m[0].write(fmt.Sprint("m", i), float64(i)); code != http.StatusNoContent {
				t.Fatalf("write: %d", code)
			}
		}
		m[2].halt()
		m[0].crash()
		log := filepath.Join(f.dir, "c", "wal", "00000000")
		b, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		clear(b[300:800])
		if err := os.WriteFile(log, b, 0o666); err != nil {
			t.Fatal(err)
		}
		m[2] = f.start("c", ip(3), join(3))
		f.ready(m[1:]...)
		<-time.After(time.Minute)
		if got := m[2].get("/api/v1/cluster"); !strings.Contains(got.text, `"damage":[{`) || !strings.Contains(got.text, `"name":"wal/00000000"`) {
			t.Errorf("the cluster's status does not tell of the damage: %s", got.text)
		}
		if got := m[2].get("/metrics"); !strings.Contains(got.text, `starling_storage_damaged_ranges{suspect="false"} 1`) {
			t.Error("the metrics do not tell of the damage")
		}
		for _, reader := range m[1:] {
			if got := reader.query(`count({__name__=~"m.*"})`); got.code != http.StatusServiceUnavailable {
				t.Errorf("%s answers %+v with one intact node, want 503", reader.name, got)
			}
		}
		m[0] = f.start("a", ip(1), join(3))
		f.ready(m...)
		f.eventually(3*time.Minute, "the damage is made good", m[2].whole)
		f.caughtUp(time.Minute)
		m[1].crash()
		for _, reader := range []*member{m[0], m[2]} {
			f.eventually(time.Minute, "answers with the one that was damaged", func() error {
				if got := reader.query(`count({__name__=~"m.*"})`); got.values[""] != "20" || len(got.warnings) > 0 {
					return fmt.Errorf("%s answers %+v", reader.name, got)
				}
				return nil
			})
		}
	})
}

// whole tells what is damaged.
func (m *member) whole() error {
	if rs := m.store.Damage(); len(rs) > 0 {
		return fmt.Errorf("damage %v", rs)
	}
	return nil
}

// TestAcknowledgedIsAnsweredAfterDamage is TestAcknowledgedIsAnswered with logs that are damaged
// while their nodes are down.
func TestAcknowledgedIsAnsweredAfterDamage(t *testing.T) {
	for seed := range faultSeeds(t, 5) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				h := newHistory(t, uint64(seed))
				h.damaging = true
				h.run()
			})
		})
	}
}

// damage clears some bytes in a log of a node that is down, unless another one is not whole
// again: what is acknowledged survives the loss of one copy.
func (h *history) damage(m *member) {
	if last := h.nodes[h.damaged]; h.damaged != "" && h.damaged != m.name && (last == nil || last.whole() != nil) {
		return
	}
	segments, err := filepath.Glob(filepath.Join(h.dir, m.name, "w[ab]l", "0*"))
	if err != nil || len(segments) == 0 {
		h.Fatalf("logs of %s: %v, %v", m.name, segments, err)
	}
	log := segments[h.rng.IntN(len(segments))]
	b, err := os.ReadFile(log)
	if err != nil {
		h.Fatal(err)
	}
	// Not the end: nobody can tell that from what a crash has torn off.
	const hole = 20
	written := len(bytes.TrimRight(b, "\x00"))
	if written < 8*hole {
		return
	}
	at := h.rng.IntN(written/2 - hole)
	clear(b[at : at+hole])
	if err := os.WriteFile(log, b, 0o666); err != nil {
		h.Fatal(err)
	}
	h.damaged = m.name
	h.damages++
}
