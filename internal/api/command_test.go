package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/starling-tsdb/starling/internal/table"
)

// fakeAdmin takes commands and remembers the last one.
type fakeAdmin struct {
	err error

	mu       sync.Mutex
	proposed *table.Command
	planned  *table.Command

	recovered *RecoveryRequest
}

func (*fakeAdmin) Members() []NodeStatus {
	return []NodeStatus{
		{ID: "01AA", Name: "host-1", State: "alive"},
		{ID: "01AB", Name: "host-2", State: "dead"},
		{ID: "01BA", Name: "host-2", State: "alive"},
		{ID: "01BB", Name: "host-3", State: "left"},
		{ID: "host", Name: "odd", State: "unknown"},
	}
}

func (f *fakeAdmin) Plan(_ context.Context, c table.Command) (*ClusterPlan, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.planned = &c
	return &ClusterPlan{Epoch: 7, Share: 0.25, Moves: []MovePlan{{From: "01AA", To: "01BA", Share: 0.25}}}, f.err
}

func (f *fakeAdmin) Propose(_ context.Context, c table.Command) (uint64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.proposed = &c
	return 8, f.err
}

func (f *fakeAdmin) PlanRecovery(context.Context) (*RecoveryPlan, error) {
	return &RecoveryPlan{Epoch: 7, Next: 1e9, Survivors: []NamedNode{{ID: "01AA"}}}, f.err
}

func (f *fakeAdmin) Recover(_ context.Context, r RecoveryRequest) (uint64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.recovered = &r
	return 1e9, f.err
}

func (f *fakeAdmin) taken() (proposed, planned *table.Command) {
	f.mu.Lock()
	defer f.mu.Unlock()
	proposed, planned = f.proposed, f.planned
	f.proposed, f.planned = nil, nil
	return proposed, planned
}

func administered(t *testing.T) (*fixture, *fakeAdmin) {
	admin := &fakeAdmin{}
	return newFixture(t, func(o *Options) { o.Admin, o.Recoverer = admin, admin }), admin
}

