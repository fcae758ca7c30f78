package admin

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/starling-tsdb/starling/internal/api"
)

// fakeCluster answers with one state after the other; the last one stays.
type fakeCluster struct {
	states []any // *api.ClusterStatus or error
	asked  int
	done   []api.CommandRequest

	recovered []api.RecoveryRequest
	err       error
}

func (f *fakeCluster) Status(context.Context) (*api.ClusterStatus, error) {
	next := f.states[min(f.asked, len(f.states)-1)]
	f.asked++
	if err, failed := next.(error); failed {
		return nil, err
	}
	return next.(*api.ClusterStatus), nil
}

func (f *fakeCluster) Plan(context.Context, api.CommandRequest) (*api.ClusterPlan, error) {
	return &api.ClusterPlan{Warnings: []string{"it is a plan"}}, f.err
}

func (f *fakeCluster) Do(_ context.Context, r api.CommandRequest) (api.CommandResult, error) {
	f.done = append(f.done, r)
	return api.CommandResult{Epoch: 13}, f.err
}

func (f *fakeCluster) PlanRecovery(context.Context) (*api.RecoveryPlan, error) {
	return &api.RecoveryPlan{
		Epoch: 7, Next: 1_000_000_000, Survivors: []api.NamedNode{{ID: "01AA", Name: "host-1"}}, Gone: []api.NamedNode{{ID: "01AB"}, {ID: "01AC", Name: "host-3"}},
		Voters: 3, LostVoters: 2, WriteQuorum: 2, Losses: []float64{0, 0, 1, 0},
	}, f.err
}

func (*fakeCluster) Repair(context.Context, api.RepairRequest) (api.RepairResult, error) {
	return api.RepairResult{Nodes: 2, Unreached: map[string]string{"01BB": "it is gone"}}, nil
}

func (f *fakeCluster) Keyring(context.Context, api.KeyringChange) (*api.KeyringStatus, error) {
	return &api.KeyringStatus{
		Keys:  []api.KeyStatus{{Fingerprint: "0a1b2c3d", Nodes: 2, Uses: 1}, {Fingerprint: "44556677", Nodes: 1, Uses: 1}},
		Nodes: []api.KeyringNode{{ID: "01AA", Name: "host-1", Keys: []string{"0a1b2c3d", "44556677"}}, {ID: "01BB", Error: "it is gone"}},
	}, f.err
}

func (f *fakeCluster) Recover(_ context.Context, r api.RecoveryRequest) (api.CommandResult, error) {
	f.recovered = append(f.recovered, r)
	return api.CommandResult{Epoch: 1_000_000_000}, f.err
}

func console(f *fakeCluster, in string, asks bool, width int) (*Console, *strings.Builder) {
	var out strings.Builder
	return &Console{Cluster: f, In: strings.NewReader(in), Out: &out, Asks: asks, Width: func() int { return width }}, &out
}

func TestChangesAreConfirmed(t *testing.T) {
	for _, c := range []struct {
		name, op   string
		in         string
		asks, sure bool
		done, plan bool
	}{
		{"yes", "leave", "y\n", true, false, true, true},
		{"yes, spelled out", "leave", "YES\n", true, false, true, true},
		{"no", "leave", "n\n", true, false, false, true},
		{"nothing said", "leave", "\n", true, false, false, true},
		{"the end of the input", "leave", "", true, false, false, true},
		{"--yes", "remove", "", false, true, true, true},
		{"nobody is there", "remove", "y\n", false, false, false, false},
		{"nothing moves", "pause", "", false, false, true, false},
	} {
		f := &fakeCluster{}
		con, out := console(f, c.in, c.asks, 0)
		err := con.Change(t.Context(), api.CommandRequest{Op: c.op}, c.sure, false)
		if (err == nil) != c.done || !c.done && !errors.Is(err, errUnconfirmed) || (len(f.done) == 1) != c.done {
			t.Errorf("%s: %v, done %+v", c.name, err, f.done)
		}
		if strings.Contains(out.String(), "it is a plan") != c.plan {
			t.Errorf("%s: %s", c.name, out)
		}
	}
}

func TestRefusalsAreToldOnce(t *testing.T) {
	refused := errors.New("leave: no node would be left")
	f := &fakeCluster{err: refused}
	con, out := console(f, "", false, 0)
	if err := con.Change(t.Context(), api.CommandRequest{Op: "leave"}, true, false); !errors.Is(err, refused) || len(f.done) > 0 || out.Len() > 0 {
		t.Errorf("%v, done %+v, said %q", err, f.done, out)
	}
}

