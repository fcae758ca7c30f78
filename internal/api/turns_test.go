package api

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
)

// turnsModel does one thing after the other to turns, and checks after each what must hold.
type turnsModel struct {
	*testing.T
	rng     *rand.Rand
	turns   *turns
	clients int
	came    int
	// running have a turn, waiting wait for one, in the order in which they came.
	running, waiting []*modelRead
}

// modelRead is one read. The fields below are of what happened while it waits.
type modelRead struct {
	client int
	number int // in the order of coming
	cancel context.CancelFunc
	result atomic.Pointer[error] // of take, nil while it waits

	// before is how many of the same client waited when it came, less those that have left or
	// had their turn.
	before int
	// passed counts, by client, the turns that were given since it is the first of its own.
	passed map[int]int
}

func (m *turnsModel) come() {
	client := m.rng.IntN(m.clients)
	if m.rng.IntN(2) == 0 {
		client = 0 // which asks for more than the others together
	}
	m.came++
	r := &modelRead{client: client, number: m.came, passed: map[int]int{}}
	for _, w := range m.waiting {
		if w.client == client {
			r.before++
		}
	}
	ctx, cancel := context.WithCancel(context.WithValue(m.Context(), clientKey{}, fmt.Sprint(client)))
	r.cancel = cancel
	go func() {
		err := m.turns.take(ctx)
		r.result.Store(&err)
	}()
	m.waiting = append(m.waiting, r)
}

// settle waits until nothing happens, and sorts out what did. Who was canceled may have had its
// turn all the same, but never takes one along.
func (m *turnsModel) settle(canceled *modelRead) {
	m.Helper()
	synctest.Wait()
	var given []*modelRead
	m.waiting = slices.DeleteFunc(m.waiting, func(r *modelRead) bool {
		result := r.result.Load()
		if result == nil {
			return false
		}
		if *result == nil {
			given = append(given, r)
		} else if r != canceled || !errors.Is(*result, context.Canceled) {
			m.Errorf("read %d of client %d: %v", r.number, r.client, *result)
		}
		return true
	})
	m.running = append(m.running, given...)
	for _, w := range m.waiting {
		if canceled != nil && canceled.client == w.client && canceled.number < w.number && !slices.Contains(given, canceled) {
			w.before--
		}
		for _, g := range given {
			switch {
			case w.client == g.client && g.number > w.number:
				m.Errorf("read %d of client %d had its turn before read %d of the same", g.number, g.client, w.number)
			case w.client == g.client:
				w.before--
				clear(w.passed)
			case w.before == 0:
				if w.passed[g.client]++; w.passed[g.client] > 1 {
					m.Errorf("client %d had %d turns while read %d of client %d waited first in its line", g.client, w.passed[g.client], w.number, w.client)
				}
			}
		}
	}
	if len(m.running) > m.turns.limit {
		m.Errorf("%d run, %d may", len(m.running), m.turns.limit)
	}
	if len(m.running) < m.turns.limit && len(m.waiting) > 0 {
		m.Errorf("%d wait while %d of %d run", len(m.waiting), len(m.running), m.turns.limit)
	}
}

// pick takes a read out of a list.
func (m *turnsModel) pick(from *[]*modelRead) *modelRead {
	i := m.rng.IntN(len(*from))
	r := (*from)[i]
	*from = slices.Delete(*from, i, i+1)
	return r
}

func (m *turnsModel) step() {
	var canceled *modelRead
	switch what := m.rng.IntN(10); {
	case what < 4 || len(m.running) == 0:
		m.come()
	case what < 7 || len(m.waiting) == 0:
		m.finish()
	case what < 8:
		canceled = m.waiting[m.rng.IntN(len(m.waiting))]
		canceled.cancel()
	default:
		// At once: either may be seen first.
		canceled = m.waiting[m.rng.IntN(len(m.waiting))]
		canceled.cancel()
		m.finish()
	}
	m.settle(canceled)
}

func (m *turnsModel) finish() {
	r := m.pick(&m.running)
	m.turns.giveBack()
	r.cancel()
}

