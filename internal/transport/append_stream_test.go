package transport

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/starling-tsdb/starling/internal/series"
	"github.com/starling-tsdb/starling/internal/table"
	"github.com/starling-tsdb/starling/internal/transport/peerpb"
)

// remembered is a sender's memory of series: each has a number, which others get in turn.
type remembered struct {
	mu      sync.Mutex
	handles []*series.Handle
	serial  uint64
}

// batch has a sample of some series: its value is in the labels, too.
func (m *remembered) batch(rng *rand.Rand, n int) *series.Batch {
	m.mu.Lock()
	defer m.mu.Unlock()
	b := &series.Batch{Series: make([]series.Series, n)}
	for i := range b.Series {
		at := rng.IntN(len(m.handles))
		if m.handles[at] == nil || rng.IntN(8) == 0 {
			m.serial++
			m.handles[at] = &series.Handle{
				Labels: labels.FromStrings("__name__", "m", "v", fmt.Sprint(m.serial)), Index: uint32(at), Serial: m.serial,
			}
		}
		h := m.handles[at]
		b.Series[i] = series.Series{Labels: h.Labels, Handle: h, Samples: []series.Sample{{T: 1, V: float64(h.Serial)}}}
	}
	return b
}

// checkLabels tells of samples that arrived with the labels of others.
func checkLabels(t *testing.T, b *series.Batch) {
	t.Helper()
	for _, s := range b.Series {
		if got, want := s.Labels.Get("v"), fmt.Sprint(s.Samples[0].V); got != want || !labels.Equal(s.Handle.Labels, s.Labels) {
			t.Errorf("a sample of series %s arrives as one of %s", want, got)
		}
	}
}

// Whatever happens to a stream, samples arrive with their own labels or not at all, and peers
// that are back take appends at once.
func TestDictionaryEndsWithItsStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.remote.onAppend(func(_ context.Context, b *series.Batch) { checkLabels(t, b) })
		m := &remembered{handles: make([]*series.Handle, 30)}
		rng := rand.New(rand.NewPCG(1, 1))
		peer := r.peers.Peer("remote")
		send := func(n int) {
			t.Helper()
			for range n {
				if _, err := peer.Append(t.Context(), epoch(1), m.batch(rng, 20)); err != nil {
					t.Fatal(err)
				}
			}
		}
		for range 5 {
			send(10)
			peer.mu.Lock()
			stream := peer.stream
			peer.mu.Unlock()
			stream.fail(errors.New("broken off"))
			send(10)
			r.net.Down("10.0.0.2")
			r.stop(0)
			if _, err := peer.Append(t.Context(), epoch(1), m.batch(rng, 20)); err == nil {
				t.Fatal("a server that is down confirmed an append")
			}
			r.net.Up("10.0.0.2")
			r.serve(t)
			time.Sleep(time.Second) // the longest pause between attempts to connect
			send(10)
		}
	})
}

// Another lineage of the table has a stream of its own, and the old one ends.
func TestLineageHasItsOwnStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.remote.onAppend(func(_ context.Context, b *series.Batch) { checkLabels(t, b) })
		m := &remembered{handles: make([]*series.Handle, 30)}
		rng := rand.New(rand.NewPCG(1, 1))
		peer := r.peers.Peer("remote")
		recovered := epoch(1)
		recovered.Recoveries = []table.Recovery{{ID: "r"}}
		var streams []*appendStream
		for _, tab := range []*table.Table{epoch(1), epoch(1), recovered, recovered, epoch(1)} {
			if _, err := peer.Append(t.Context(), tab, m.batch(rng, 20)); err != nil {
				t.Fatal(err)
			}
			streams = append(streams, peer.stream)
		}
		if streams[0] != streams[1] || streams[1] == streams[2] || streams[2] != streams[3] || streams[3] == streams[4] {
			t.Errorf("streams %p", streams)
		}
		synctest.Wait()
		if streams[0].err == nil || streams[3].err == nil || streams[4].err != nil {
			t.Errorf("the first stream ended with %v, the last one with %v", streams[0].err, streams[4].err)
		}
	})
}

// Appends at one time share a stream. When Append returns, the batch is the caller's: it is
// overwritten here, which the race detector notices if anybody still reads it.
func TestAppendsAtOneTimeWithCancellations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.net.SetLatency(time.Millisecond)
		r.remote.onAppend(func(ctx context.Context, b *series.Batch) {
			checkLabels(t, b)
			select {
			case <-time.After(time.Duration(len(b.Series)%7) * time.Millisecond):
			case <-ctx.Done():
			}
		})
		m := &remembered{handles: make([]*series.Handle, 200)}
		peer := r.peers.Peer("remote")
		var senders sync.WaitGroup
		var mu sync.Mutex
		confirmed, cancelled := 0, 0
		for i := range uint64(16) {
			senders.Go(func() {
				rng := rand.New(rand.NewPCG(i, 2))
				for range 40 {
					ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rng.IntN(20))*time.Millisecond)
					b := m.batch(rng, 1+rng.IntN(50))
					_, err := peer.Append(ctx, epoch(1), b)
					cancel()
					clear(b.Series)
					mu.Lock()
					if err == nil {
						confirmed++
					} else if errors.Is(err, context.DeadlineExceeded) {
						cancelled++
					} else {
						t.Error(err)
					}
					mu.Unlock()
				}
			})
		}
		senders.Wait()
		if confirmed < 50 || cancelled < 50 {
			t.Errorf("%d appends confirmed, %d cancelled", confirmed, cancelled)
		}
		synctest.Wait()
		s := peer.stream
		if len(s.queue)+len(s.waiting) > 0 || s.err != nil {
			t.Errorf("%d calls in the queue and %d without an answer when all are gone; %v", len(s.queue), len(s.waiting), s.err)
		}
	})
}

