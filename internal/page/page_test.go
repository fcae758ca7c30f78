package page

import (
	"context"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/starling-tsdb/starling/internal/api"
)

var update = flag.Bool("update", false, "write the golden files")

// now is the time of all states.
var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func ago(d time.Duration) *time.Time {
	t := now.Add(-d)
	return &t
}

var ids = []string{"01M7YSNEEPJJ8Z3YB1GRAW1GHW", "01M7YSNEGDWT5S02QRBCDSJW4Z", "01M80ABCDEWT5S02QRBCDSJW4Z", "01M8ZZZZZZWT5S02QRBCDSJW4Z"}

// nodes are some that own their part of all copies.
func nodes(n int) (list []api.NodeStatus) {
	for i := range n {
		list = append(list, api.NodeStatus{
			ID: ids[i], Name: fmt.Sprintf("node-%d", i+1), Zone: string(rune('a' + i)), State: "alive", Version: "1.0.0", Epoch: 12, Slot: &i,
			Addresses: api.NodeAddresses{HTTP: fmt.Sprintf("10.0.0.%d:9080", i+1)},
			Holds:     &api.HoldingStatus{Series: 120_400, Bytes: 3_355_443_200}, Share: &api.ShareStatus{Current: 1 / float64(n), Target: 1 / float64(n)},
			Load: &api.LoadStatus{SamplesPerSecond: 8012.4, CPU: 0.52, CPUs: 4, Memory: 700 << 20, MemoryLimit: 2 << 30, DiskFree: 60 << 30, DiskSize: 100 << 30},
		})
	}
	return list
}

// healthy is a flock where nothing happens.
func healthy(n int) api.ClusterStatus {
	s := api.ClusterStatus{ClusterID: "01M7YSNEEREZN61J7C0WFMQR6Q", Self: ids[0], Epoch: 12, ReplicationFactor: 3, WriteQuorum: min(n, 3)/2 + 1, Nodes: nodes(n)}
	for i, node := range s.Nodes {
		s.Slots = append(s.Slots, api.SlotStatus{Slot: i, Node: node.ID, Zone: node.Zone})
	}
	s.Events = []api.EventStatus{
		{Time: now.Add(-time.Minute), Count: 1, Level: "info", Text: "node is there", Detail: "node=" + ids[min(n, 2)-1] + " zone=b"},
		{Time: now.Add(-24 * time.Hour), Count: 3, Level: "warn", Text: "A peer misses writes", Detail: "peer=gone"},
	}
	return s
}

// troubled has node-2 dead and node-3 silent, a node that joins, damage, and a full disk.
func troubled() api.ClusterStatus {
	s := healthy(3)
	s.Events[1].Level = "error"
	s.Nodes[1].State, s.Nodes[1].Holds, s.Nodes[1].Load, s.Nodes[1].Epoch = "dead", nil, nil, 9
	s.Nodes[2].Holds, s.Nodes[2].Load = nil, nil
	s.Nodes[0].Load.DiskFree, s.Nodes[0].Unready = 2<<30, "the disk is nearly full"
	s.Gaps = []api.GapStatus{{Peer: ids[1], Since: "2026-03-01T11:00:00Z", Opened: now.Add(-time.Hour), SamplesLeft: 1_234_567, BytesLeft: 5 << 20}}
	s.Nodes[0].Gaps, s.Nodes[0].Comparing, s.Nodes[0].Windows, s.Nodes[0].Damaged = s.Gaps, 30, 180, 1
	s.Damage = []api.DamageStatus{{MinTime: 0, MaxTime: now.UnixMilli(), Kind: "block", Name: "01BLOCK", Detail: "a bad checksum", Found: now.Add(-time.Minute), Suspect: true}}
	s.Nodes = append(s.Nodes, api.NodeStatus{ID: ids[3], Name: "node-4", State: "alive", Version: "1.1.0", Epoch: 12, Share: &api.ShareStatus{Target: 0.25},
		Holds: &api.HoldingStatus{Series: 7}, Gaps: []api.GapStatus{{Peer: ids[1], Opened: now.Add(-time.Minute), HandingOff: true}}})
	s.Transition = &api.TransitionStatus{
		Phase: "copying", Began: 12, Since: ago(5 * time.Minute), ReplicationFactor: 3, Awaited: []string{ids[1], ids[3]},
		Slots: append(append([]api.SlotStatus{}, s.Slots...), api.SlotStatus{Slot: 3, Node: ids[3], Zone: "d"}),
		Copying: []api.CopyStatus{
			{Node: ids[0], Ready: true, Samples: 10, Bytes: 20}, {Node: ids[1], Silent: true}, {Node: ids[2]},
			{Node: ids[3], Done: 0.4321, Until: ago(10 * time.Hour), Samples: 1e9, Bytes: 3 << 30, BytesLeft: 4 << 30, BytesPerSecond: 10 << 20, SecondsLeft: 410, Started: ago(5 * time.Minute)},
		},
	}
	s.Waiting, s.Crowded, s.Generation = 1, 0.125, 1
	return s
}

