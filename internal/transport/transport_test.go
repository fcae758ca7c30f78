package transport

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"

	"github.com/starling-tsdb/starling/internal/series"
	"github.com/starling-tsdb/starling/internal/table"
)

func TestAppendArrivesAndItsRefusalsReturn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.remote.refuse = []series.Refusal{{Series: 1, Item: 0, Reason: series.Invalid, Message: "too old sample"}}
		b := &series.Batch{Series: []series.Series{
			{Labels: labels.FromStrings("__name__", "a"), Samples: []series.Sample{{T: 1, V: 2}}},
			{Labels: labels.FromStrings("__name__", "b"), Samples: []series.Sample{{T: 1, V: 3}}},
		}}
		outcome, err := r.peers.Peer("remote").Append(t.Context(), epoch(1), b)
		if err != nil || len(outcome.Refusals) != 1 || outcome.Refusals[0] != r.remote.refuse[0] {
			t.Fatalf("Append = %+v, %v", outcome, err)
		}
		compareBatches(t, 0, r.remote.appended[0], b)
	})
}

func TestSelectStreamsManyFrames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		const n = 600
		r.fill(t, n)
		set := r.peers.Peer("remote").Select(t.Context(), epoch(1), Selection{Maxt: 100, Hints: &storage.SelectHints{Start: 0, End: 100}, Matchers: everything})
		got, samples := 0, 0
		var last labels.Labels
		for set.Next() {
			if got > 0 && labels.Compare(last, set.At().Labels()) >= 0 {
				t.Fatalf("%s after %s: not sorted", set.At().Labels(), last)
			}
			last = set.At().Labels()
			got++
			for it := set.At().Iterator(nil); it.Next(); {
				samples += it.At().Chunk.NumSamples()
			}
		}
		if set.Err() != nil || got != n || samples != 10*n {
			t.Errorf("%d series and %d samples, %v; want %d and %d", got, samples, set.Err(), n, 10*n)
		}
	})
}

func TestCancelledSelectEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.fill(t, 600)
		begun := make(chan struct{})
		// What has come is answered, however late it is read: it must not have come yet.
		r.reader.selecting = func(ctx context.Context) {
			close(begun)
			<-ctx.Done()
		}
		ctx, cancel := context.WithCancel(t.Context())
		set := r.peers.Peer("remote").Select(ctx, epoch(1), Selection{Maxt: 100, Matchers: everything})
		<-begun
		cancel()
		for set.Next() {
		}
		if !errors.Is(set.Err(), context.Canceled) {
			t.Errorf("Err() = %v, want the caller's cancellation", set.Err())
		}
	})
}

func TestEpochsAreReconciled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		peer := r.peers.Peer("remote")
		var mismatch *table.MismatchError

		r.remote.table = epoch(3)
		_, err := peer.Append(t.Context(), epoch(1), &series.Batch{})
		if !errors.As(err, &mismatch) || mismatch.Have.Epoch != 3 {
			t.Fatalf("append with an older epoch: %v", err)
		}
		if r.local.Table().Epoch != 3 {
			t.Error("the client did not learn the newer table")
		}

		r.local.table = epoch(5)
		_, err = names(t, peer, epoch(5))
		if !errors.As(err, &mismatch) {
			t.Fatalf("read with a newer epoch: %v", err)
		}
		if r.remote.Table().Epoch != 5 {
			t.Error("the peer was not handed the newer table")
		}
		if _, err = names(t, peer, epoch(5)); err != nil {
			t.Errorf("after the hand-over: %v", err)
		}
	})
}

// A series larger than a message travels in several.
func TestSelectCutsLongSeries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		const n = 400_000
		app := r.db.Appender(t.Context())
		rng := rand.New(rand.NewPCG(1, 1))
		for ts := range int64(n) {
			if _, err := app.Append(0, labels.FromStrings("__name__", "long"), ts, rng.Float64()); err != nil {
				t.Fatal(err)
			}
		}
		if err := app.Commit(); err != nil {
			t.Fatal(err)
		}
		r.fill(t, 3)
		set := r.peers.Peer("remote").Select(t.Context(), epoch(1), Selection{Maxt: n, Matchers: everything})
		var samples []int
		for set.Next() {
			count := 0
			for it := set.At().Iterator(nil); it.Next(); {
				count += it.At().Chunk.NumSamples()
			}
			samples = append(samples, count)
		}
		if set.Err() != nil || !slices.Equal(samples, []int{n, 10, 10, 10}) {
			t.Errorf("samples %v, %v", samples, set.Err())
		}
	})
}

