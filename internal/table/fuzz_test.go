package table

import (
	"encoding/json"
	"testing"
)

// FuzzApply: any sequence of commands leaves a valid table, which never goes back.
func FuzzApply(f *testing.F) {
	f.Add([]byte(`[{"kind":"found","clusterId":"c","replicationFactor":3,"founders":[{"node":"a"}]},{"kind":"join","member":{"node":"b","zone":"z"}},
		{"kind":"admit","nodes":["b"]},{"kind":"mark-written"},{"kind":"join","member":{"node":"b"}}]`))
	f.Add([]byte(`[{"kind":"found","clusterId":"c","replicationFactor":-1,"founders":[{"node":""}]},{"kind":"join"},{"kind":"move"}]`))
	f.Add([]byte(`[{"kind":"found","clusterId":"c","replicationFactor":1,"founders":[{"node":"a"},{"node":"a"}]}]`))
	f.Fuzz(func(t *testing.T, script []byte) {
		var commands []Command
		if json.Unmarshal(script, &commands) != nil {
			return
		}
		var now *Table
		for _, c := range commands {
			next, err := Apply(now, c)
			if err != nil {
				continue
			}
			if err := next.Validate(); err != nil {
				t.Fatalf("%+v made of %+v: %v", c, now, err)
			}
			if now != nil && next != now && (next.Epoch != now.Epoch+1 || next.ClusterID != now.ClusterID) {
				t.Fatalf("%+v made %+v of %+v", c, next, now)
			}
			now = next
		}
	})
}