const evil = `"><script>alert(1)</script><img src=x onerror=alert(2)>'` + "`{{.}}\u202e"

// hostile has strangers' strings wherever a stranger can put one.
func hostile() api.ClusterStatus {
	s := troubled()
	s.ClusterID, s.Self, s.Apart = evil, evil, evil
	for i := range s.Nodes {
		n := &s.Nodes[i]
		n.ID, n.Name, n.Zone, n.Version, n.Addresses.HTTP, n.Unready = evil+fmt.Sprint(i), evil, evil, evil+fmt.Sprint(i), evil, evil
	}
	s.Nodes[0].State = evil
	s.Slots[0].Node, s.Slots[0].Zone = evil, evil
	s.Transition.Phase, s.Transition.Awaited[0], s.Transition.Copying[0].Node, s.Transition.Slots[0].Node = evil, evil, evil, evil
	s.Nodes[3].Gaps[0].Peer, s.Nodes[3].Gaps[0].Since = evil, evil
	s.Damage[0].Kind, s.Damage[0].Name, s.Damage[0].Detail = evil, evil, evil
	s.Events[0].Text, s.Events[0].Detail, s.Events[0].Level = evil, evil, evil
	return s
}

// fake is a cluster, and an API that answers all queries in one way.
type fake struct {
	status api.ClusterStatus
	asked  atomic.Int64
	took   time.Duration

	mu     sync.Mutex
	target string
	client string
	code   int
	body   string
}

func (f *fake) Status(context.Context) api.ClusterStatus {
	f.asked.Add(1)
	time.Sleep(f.took)
	return f.status
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.target, f.client = r.URL.String(), r.RemoteAddr
	if f.code == 0 {
		panic(http.ErrAbortHandler)
	}
	w.WriteHeader(f.code)
	_, _ = w.Write([]byte(f.body))
}

func (f *fake) page() *Page {
	return New(Options{Cluster: f, API: f, Version: "1.0.0", Now: func() time.Time { return now }})
}

func get(p http.Handler, target string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	p.ServeHTTP(w, httptest.NewRequest(http.MethodGet, target, nil))
	return w
}

var hashes = regexp.MustCompile(`\.[0-9a-f]{12}\.`)

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".html")
	got = hashes.ReplaceAllString(got, ".HASH.")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs; -update writes it, and git diff shows how", path)
	}
}

func TestFlock(t *testing.T) {
	for _, c := range []struct {
		name   string
		status api.ClusterStatus
		want   []string
	}{
		{"healthy", healthy(3), []string{"All is well", "3 of 3", "60 GiB free of 100 GiB", "node=node-2", "24k"}},
		{"alone", healthy(1), []string{"1 of 1", "All is well"}},
		{"troubled", troubled(), []string{
			"node-2 is dead, and keeps its slot", "the transition is copying", "node-3 is unreachable", "The disk of node-1 is almost full", "node-2 lacks samples, which node-1, node-4 will hand over",
			"1.2M samples, 5.0 MiB", "43%", "about 6m50s left", "83%", "30 of about 180", "under way", "generation 1", "1.0.0, 1.1.0",
		}},
		{"fresh", api.ClusterStatus{Self: ids[0], Nodes: []api.NodeStatus{{ID: ids[0], Name: "node-1", State: "alive"}}}, []string{"belongs to no cluster yet"}},
	} {
		w := get((&fake{status: c.status}).page(), "/")
		golden(t, c.name, w.Body.String())
		for _, want := range c.want {
			if !strings.Contains(w.Body.String(), want) {
				t.Errorf("%s: it does not say %q", c.name, want)
			}
		}
	}
}

