package api

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"

	"github.com/starling-tsdb/starling/internal/partial"
)

// verdict remembers why one request must not succeed.
type verdict struct {
	mu  sync.Mutex
	err error
}

// fail keeps the first error. A nil verdict keeps none.
func (v *verdict) fail(err error) {
	if v == nil {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.err == nil {
		v.err = err
	}
}

func (v *verdict) failure() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.err
}

type verdictKey struct{}

func verdictOf(ctx context.Context) *verdict {
	v, _ := ctx.Value(verdictKey{}).(*verdict)
	return v
}

// partialHeader says what an answer lacks that was given with partial_response=true, on
// every path; where the answer is JSON of Prometheus's API its warnings say so too.
const partialHeader = "Starling-Partial-Response"

// errBroken ends handlers that go on writing an answer which has failed already.
var errBroken = errors.New("the answer has failed, and its connection will be closed")

// guard stands between a read handler and the connection, and sees to it that an
// incomplete answer never looks like a success, whatever the handler does with the
// error. Before the header is out it answers the error in place of the handler. After
// that the connection is broken, so that no client takes the beginning for the whole.
//
// It is used by one goroutine, as any http.ResponseWriter.
type guard struct {
	http.ResponseWriter
	ctx     context.Context
	verdict *verdict
	// answer writes the answer to an error.
	answer func(http.ResponseWriter, error)

	wroteHeader bool
	// succeeds means that the header of a success is out.
	succeeds bool
	// replaced means that answer wrote what the client sees.
	replaced bool
	// broken means that the answer failed after it had begun.
	broken bool
}

// WriteHeader implements http.ResponseWriter.
func (g *guard) WriteHeader(status int) {
	switch {
	case g.wroteHeader:
		// Prometheus's handlers try http.Error in the middle of a stream.
		g.broken = g.broken || (!g.replaced && status >= 400)
		return
	case status < 200:
		g.ResponseWriter.WriteHeader(status)
		return
	}
	g.wroteHeader = true
	if missing := partial.Missing(g.ctx); len(missing) > 0 {
		g.Header().Set(partialHeader, headerValue(missing))
	}
	err := g.verdict.failure()
	if err != nil && (status < 400 || status == http.StatusInternalServerError) {
		g.replaced = true
		resetHeader(g.Header())
		g.answer(g.ResponseWriter, err)
		return
	}
	g.succeeds = status < 400
	g.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (g *guard) Write(p []byte) (int, error) {
	if !g.wroteHeader {
		g.WriteHeader(http.StatusOK)
	}
	if g.replaced {
		return len(p), nil
	}
	if g.broken {
		return 0, errBroken
	}
	return g.ResponseWriter.Write(p)
}

// Flush implements http.Flusher, which streamed remote reads ask for.
func (g *guard) Flush() {
	if !g.wroteHeader {
		g.WriteHeader(http.StatusOK)
	}
	if g.replaced || g.broken {
		return
	}
	// The only error is that the connection below cannot flush: it will at the end.
	_ = http.NewResponseController(g.ResponseWriter).Flush()
}

// Unwrap implements the contract of http.ResponseController.
func (g *guard) Unwrap() http.ResponseWriter { return g.ResponseWriter }

// finish ends the answer when the handler has returned. It panics with
// http.ErrAbortHandler if the client has to see that the answer broke off.
func (g *guard) finish() {
	if !g.wroteHeader {
		g.WriteHeader(http.StatusOK)
	}
	if g.broken || (g.succeeds && g.verdict.failure() != nil) {
		panic(http.ErrAbortHandler)
	}
}

// headerValue joins texts into what a header may hold, cut to a size that every client
// takes.
func headerValue(texts []string) string {
	const maxBytes = 1024
	s := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return ' '
		}
		return r
	}, strings.Join(texts, "; "))
	if len(s) > maxBytes {
		s = s[:maxBytes-3] + "..."
	}
	return s
}

// resetHeader removes what describes a body that will not be sent.
func resetHeader(h http.Header) {
	h.Del("Content-Encoding")
	h.Del("Content-Length")
	h.Del("Content-Type")
}