// Turns are never more than may be and never lost, and go round the clients, whatever comes,
// ends and is canceled in whichever order.
func TestTurnsGoRound(t *testing.T) {
	for seed := range uint64(100) {
		synctest.Test(t, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 1))
			m := &turnsModel{T: t, rng: rng, turns: newTurns(1 + rng.IntN(4)), clients: 1 + rng.IntN(5)}
			for range 300 {
				m.step()
			}
			for len(m.running) > 0 {
				m.finish()
				m.settle(nil)
			}
			if len(m.waiting) > 0 || m.turns.taken != 0 || len(m.turns.lines) != 0 {
				t.Errorf("in the end %d wait, %d turns are taken, %d lines are left", len(m.waiting), m.turns.taken, len(m.turns.lines))
			}
			if t.Failed() {
				t.Fatalf("seed %d", seed)
			}
		})
		if t.Failed() {
			return
		}
	}
}

// The same from many goroutines at once, which give up when they have waited too long.
func TestTurnsAreNeverMoreThanMayBe(t *testing.T) {
	for seed := range uint64(30) {
		synctest.Test(t, func(t *testing.T) {
			const limit = 3
			turns := newTurns(limit)
			var running atomic.Int32
			var clients sync.WaitGroup
			for i := range uint64(100) {
				clients.Go(func() {
					rng := rand.New(rand.NewPCG(seed, i))
					for range 20 {
						ctx := context.WithValue(t.Context(), clientKey{}, fmt.Sprint(rng.IntN(7)))
						ctx, cancel := context.WithTimeout(ctx, time.Duration(1+rng.IntN(50))*time.Millisecond)
						if turns.take(ctx) == nil {
							if n := running.Add(1); n > limit {
								t.Errorf("%d run", n)
							}
							<-time.After(time.Duration(1+rng.IntN(10)) * time.Millisecond)
							running.Add(-1)
							turns.giveBack()
						}
						cancel()
					}
				})
			}
			clients.Wait()
			if turns.taken != 0 || len(turns.lines) != 0 {
				t.Errorf("in the end %d turns are taken, %d lines are left", turns.taken, len(turns.lines))
			}
		})
	}
}

// A client is a host, whatever its ports and its headers.
func TestClients(t *testing.T) {
	for address, want := range map[string]string{
		"10.0.0.1:4000": "10.0.0.1", "[2001:db8::1]:4000": "2001:db8::1", "@": "@",
	} {
		r := httptest.NewRequestWithContext(t.Context(), "GET", "/", nil)
		r.RemoteAddr = address
		r.Header.Set("X-Forwarded-For", "10.9.9.9")
		if got := clientOf(withClient(t.Context(), r)); got != want {
			t.Errorf("%s is the client %q, want %q", address, got, want)
		}
	}
}

// asked tells whose the queries are that read from it.
type asked struct {
	storage.SampleAndChunkQueryable
	clients chan string
}

func (a asked) Querier(mint, maxt int64) (storage.Querier, error) {
	q, err := a.SampleAndChunkQueryable.Querier(mint, maxt)
	return askedQuerier{q, a.clients}, err
}

type askedQuerier struct {
	storage.Querier
	clients chan string
}

func (q askedQuerier) Select(ctx context.Context, _ bool, _ *storage.SelectHints, _ ...*labels.Matcher) storage.SeriesSet {
	q.clients <- clientOf(ctx)
	return storage.EmptySeriesSet()
}

// The engine's queue knows whose queries are in it.
func TestClientsReachTheEngine(t *testing.T) {
	var a asked
	onVirtualTime(t, func(o *Options) {
		a = asked{o.Sources.Queryable, make(chan string, 1)}
		o.Sources.Queryable = a
	}, func(t *testing.T, serve func(*http.Request) response) {
		for _, path := range []string{"/api/v1/query?query=up&timeout=10s", "/api/v1/query_range?query=up&start=1&end=2&step=1"} {
			r := getRequest(t, path)
			r.RemoteAddr = "10.0.0.7:1000"
			if res := serve(r); res.status != http.StatusOK {
				t.Fatalf("%s: %d %s", path, res.status, res.body)
			}
			if got := <-a.clients; got != "10.0.0.7" {
				t.Errorf("%s is of the client %q", path, got)
			}
		}
	})
}
