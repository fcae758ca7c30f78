package node

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/starling-tsdb/starling/internal/config"
)

// TestDamagedNodeDoesNotVote overwrites the middle of one node's log. The node starts and
// says what is damaged; nobody misses anything while the others are there; and when one of
// them is gone, no node takes the damaged one's word for a complete answer.
func TestDamagedNodeDoesNotVote(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		m := f.fresh("a", "b", "c")
		for i := range 20 {
			if code := m[0].write(fmt.Sprint("m", i), float64(i)); code != http.StatusNoContent {
				t.Fatalf("write: %d", code)
			}
		}
		m[2].halt()
		log := filepath.Join(f.dir, "c", "wal", "00000000")
		b, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		clear(b[300:800])
		if err := os.WriteFile(log, b, 0o666); err != nil {
			t.Fatal(err)
		}
		m[2] = f.start("c", ip(3), func(c *config.Cluster) { c.Join = seeds(3) })
		f.ready(m...)
		if got := m[2].get("/api/v1/cluster"); !strings.Contains(got.text, `"damage":[{`) || !strings.Contains(got.text, `"name":"wal/00000000"`) {
			t.Errorf("the cluster's status does not tell of the damage: %s", got.text)
		}
		if got := m[2].get("/metrics"); !strings.Contains(got.text, `starling_storage_damaged_ranges{suspect="false"} 1`) {
			t.Error("the metrics do not tell of the damage")
		}
		for _, reader := range m {
			f.eventually(time.Second, "answers without the damaged node", func() error {
				if got := reader.query(`count({__name__=~"m.*"})`); got.values[""] != "20" || len(got.warnings) > 0 {
					return fmt.Errorf("%s answers %+v", reader.name, got)
				}
				return nil
			})
		}
		m[0].crash()
		for _, reader := range m[1:] {
			if got := reader.query(`count({__name__=~"m.*"})`); got.code != http.StatusServiceUnavailable {
				t.Errorf("%s answers %+v with one intact node, want 503", reader.name, got)
			}
		}
	})
}
