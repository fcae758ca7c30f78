package node

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/starling-tsdb/starling/internal/api"
	"github.com/starling-tsdb/starling/internal/cluster"
	"github.com/starling-tsdb/starling/internal/config"
	"github.com/starling-tsdb/starling/internal/table"
)

// recover has the cluster recovered from a node as an operator would, over HTTP.
func (m *member) recover() {
	m.flock.Helper()
	const path = "/api/v1/cluster/recover"
	var shown struct{ Data api.RecoveryPlan }
	m.flock.eventually(2*time.Minute, "a plan to recover", func() error {
		a := m.get(path)
		if a.code != http.StatusOK {
			return fmt.Errorf("%d %s", a.code, a.text)
		}
		return json.Unmarshal([]byte(a.text), &shown)
	})
	r := api.RecoveryRequest{Epoch: shown.Data.Epoch}
	for _, n := range shown.Data.Survivors {
		r.Survivors = append(r.Survivors, n.ID)
	}
	body, err := json.Marshal(r)
	if err != nil {
		m.flock.Fatal(err)
	}
	resp, err := m.http.Post("http://"+m.ip+":9080"+path, "application/json", strings.NewReader(string(body)))
	if err != nil {
		m.flock.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		m.flock.Fatalf("recover: %d", resp.StatusCode)
	}
}

// feed sends a sample to each of some series, and returns how many were acknowledged.
func (m *member) feed(acked map[string]float64, value float64) (n int) {
	m.flock.Helper()
	for i := range 20 {
		metric := fmt.Sprintf("m%d", i)
		if code := m.write(metric, value); code == http.StatusNoContent {
			acked[metric] = value
			n++
		} else if code != http.StatusServiceUnavailable {
			m.flock.Errorf("write: %d", code)
		}
	}
	return n
}

// answers expects at least what was acknowledged, and nothing that was not sent.
func (m *member) answers(acked map[string]float64, sent float64) {
	m.flock.Helper()
	for metric, value := range acked {
		var at float64
		a := m.query("last_over_time(" + metric + "[1h])")
		if _, err := fmt.Sscan(a.values["0"], &at); a.code != http.StatusOK || err != nil || at < value || at > sent {
			m.flock.Errorf("%s answers %+v for %s, %v was acknowledged and %v sent", m.name, a, metric, value, sent)
		}
	}
}

// Three of five nodes are lost. What is left takes what it can, goes on without the others when an
// operator says so, and is whole again when they come back after all: nothing is missing then,
// and nodes come and go.
func TestRecoverAndComeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		members := f.fresh("n0", "n1", "n2", "n3", "n4")
		f.settled(5)
		acked := map[string]float64{}
		if n := members[0].feed(acked, 1); n != 20 {
			t.Fatalf("%d of 20 writes are acknowledged", n)
		}
		for _, m := range members[:3] {
			m.crash()
		}
		members[4].feed(acked, 2)
		members[3].recover()
		f.eventually(time.Minute, "both survivors go on", func() error {
			for _, m := range members[3:] {
				if g := table.Generation(m.placed.Load().table.Epoch); g != 1 {
					return fmt.Errorf("%s is in generation %d", m.name, g)
				}
			}
			return nil
		})
		if n := members[4].feed(acked, 3); n == 0 || n == 20 {
			t.Errorf("%d of 20 writes are acknowledged by two of five nodes", n)
		}
		sent := 3.0
		for _, i := range []int{2, 0, 1} {
			members[i] = f.start(fmt.Sprintf("n%d", i), ip(i+1), func(c *config.Cluster) { c.Join = seeds(5) })
			f.ready(members[i])
			sent++
			members[4].feed(acked, sent)
		}
		f.settled(5)
		f.start("n5", ip(6), func(c *config.Cluster) { c.Join = seeds(5) })
		f.settled(6)
		sent++
		if n := members[0].feed(acked, sent); n != 20 {
			t.Errorf("%d of 20 writes are acknowledged in the end", n)
		}
		for _, m := range f.nodes {
			m.answers(acked, sent)
		}
	})
}