func TestWait(t *testing.T) {
	at := func(epoch uint64, transition bool, waiting int) *api.ClusterStatus {
		s := &api.ClusterStatus{Epoch: epoch, Waiting: waiting}
		if transition {
			s.Transition = &api.TransitionStatus{Phase: "copying"}
		}
		return s
	}
	down := errors.New("no node answers")
	for _, c := range []struct {
		name   string
		states []any
		asked  int
		want   string // in the error
	}{
		{"at once", []any{at(13, false, 0)}, 1, ""},
		{"not before the epoch", []any{at(12, false, 0), at(13, false, 0)}, 2, ""},
		{"to the end of the transition", []any{at(13, true, 0), at(14, true, 0), at(15, false, 0)}, 3, ""},
		{"to the end of what waits", []any{at(13, true, 1), at(14, false, 1), at(15, false, 0)}, 3, ""},
		{"over a restart", []any{at(13, true, 0), down, down, at(15, false, 0)}, 4, ""},
		{"for a node that never answered", []any{down}, 1, "no node answers"},
		{"for a node that does not come back", []any{at(13, true, 0), down}, 2 + int(patience/lookEvery), "no node answers"},
	} {
		synctest.Test(t, func(t *testing.T) {
			f := &fakeCluster{states: c.states}
			con, _ := console(f, "", false, 80)
			err := con.Wait(t.Context(), 13)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) || f.asked != c.asked {
				t.Errorf("%s: %v after %d questions, want %d", c.name, err, f.asked, c.asked)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 3500*time.Millisecond)
		defer cancel()
		f := &fakeCluster{states: []any{at(13, true, 0)}}
		con, _ := console(f, "", false, 0)
		if err := con.Wait(ctx, 13); err == nil || !strings.Contains(err.Error(), "it goes on") {
			t.Errorf("an operator who goes away: %v", err)
		}
		if err := con.Watch(ctx); err != nil {
			t.Errorf("one who watched: %v", err)
		}
	})
}

// A terminal sees one picture that moves; a file one line now and then.
func TestFrames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 2500*time.Millisecond)
		defer cancel()
		con, out := console(&fakeCluster{states: []any{moving()}}, "", false, 40)
		if err := con.Watch(ctx); err != nil {
			t.Fatal(err)
		}
		frames := strings.Split(out.String(), "\x1b[J")
		if len(frames) != 4 { // what is before the first one, too
			t.Fatalf("%d frames: %q", len(frames)-1, out)
		}
		up, lines := frames[1][strings.LastIndex(frames[1], "\x1b"):], strings.Count(frames[1], "\n")
		if want := fmt.Sprintf("\x1b[%dA\r", lines); up != want {
			t.Errorf("a frame of %d lines ends with %q, want %q", lines, up, want)
		}
		for line := range strings.Lines(frames[1]) {
			if len([]rune(strings.TrimSuffix(line, "\n"))) >= 40 {
				t.Errorf("the terminal breaks %q", line)
			}
		}
	})
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 25*time.Second)
		defer cancel()
		con, out := console(&fakeCluster{states: []any{settled(), moving()}}, "", false, 0)
		if err := con.Watch(ctx); err != nil {
			t.Fatal(err)
		}
		if lines := strings.Count(out.String(), "\n"); lines != 4 || strings.Contains(out.String(), "\x1b") {
			t.Errorf("%d lines in 25 s, want the first, the news, and two after ten seconds each: %q", lines, out)
		}
	})
}

func TestNamesDoNotSteerTheTerminal(t *testing.T) {
	s := settled()
	s.Nodes[0].Name = "a\x1b]0;b\u009b2J\a"
	con, out := console(&fakeCluster{states: []any{s}}, "", false, 80)
	if err := con.Status(t.Context()); err != nil || strings.ContainsAny(out.String(), "\x1b\a\u009b") {
		t.Errorf("%v: %q", err, out)
	}
}

func TestRequestsReachTheCluster(t *testing.T) {
	f := &fakeCluster{}
	con, _ := console(f, "", false, 0)
	want := api.CommandRequest{Op: "replace", Old: "a", New: "b"}
	if err := con.Change(t.Context(), want, true, false); err != nil || !reflect.DeepEqual(f.done, []api.CommandRequest{want}) {
		t.Errorf("%v, done %+v", err, f.done)
	}
}

// A recovery says what it means, and does what it has shown.
func TestRecoveryIsConfirmed(t *testing.T) {
	for _, c := range []struct {
		in               string
		asks, sure, done bool
	}{
		{"y\n", true, false, true},
		{"n\n", true, false, false},
		{"", false, false, false},
		{"", false, true, true},
	} {
		f := &fakeCluster{}
		con, out := console(f, c.in, c.asks, 0)
		err := con.Recover(t.Context(), c.sure)
		if (err == nil) != c.done || (len(f.recovered) == 1) != c.done {
			t.Errorf("%+v: %v, recovered %+v", c, err, f.recovered)
		}
		for _, says := range []string{"host-3", "2 of the 3 voters are gone", "epoch 1000000000", "100.0% of all series have 2 or more of their 3 owners among the gone"} {
			if !strings.Contains(out.String(), says) {
				t.Errorf("%+v: nothing of %q in\n%s", c, says, out)
			}
		}
		if want := (api.RecoveryRequest{Epoch: 7, Survivors: []string{"01AA"}}); c.done && !reflect.DeepEqual(f.recovered[0], want) {
			t.Errorf("%+v: %+v", c, f.recovered)
		}
	}
	f := &fakeCluster{err: errors.New("a majority is there")}
	con, _ := console(f, "y\n", true, 0)
	if err := con.Recover(t.Context(), true); err == nil || len(f.recovered) > 0 {
		t.Errorf("%v, recovered %+v", err, f.recovered)
	}
}

// Who did not change its keys is shown, and makes the command fail.
func TestKeyringOnSomeNodes(t *testing.T) {
	con, out := console(&fakeCluster{}, "", false, 0)
	err := con.Keyring(t.Context(), api.KeyringChange{Op: "add"})
	if err == nil || !strings.Contains(err.Error(), "1 of 2 nodes") {
		t.Errorf("Keyring: %v", err)
	}
	for _, want := range []string{"0a1b2c3d  2 of 2   1", "host-1  01AA  0a1b2c3d 44556677", "01BB    01BB  not done: it is gone"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in:\n%s", want, out)
		}
	}
}