// post sends a body as JSON, unless the header says otherwise.
func (f *fixture) post(path, body string, header http.Header) response {
	f.t.Helper()
	req, err := http.NewRequestWithContext(f.t.Context(), http.MethodPost, f.url+path, strings.NewReader(body))
	if err != nil {
		f.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	for name, values := range header {
		req.Header[name] = values
	}
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		f.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return response{res.StatusCode, res.Header, string(b), err}
}

func TestCommands(t *testing.T) {
	f, admin := administered(t)
	for _, c := range []struct {
		op, body string
		want     table.Command
	}{
		{"leave", `{"nodes":["01AA"]}`, table.Command{Kind: table.Leave, Nodes: []table.NodeID{"01AA"}}},
		{"leave", `{"nodes":["host-1","01BB"]}`, table.Command{Kind: table.Leave, Nodes: []table.NodeID{"01AA", "01BB"}}},
		{"remove", `{"nodes":["01AB"]}`, table.Command{Kind: table.Remove, Nodes: []table.NodeID{"01AB"}}},
		{"remove", `{"nodes":["host-3"]}`, table.Command{Kind: table.Remove, Nodes: []table.NodeID{"01BB"}}},
		{"remove", `{"nodes":["od"]}`, table.Command{Kind: table.Remove, Nodes: []table.NodeID{"host"}}},
		{"remove", `{"nodes":["01AB"],"acceptLoss":true}`, table.Command{Kind: table.Remove, Nodes: []table.NodeID{"01AB"}, AcceptLoss: true}},
		{"replace", `{"old":"01AB","new":"01BA"}`, table.Command{Kind: table.Replace, Nodes: []table.NodeID{"01AB", "01BA"}, Lost: true}},
		{"replace", `{"old":"host-3","new":"01BA"}`, table.Command{Kind: table.Replace, Nodes: []table.NodeID{"01BB", "01BA"}, Lost: true}},
		{"replace", `{"old":"host","new":"01BA"}`, table.Command{Kind: table.Replace, Nodes: []table.NodeID{"host", "01BA"}, Lost: true}},
		{"replace", `{"old":"host-1","new":"01BA"}`, table.Command{Kind: table.Replace, Nodes: []table.NodeID{"01AA", "01BA"}}},
		{"replace", `{"old":"host-1","new":"01BA","lost":true}`, table.Command{Kind: table.Replace, Nodes: []table.NodeID{"01AA", "01BA"}, Lost: true}},
		{"replace", `{"old":"01AB","new":"01BA","lost":false}`, table.Command{Kind: table.Replace, Nodes: []table.NodeID{"01AB", "01BA"}}},
		{"replication", `{"replicationFactor":2}`, table.Command{Kind: table.Replicate, ReplicationFactor: 2}},
		{"pause", ``, table.Command{Kind: table.Pause}},
		{"resume", `{}`, table.Command{Kind: table.Resume}},
	} {
		t.Run(c.op+c.body, func(t *testing.T) {
			got := f.post("/api/v1/cluster/"+c.op, c.body, nil)
			proposed, planned := admin.taken()
			if got.status != http.StatusOK || string(got.envelope(t).Data) != `{"epoch":8}` || planned != nil || proposed == nil || !reflect.DeepEqual(*proposed, c.want) {
				t.Errorf("%d %s: proposed %+v, want %+v", got.status, got.body, proposed, c.want)
			}
			// The plan takes the same parameters, and changes nothing.
			got = f.post("/prometheus/api/v1/cluster/plan", planBody(t, c.op, c.body), nil)
			proposed, planned = admin.taken()
			if got.status != http.StatusOK || proposed != nil || planned == nil || !reflect.DeepEqual(*planned, c.want) {
				t.Errorf("plan: %d %s: planned %+v, proposed %+v", got.status, got.body, planned, proposed)
			}
		})
	}
}

// planBody is the body of a plan for a command.
func planBody(t *testing.T, op, body string) string {
	t.Helper()
	fields := map[string]any{}
	if body != "" {
		if err := json.Unmarshal([]byte(body), &fields); err != nil {
			t.Fatal(err)
		}
	}
	fields["op"] = op
	b, err := json.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestMalformedCommands(t *testing.T) {
	f, admin := administered(t)
	for _, c := range []struct{ op, body, says string }{
		{"leave", ``, "nodes is missing"},
		{"leave", `{"nodes":[""]}`, "01BB"},
		{"leave", `{"nodes":["01AA","nobody"]}`, `no node is called "nobody"; there are host-1 (01AA, alive), host-2 (01AB, dead)`},
		{"leave", `{"nodes":["host-2"]}`, `"host-2" may be any of host-2 (01AB, dead), host-2 (01BA, alive): name it by its ID`},
		{"leave", `{"nodes":["01A"]}`, "may be any of host-1 (01AA, alive), host-2 (01AB, dead)"},
		{"leave", `{"node":"01AA"}`, "unknown field"},
		{"leave", `{"nodes":"01AA"}`, "read the command"},
		{"replace", `{"old":"01AA"}`, "new is missing"},
		{"replace", `{"old":"01AA","new":"01AC"}`, "no node"},
		{"replication", `{}`, "want 1 to 16"},
		{"replication", `{"replicationFactor":17}`, "want 1 to 16"},
		{"plan", `{"op":"advance"}`, "want one of leave, pause, remove, replace, replication, resume"},
		{"plan", `{"nodes":["01AA"]}`, `op is ""`},
		{"leave", `{"nodes":["` + strings.Repeat("x", maxCommandBytes) + `"]}`, "too large"},
	} {
		got := f.post("/api/v1/cluster/"+c.op, c.body, nil)
		if e := got.envelope(t); got.status != http.StatusBadRequest || e.ErrorType != "bad_data" || !strings.Contains(e.Error, c.says) {
			t.Errorf("%s %.40s: %d %s, want %q", c.op, c.body, got.status, got.body, c.says)
		}
	}
	if proposed, planned := admin.taken(); proposed != nil || planned != nil {
		t.Errorf("proposed %+v, planned %+v", proposed, planned)
	}
}

func TestRefusedCommands(t *testing.T) {
	f, admin := administered(t)
	for _, c := range []struct {
		err       error
		status    int
		errorType string
	}{
		{fmt.Errorf("leave: %w: no node would be left", table.ErrCommand), http.StatusConflict, "conflict"},
		{unavailableError{errors.New("no leader")}, http.StatusServiceUnavailable, "unavailable"},
		{errors.New("a bug"), http.StatusInternalServerError, "internal"},
	} {
		admin.err = c.err
		for _, path := range []string{"leave", "plan"} {
			got := f.post("/api/v1/cluster/"+path, `{"op":"leave","nodes":["01AA"]}`, nil)
			if e := got.envelope(t); got.status != c.status || e.ErrorType != c.errorType || e.Error != c.err.Error() || e.Status != "error" {
				t.Errorf("%s, %v: %d %s", path, c.err, got.status, got.body)
			}
		}
	}
}

// A page of another site must not be able to change a cluster by the browser of somebody who
// can reach it.
func TestCommandsOfOtherSites(t *testing.T) {
	f, admin := administered(t)
	for _, c := range []struct {
		name   string
		header http.Header
		status int
	}{
		{"a form", http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}, http.StatusUnsupportedMediaType},
		{"a form in disguise", http.Header{"Content-Type": {"text/plain"}}, http.StatusUnsupportedMediaType},
		{"no type", http.Header{"Content-Type": nil}, http.StatusUnsupportedMediaType},
		{"a script of another site", http.Header{"Sec-Fetch-Site": {"cross-site"}}, http.StatusForbidden},
		{"a script of a neighbour", http.Header{"Sec-Fetch-Site": {"same-site"}}, http.StatusForbidden},
		{"a script in an older browser", http.Header{"Origin": {"https://elsewhere.example"}}, http.StatusForbidden},
		{"a page of the node", http.Header{"Sec-Fetch-Site": {"same-origin"}}, http.StatusOK},
		{"a tool", http.Header{"Content-Type": {"application/json; charset=utf-8"}}, http.StatusOK},
	} {
		for _, path := range []string{"leave", "plan"} {
			got := f.post("/api/v1/cluster/"+path, `{"op":"leave","nodes":["01AA"]}`, c.header)
			proposed, planned := admin.taken()
			if got.status != c.status || (c.status == http.StatusOK) != (proposed != nil || planned != nil) {
				t.Errorf("%s, %s: %d %s, proposed %+v, planned %+v", c.name, path, got.status, got.body, proposed, planned)
			}
		}
	}
}

func TestOnlyPostChangesTheCluster(t *testing.T) {
	f, admin := administered(t)
	for op := range commands {
		for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPut, http.MethodDelete, http.MethodOptions} {
			f.do(method, "/api/v1/cluster/"+op+"?nodes=01AA", nil, http.Header{"Content-Type": {"application/json"}})
			if proposed, _ := admin.taken(); proposed != nil {
				t.Errorf("%s %s: proposed %+v", method, op, proposed)
			}
		}
	}
}