// A peer that hangs is sent no more than its limit, calls end in their time, and when it is
// back it takes appends again.
func TestHungPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		peer := r.peers.Peer("remote")
		b := &series.Batch{Series: []series.Series{{Labels: labels.FromStrings("a", strings.Repeat("x", maxInFlight/4))}}}
		if _, err := peer.Append(t.Context(), epoch(1), b); err != nil {
			t.Fatal(err)
		}
		r.net.Partition([]string{"10.0.0.1"}, []string{"10.0.0.2"})
		start := time.Now()
		for round := range 3 {
			var calls sync.WaitGroup
			refused := make(chan error, 10)
			for range 10 {
				calls.Go(func() {
					ctx, cancel := context.WithTimeout(t.Context(), time.Second)
					defer cancel()
					_, err := peer.Append(ctx, epoch(1), b)
					if !errors.Is(err, context.DeadlineExceeded) {
						refused <- err
					}
				})
			}
			synctest.Wait()
			if held := testutil.ToFloat64(r.peers.inFlight); held > maxInFlight || held < maxInFlight/2 {
				t.Errorf("%.0f bytes are on their way", held)
			}
			calls.Wait()
			if len(refused) < 6 {
				t.Errorf("round %d: %d appends were refused", round, len(refused))
			}
			for range len(refused) {
				if err := <-refused; err == nil || !strings.Contains(err.Error(), "on their way") {
					t.Errorf("an append was refused with %v", err)
				}
			}
		}
		if took := time.Since(start); took > 3*time.Second {
			t.Errorf("calls of one second took %s", took)
		}
		if held := testutil.ToFloat64(r.peers.inFlight); held != 0 {
			t.Errorf("%.0f bytes are on their way when all calls have ended", held)
		}
		r.net.Heal()
		if _, err := peer.Append(t.Context(), epoch(1), b); err != nil {
			t.Errorf("after the split healed: %v", err)
		}
		// What had reached the stream arrives late, and is answered to nobody.
		synctest.Wait()
		if n := len(r.remote.appended); n < 2 || n > 12 {
			t.Errorf("%d appends arrived", n)
		}
	})
}

// A silent peer is noticed, as it is by other requests, and all that waits hears of it.
func TestSilentPeerFailsAppends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		peer := r.peers.Peer("remote")
		if _, err := peer.Append(t.Context(), epoch(1), &series.Batch{}); err != nil {
			t.Fatal(err)
		}
		r.net.Partition([]string{"10.0.0.1"}, []string{"10.0.0.2"})
		start := time.Now()
		_, err := peer.Append(t.Context(), epoch(1), &series.Batch{})
		if took := time.Since(start); err == nil || took > 20*time.Second {
			t.Errorf("an append to a silent peer: %v after %s", err, took)
		}
		r.net.Heal()
		time.Sleep(5 * time.Second)
		if _, err := peer.Append(t.Context(), epoch(1), &series.Batch{}); err != nil {
			t.Errorf("five seconds after the split healed: %v", err)
		}
	})
}

func TestDeadPeerFailsAppendsFast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		peer := r.peers.Peer("remote")
		if _, err := peer.Append(t.Context(), epoch(1), &series.Batch{}); err != nil {
			t.Fatal(err)
		}
		r.net.Down("10.0.0.2")
		start := time.Now()
		for range 10 {
			if _, err := peer.Append(t.Context(), epoch(1), &series.Batch{}); err == nil {
				t.Fatal("a dead peer answered")
			}
		}
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("ten appends to a dead peer took %s", took)
		}
	})
}

// A server that stops answers what it has, takes nothing more, and ends when that is done.
func TestStoppingServerDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		peer := r.peers.Peer("remote")
		r.remote.onAppend(func(context.Context, *series.Batch) { time.Sleep(time.Second) })
		answered := make(chan error, 1)
		go func() {
			_, err := peer.Append(t.Context(), epoch(1), &series.Batch{})
			answered <- err
		}()
		time.Sleep(100 * time.Millisecond)
		stopped := make(chan time.Duration, 1)
		start := time.Now()
		go func() {
			r.stop(time.Minute)
			stopped <- time.Since(start)
		}()
		synctest.Wait()
		for range 3 {
			if _, err := peer.Append(t.Context(), epoch(1), &series.Batch{}); err == nil {
				t.Error("a server that is about to stop took an append")
			}
		}
		if took := time.Since(start); took > 500*time.Millisecond {
			t.Errorf("three appends to a server that is about to stop took %s", took)
		}
		if err := <-answered; err != nil {
			t.Errorf("an append under way: %v", err)
		}
		if took := <-stopped; took > 2*time.Second {
			t.Errorf("the server stopped after %s", took)
		}
		r.serve(t)
		r.remote.onAppend(nil)
		time.Sleep(time.Second)
		if _, err := peer.Append(t.Context(), epoch(1), &series.Batch{}); err != nil {
			t.Errorf("after the restart: %v", err)
		}
	})
}