// PromQL takes matchers that are no valid UTF-8, though no series can have them.
func TestMatchersNeedNoUTF8(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.fill(t, 2)
		ms := append(slices.Clone(everything), labels.MustNewMatcher(labels.MatchNotEqual, "i", "\xff"))
		set := r.peers.Peer("remote").Select(t.Context(), epoch(1), Selection{Maxt: 100, Hints: &storage.SelectHints{Grouping: []string{"\xff"}}, Matchers: ms})
		n := 0
		for set.Next() {
			n++
		}
		if set.Err() != nil || n != 2 {
			t.Errorf("%d series, %v", n, set.Err())
		}
		if _, err := r.peers.Peer("remote").Labels(t.Context(), epoch(1), series.LabelQuery{Name: "\xff", Maxt: 100, Matchers: ms}, anything); err != nil {
			t.Error(err)
		}
	})
}

// An address passes from one node to another: the answer of the new one must not count
// as the old one's.
func TestAnotherNodeAtTheAddressIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		gone := r.peers.Peer("gone")
		if _, err := gone.Append(t.Context(), epoch(1), &series.Batch{}); err == nil || len(r.remote.appended) > 0 {
			t.Errorf("an append meant for another node was taken: %v", err)
		}
		set := gone.Select(t.Context(), epoch(1), Selection{Maxt: 1, Matchers: everything})
		if set.Next() || set.Err() == nil {
			t.Error("a read meant for another node was answered")
		}
		var mismatch *table.MismatchError
		if errors.As(set.Err(), &mismatch) {
			t.Error("planning anew does not help against a wrong address")
		}
	})
}

func TestAnotherClusterIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		foreign := epoch(1)
		foreign.ClusterID = "other"
		if _, err := r.peers.Peer("remote").Append(t.Context(), foreign, &series.Batch{}); err == nil {
			t.Error("an append of another cluster was taken")
		}
		set := r.peers.Peer("remote").Select(t.Context(), foreign, Selection{Maxt: 1, Matchers: everything})
		if set.Next() || set.Err() == nil {
			t.Error("a read of another cluster was answered")
		}
	})
}

func TestPanicIsAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		if _, err := r.peers.Call(t.Context(), "10.0.0.2:9081", []byte("panic")); err == nil {
			t.Fatal("a panic was answered with success")
		}
		answer, err := r.peers.Call(t.Context(), "10.0.0.2:9081", []byte("hello"))
		if err != nil || string(answer) != "re: hello" {
			t.Errorf("Call = %q, %v", answer, err)
		}
	})
}

func TestDeadPeerFailsFast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		peer := r.peers.Peer("remote")
		if _, err := names(t, peer, epoch(1)); err != nil {
			t.Fatal(err)
		}
		r.net.Down("10.0.0.2")
		start := time.Now()
		for range 10 {
			if _, err := names(t, peer, epoch(1)); err == nil {
				t.Fatal("a dead peer answered")
			}
		}
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("ten requests to a dead peer took %s", took)
		}
	})
}

func TestSilentPeerIsNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		peer := r.peers.Peer("remote")
		if _, err := names(t, peer, epoch(1)); err != nil {
			t.Fatal(err)
		}
		r.net.Partition([]string{"10.0.0.1"}, []string{"10.0.0.2"})
		start := time.Now()
		_, err := names(t, peer, epoch(1))
		if took := time.Since(start); err == nil || took > 20*time.Second {
			t.Errorf("a request to a silent peer: %v after %s", err, took)
		}
		r.net.Heal()
		time.Sleep(5 * time.Second)
		if _, err := names(t, peer, epoch(1)); err != nil {
			t.Errorf("five seconds after the split healed: %v", err)
		}
	})
}

func TestRaftConnectionsAreSplitOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		go func() {
			conn, err := DialRaft(t.Context(), r.net.Host("10.0.0.1").Dial, "10.0.0.2:9081")
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			if _, err := conn.Write([]byte("raft")); err != nil {
				t.Error(err)
			}
		}()
		conn, err := r.raft.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		buf := make([]byte, 4)
		if n, err := conn.Read(buf); err != nil || string(buf[:n]) != "raft" {
			t.Errorf("read %q, %v; the preface belongs to the listener", buf[:n], err)
		}
	})
}
