package table

import (
	"encoding/json"
	"testing"
)

// FuzzApply: any sequence of commands leaves a sound table, which never goes back.
func FuzzApply(f *testing.F) {
	f.Add([]byte(`[{"kind":"found","clusterId":"c","replicationFactor":3,"founders":[{"node":"a"},{"node":"c"},{"node":"d"}]},
		{"kind":"join","member":{"node":"b","zone":"z"}},{"kind":"advance","epoch":2},{"kind":"join","member":{"node":"e"}},
		{"kind":"replace","nodes":["a","e"],"lost":true},{"kind":"leave","nodes":["c"]},{"kind":"advance","epoch":3},{"kind":"replicate","replicationFactor":2},
		{"kind":"pause"},{"kind":"remove","nodes":["a"]},{"kind":"resume"}]`))
	f.Add([]byte(`[{"kind":"found","clusterId":"c","replicationFactor":-1,"founders":[{"node":""}]},{"kind":"join"},{"kind":"move"}]`))
	f.Add([]byte(`[{"kind":"found","clusterId":"c","replicationFactor":1,"founders":[{"node":"a"},{"node":"a"}]}]`))
	f.Fuzz(func(t *testing.T, script []byte) {
		var commands []Command
		if json.Unmarshal(script, &commands) != nil {
			return
		}
		var now *Table
		lossy := false
		for _, c := range commands {
			lossy = lossy || c.AcceptLoss
			next, err := Apply(now, c)
			if err != nil {
				continue
			}
			if err := checkTable(next, lossy); err != nil {
				t.Fatalf("%s made %s of %s: %v", showCommand(c), show(next), show(now), err)
			}
			if now != nil {
				if err := checkChange(now, next, c); err != nil {
					t.Fatalf("%s made %s of %s: %v", showCommand(c), show(next), show(now), err)
				}
			}
			checkFile(t, next)
			now = next
		}
	})
}