// A peer that does not end its stream keeps a server only for its grace.
func TestStopDoesNotWaitForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		stream, err := r.peers.Peer("remote").client.Write(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(&peerpb.WriteFrame{Header: r.peers.Peer("remote").header(epoch(1))}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		start := time.Now()
		r.stop(3 * time.Second)
		if took := time.Since(start); took != 3*time.Second {
			t.Errorf("the server stopped after %s", took)
		}
		r.serve(t)
	})
}

// Appends that are not read wait for those that run.
func TestRunningAppendsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		var mu sync.Mutex
		running, most := 0, 0
		r.remote.onAppend(func(context.Context, *series.Batch) {
			mu.Lock()
			running++
			most = max(most, running)
			mu.Unlock()
			time.Sleep(time.Second)
			mu.Lock()
			running--
			mu.Unlock()
		})
		var calls sync.WaitGroup
		for range maxRunningAppends + 100 {
			calls.Go(func() {
				if _, err := r.peers.Peer("remote").Append(t.Context(), epoch(1), &series.Batch{}); err != nil {
					t.Error(err)
				}
			})
		}
		calls.Wait()
		if most != maxRunningAppends {
			t.Errorf("%d appends ran at one time, want %d", most, maxRunningAppends)
		}
	})
}

// One append's failure is its own.
func TestFailuresAreOfOneAppend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		peer := r.peers.Peer("remote")
		fail := func(what string) error {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			r.remote.onAppend(func(ctx context.Context, _ *series.Batch) {
				switch what {
				case "panic":
					panic("on request \xff")
				case "late":
					<-ctx.Done()
				}
			})
			_, err := peer.Append(ctx, epoch(1), &series.Batch{})
			return err
		}
		for _, tc := range []struct{ what, want string }{{"", ""}, {"panic", "panic: on request"}, {"late", "deadline"}, {"", ""}} {
			err := fail(tc.what)
			if (err != nil) != (tc.want != "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%s: %v, want %q", tc.what, err, tc.want)
			}
		}
		if s := peer.stream; s.requests != 4 || s.err != nil {
			t.Errorf("%d requests on the last stream, which ended with %v", s.requests, s.err)
		}
	})
}

// What is no frame ends the stream with a reason, and nothing else.
func TestBadFrameEndsTheStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		peer := r.peers.Peer("remote")
		stream, err := peer.client.Write(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range []*peerpb.WriteFrame{{Header: peer.header(epoch(1))}, {Request: 1, Epoch: 1, Batch: []byte("no frame, whatever")}} {
			if err := stream.Send(f); err != nil {
				t.Fatal(err)
			}
		}
		if a, err := stream.Recv(); err == nil || !strings.Contains(err.Error(), "InvalidArgument") {
			t.Errorf("a bad frame is answered with %v, %v", a, err)
		}
		if _, err := peer.Append(t.Context(), epoch(1), &series.Batch{}); err != nil {
			t.Error(err)
		}
	})
}

// Answers that no peer gives end the stream.
func TestBadAnswersEndTheStream(t *testing.T) {
	s := newAppendStream(&Peer{}, "")
	c := &appendCall{batch: &series.Batch{}, done: make(chan struct{})}
	s.add(c)
	s.take()
	for _, request := range []uint64{1, 2} {
		if err := s.answered(&peerpb.WriteAnswer{Request: request}); err == nil {
			t.Errorf("an answer to request %d is taken, which was not sent", request)
		}
	}
	s.encode(c)
	if err := s.answered(&peerpb.WriteAnswer{Request: 1}); err != nil || !c.ended {
		t.Errorf("an answer is not taken: %v", err)
	}
	if err := s.answered(&peerpb.WriteAnswer{Request: 1}); err != nil {
		t.Errorf("an answer that nobody waits for: %v", err)
	}
}

func TestBytesAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		peer := r.peers.Peer("remote")
		b := (&remembered{handles: make([]*series.Handle, 1000)}).batch(rand.New(rand.NewPCG(1, 1)), 1000)
		var sent [3]float64
		for i := range sent {
			if _, err := peer.Append(t.Context(), epoch(1), b); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			sent[i] = testutil.ToFloat64(r.peers.sent)
		}
		if first, again := sent[1]-sent[0], sent[2]-sent[1]; first != again || again > 6*1000 || again < 1000 || sent[0] < 10_000 {
			t.Errorf("%v bytes were sent after each of three equal appends", sent)
		}
		if got := testutil.ToFloat64(r.peers.received); got < 10 || got > 10_000 {
			t.Errorf("%v bytes were received", got)
		}
	})
}
