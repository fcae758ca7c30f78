package api

import (
	"context"
	"net"
	"net/http"
	"slices"
	"sync"
)

// turns bounds how many reads run at once. The turns that become free go round the clients that
// wait, one for each, so that a client which asks for much waits for itself: while another waits
// it is given one turn at most. Reads of one client have their turns in the order in which they came.
type turns struct {
	limit int

	mu    sync.Mutex
	taken int
	// lines are those of the clients that wait, who is next first. None is empty, and there are
	// none while a turn is free.
	lines []*line
}

// line is the reads of one client that wait for their turn: each has it once its channel is
// closed.
type line struct {
	client  string
	waiting []chan struct{}
}

func newTurns(limit int) *turns { return &turns{limit: limit} }

// take waits for a turn while ctx lasts. Who takes one gives it back.
func (t *turns) take(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	client := clientOf(ctx)
	turn := t.queue(client)
	if turn == nil {
		return nil
	}
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
		if !t.leave(client, turn) {
			// It was given meanwhile, and somebody else waits for it.
			t.giveBack()
		}
		return ctx.Err()
	}
}

// queue takes a turn that is free, or returns what to wait for.
func (t *turns) queue(client string) chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.taken < t.limit {
		t.taken++
		return nil
	}
	turn := make(chan struct{})
	if i := t.lineOf(client); i >= 0 {
		t.lines[i].waiting = append(t.lines[i].waiting, turn)
	} else {
		t.lines = append(t.lines, &line{client, []chan struct{}{turn}})
	}
	return turn
}

// leave takes a read out of its line, unless it has had its turn.
func (t *turns) leave(client string, turn chan struct{}) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := t.lineOf(client)
	if i < 0 {
		return false
	}
	l := t.lines[i]
	at := slices.Index(l.waiting, turn)
	if at < 0 {
		return false
	}
	l.waiting = slices.Delete(l.waiting, at, at+1)
	if len(l.waiting) == 0 {
		t.lines = slices.Delete(t.lines, i, i+1)
	}
	return true
}

func (t *turns) lineOf(client string) int {
	return slices.IndexFunc(t.lines, func(l *line) bool { return l.client == client })
}

// giveBack ends a turn, which goes to the client that is next. Its other reads then wait until
// all clients have been next.
func (t *turns) giveBack() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.lines) == 0 {
		t.taken--
		return
	}
	next := t.lines[0]
	t.lines = slices.Delete(t.lines, 0, 1)
	close(next.waiting[0])
	if next.waiting = slices.Delete(next.waiting, 0, 1); len(next.waiting) > 0 {
		t.lines = append(t.lines, next)
	}
}

type clientKey struct{}

// withClient notes whose read it is: the host that the connection comes from. What a header
// says of others on the way is not looked at, as any client can write it.
func withClient(ctx context.Context, r *http.Request) context.Context {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	return context.WithValue(ctx, clientKey{}, host)
}

// clientOf returns whose read it is; those of nobody are all one client's.
func clientOf(ctx context.Context) string {
	client, _ := ctx.Value(clientKey{}).(string)
	return client
}

// queue has queries take turns. Unlike Prometheus's own tracker it keeps no file of the running
// ones, and tells a query that waited too long to come again. The engine takes a turn twice for
// each query: to parse it, and to evaluate it.
type queue struct{ turns *turns }

func newQueue(limit int) *queue { return &queue{newTurns(limit)} }

// GetMaxConcurrent implements promql.QueryTracker.
func (q *queue) GetMaxConcurrent() int { return q.turns.limit }

// Insert implements promql.QueryTracker: it waits for a turn while ctx lasts.
func (q *queue) Insert(ctx context.Context, _ string) (int, error) {
	if err := q.turns.take(ctx); err != nil {
		return 0, busy(err)
	}
	return 0, nil
}

// Delete implements promql.QueryTracker.
func (q *queue) Delete(int) { q.turns.giveBack() }

// Close implements promql.QueryTracker. There is nothing to close.
func (*queue) Close() error { return nil }