// Those who were taken for lost lived and changed the table: they serve nobody when they hear of
// the others, and nobody counts them.
func TestApartServesNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		members := f.fresh("n0", "n1", "n2")
		f.settled(3)
		acked := map[string]float64{}
		members[0].feed(acked, 1)
		f.net.Partition([]string{members[2].ip}, []string{members[0].ip, members[1].ip})
		members[0].propose(table.Command{Kind: table.Pause})
		members[2].recover()
		f.net.Heal()
		for _, m := range members[:2] {
			f.eventually(time.Minute, m.name+" is apart", func() error {
				if a := m.get("/-/ready"); a.code != http.StatusServiceUnavailable || !strings.Contains(a.text, "recovered without this node") {
					return fmt.Errorf("%d %s", a.code, a.text)
				}
				return nil
			})
			if code := m.write("m0", 9); code != http.StatusServiceUnavailable {
				t.Errorf("%s answers a write with %d", m.name, code)
			}
			if a := m.query("m0"); a.code != http.StatusServiceUnavailable {
				t.Errorf("%s answers a query with %d", m.name, a.code)
			}
			if a := m.get("/api/v1/cluster"); !strings.Contains(a.text, `"apart":"the cluster was recovered`) {
				t.Errorf("the status of %s says nothing of it: %s", m.name, a.text)
			}
			if a := m.get("/api/v1/cluster/recover"); a.code != http.StatusConflict {
				t.Errorf("%s would recover: %d %s", m.name, a.code, a.text)
			}
		}
		f.eventually(time.Minute, "who is apart is seen", func() error {
			for _, m := range members[2].cluster.Members() {
				if m.ID == members[0].cluster.Self() && m.State != cluster.Alive {
					return fmt.Errorf("%s is %s", m.Name, m.State)
				}
			}
			return nil
		})
		if a := members[2].query("m0"); a.code != http.StatusServiceUnavailable {
			t.Errorf("one of three owners answers alone: %+v", a)
		}
		if code := members[2].write("m0", 9); code != http.StatusServiceUnavailable {
			t.Errorf("one of three owners confirms alone: %d", code)
		}
	})
}

// left is what nodes hold of a metric: how many samples, and how many of them were acknowledged.
func left(members []*member, metric string, acked ...map[string]float64) (held, safe int) {
	values := map[string]bool{}
	for _, m := range members {
		for sample := range m.holds() {
			if words := strings.Fields(sample); strings.HasPrefix(sample, metric+"{") {
				values[words[2]] = true
			}
		}
	}
	for _, round := range acked {
		if value, ok := round[metric]; ok && values[fmt.Sprint(value)] {
			safe++
		}
	}
	return len(values), safe
}

// Most of the nodes are lost for good, and the operator accepts what that means: whatever the
// others hold of what was acknowledged is answered, nothing is invented, and the cluster is
// whole again.
func TestAcceptedLoss(t *testing.T) {
	for _, c := range []struct{ nodes, lost, copies int }{{3, 2, 3}, {5, 3, 3}, {2, 1, 1}, {3, 1, 2}, {6, 4, 5}} {
		t.Run(fmt.Sprintf("%d of %d with %d copies", c.lost, c.nodes, c.copies), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { acceptLoss(t, c.nodes, c.lost, c.copies) })
		})
	}
}

func acceptLoss(t *testing.T, nodes, lost, copies int) {
	f := newFlock(t)
	var members []*member
	for i := range nodes {
		members = append(members, f.start(fmt.Sprintf("n%d", i), ip(i+1), func(c *config.Cluster) {
			c.Join, c.BootstrapExpect, c.ReplicationFactor = seeds(nodes), nodes, copies
		}))
	}
	f.ready(members...)
	f.settled(nodes)
	first, second := map[string]float64{}, map[string]float64{}
	members[0].feed(first, 1)
	// From here on one of those that stay misses what the others acknowledge.
	last := members[nodes-1]
	var others []string
	for _, m := range members[:nodes-1] {
		others = append(others, m.ip)
	}
	f.net.Partition([]string{last.ip}, others)
	members[0].feed(second, 2)
	for _, m := range members[:lost] {
		m.crash()
	}
	f.net.Heal()
	stay := members[lost:]
	if 2*lost >= nodes {
		stay[0].recover()
	}
	gone := table.Command{Kind: table.Remove, AcceptLoss: true}
	for _, m := range members[:lost] {
		gone.Nodes = append(gone.Nodes, m.cluster.Self())
	}
	held, safe, some := map[string]int{}, map[string]int{}, 0
	for i := range 20 {
		metric := fmt.Sprintf("m%d", i)
		held[metric], safe[metric] = left(stay, metric, first, second)
		some += safe[metric]
	}
	if some == 0 || len(first) != 20 {
		t.Fatalf("%d series were written, and %d samples that were acknowledged are left: nothing is tested", len(first), some)
	}
	stay[0].propose(gone)
	f.settled(nodes - lost)
	whole := func(m *member, more int) {
		t.Helper()
		for metric, n := range held {
			a := m.query("count_over_time(" + metric + "[1h])")
			got := 0
			_, _ = fmt.Sscan(a.values["0"], &got) // nothing is none
			if a.code != http.StatusOK || got < safe[metric]+more || got > n+more {
				t.Errorf("%s answers %+v for %s, of which %d samples were left, %d of them acknowledged, and %d written since", m.name, a, metric, n, safe[metric], more)
			}
		}
	}
	for _, m := range stay {
		whole(m, 0)
	}
	if n := stay[0].feed(map[string]float64{}, 3); n != 20 {
		t.Errorf("%d of 20 writes are acknowledged in the end", n)
	}
	stay = append(stay, f.start("fresh", ip(nodes+1), func(c *config.Cluster) { c.Join = seeds(nodes) }))
	f.settled(nodes - lost + 1)
	for _, m := range stay {
		whole(m, 1)
	}
}
