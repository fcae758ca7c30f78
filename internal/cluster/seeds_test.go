package cluster

import (
	"slices"
	"testing"
)

func TestSeedsWithoutAPort(t *testing.T) {
	c := Config{GossipBind: ":7999", Find: Find{Join: []string{"node-1", "node-2:8000", "10.0.0.1", "fd00::2", "[fd00::3]", "[fd00::4]:1"}}}
	got, err := c.seeds()
	want := []string{"node-1:7999", "node-2:8000", "10.0.0.1:7999", "[fd00::2]:7999", "[fd00::3]:7999", "[fd00::4]:1"}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("seeds %q, %v; want %q", got, err, want)
	}
	for _, wrong := range []string{"node-1:", "node-1:x", ":"} {
		c.Find.Join = []string{wrong}
		if got, err := c.seeds(); err == nil {
			t.Errorf("%q became %q", wrong, got)
		}
	}
}
