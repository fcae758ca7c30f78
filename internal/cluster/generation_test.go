package cluster

import (
	"context"
	"errors"
	"strings"
	"testing"
)

// The streams of Raft keep generations apart, as does whoever may change the table.
func TestGenerationsDoNotTalk(t *testing.T) {
	inMoves(t, 3, func(m *moves) {
		m.lose(1, 2)
		after, err := m.recover(3)
		if err != nil {
			m.end()
			m.Fatal(err)
		}
		n := m.node(3)
		line := streamHello + n.c.clusterID() + " x " + string(n.c.Self())
		if _, err := n.c.streams.check(line); err == nil || !strings.Contains(err.Error(), "generation") {
			m.Errorf("a stream of the old generation: %v", err)
		}
		if _, err := n.c.streams.check(line + " " + after.Recovery().ID); err != nil {
			m.Errorf("a stream of this generation: %v", err)
		}
		old := ""
		_, err = n.c.answer(context.Background(), request{Cluster: n.c.clusterID(), From: "x", To: n.c.Self(), Recovery: &old, Op: opPropose, Body: []byte(`{"kind":"pause"}`)})
		if !errors.Is(err, errGeneration) {
			m.Errorf("a command from the old generation: %v", err)
		}
	})
}