// What strangers say is text wherever it stands, and the policy is strict.
func TestStrangersWriteNoHTML(t *testing.T) {
	body := `{"status":"success","warnings":[%[1]q],"data":{"resultType":"vector","result":[{"metric":{"__name__":%[1]q,"l":%[1]q},"value":[1,"2"]}]}}`
	query := "/graph?expr=" + strings.NewReplacer(`"`, "%22", "<", "%3C", ">", "%3E", " ", "+", "{", "%7B", "}", "%7D", "`", "%60").Replace(evil)
	for target, f := range map[string]*fake{
		"/":                                    {status: hostile()},
		query + "&show=instant":                {code: 200, body: fmt.Sprintf(body, evil)},
		query:                                  {code: 422, body: fmt.Sprintf(`{"status":"error","errorType":%[1]q,"error":%[1]q}`, evil)},
		query + "&end=" + query[12:]:           {},
		query + "&range=" + query[12:]:         {},
		query + "&range=1m&step=" + query[12:]: {},
	} {
		w := get(f.page(), target)
		for _, bad := range []string{"<script>", "<img src=x", `onerror=alert(2)>`} {
			if strings.Contains(w.Body.String(), bad) {
				t.Errorf("%s: %q is in the page", target, bad)
			}
		}
		if !strings.Contains(w.Body.String(), "&lt;script&gt;") {
			t.Errorf("%s: the strange text is not there at all", target)
		}
		checkMarkup(t, target, w.Body.String())
		for header, want := range map[string]string{
			"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "X-Frame-Options": "DENY", "Cache-Control": "no-store",
		} {
			if got := w.Header().Get(header); got != want {
				t.Errorf("%s: %s is %q", target, header, got)
			}
		}
	}
}

// checkMarkup looks for what the policy would forbid, and for elements that are not the page's own.
func checkMarkup(t *testing.T, target, page string) {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(page))
	d.Strict, d.AutoClose, d.Entity = false, xml.HTMLAutoClose, xml.HTMLEntity
	elements := 0
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Errorf("%s: %v", target, err)
			return
		}
		element, ok := token.(xml.StartElement)
		if !ok {
			continue
		}
		elements++
		for _, a := range element.Attr {
			name, value := strings.ToLower(a.Name.Local), strings.ToLower(a.Value)
			if name == "style" || strings.HasPrefix(name, "on") || strings.HasPrefix(value, "javascript:") {
				t.Errorf("%s: <%s %s=%q>", target, element.Name.Local, a.Name.Local, a.Value)
			}
			if name == "src" && !strings.HasPrefix(value, "assets/") {
				t.Errorf("%s: something is loaded from %q", target, a.Value)
			}
		}
	}
	if elements < 30 {
		t.Errorf("%s: only %d elements", target, elements)
	}
}

// However many look, the nodes are asked once a second; who goes away does not take the answer along.
func TestOneQuestionForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{status: healthy(3), took: time.Second}
		p := New(Options{Cluster: f, API: f})
		var looking sync.WaitGroup
		for i := range 20 {
			looking.Go(func() {
				ctx, leave := context.WithCancel(t.Context())
				defer leave()
				if i%2 == 0 {
					time.AfterFunc(time.Millisecond, leave)
				}
				w := httptest.NewRecorder()
				p.ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodGet, "/", nil))
				if i%2 == 1 && !strings.Contains(w.Body.String(), "3 of 3") {
					t.Errorf("%d: %s", i, w.Body)
				}
			})
		}
		looking.Wait()
		if n := f.asked.Load(); n != 1 {
			t.Errorf("asked %d times", n)
		}
		<-time.After(fresh)
		if get(p, "/"); f.asked.Load() != 2 {
			t.Errorf("a second later: asked %d times", f.asked.Load())
		}
	})
}

func TestAssets(t *testing.T) {
	p := (&fake{status: healthy(1)}).page()
	page := get(p, "/").Body.String()
	for _, kind := range []string{"css", "js", "svg"} {
		link := regexp.MustCompile(`assets/\w+\.[0-9a-f]{12}\.` + kind).FindString(page)
		w := get(p, "/"+link)
		if w.Code != http.StatusOK || w.Body.Len() == 0 || !strings.Contains(w.Header().Get("Cache-Control"), "immutable") || !strings.Contains(w.Header().Get("Content-Type"), map[string]string{"js": "javascript"}[kind]) {
			t.Errorf("%q: %d, %v", link, w.Code, w.Header())
		}
	}
	if w := get(p, "/favicon.ico"); w.Code != http.StatusOK || w.Header().Get("Content-Type") != "image/png" || w.Header().Get("Cache-Control") != "public, max-age=86400" {
		t.Errorf("/favicon.ico: %d, %v", w.Code, w.Header())
	}
	for _, none := range []string{"/assets/page.css", "/assets/", "/other"} {
		if w := get(p, none); w.Code != http.StatusNotFound {
			t.Errorf("%s: %d", none, w.Code)
		}
	}
}
