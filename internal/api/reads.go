package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/starling-tsdb/starling/internal/partial"
)

// maxFormBytes bounds the body of a query, as net/http does for the commonest kind.
const maxFormBytes = 10 << 20

// readPath says how a path is read.
type readPath struct {
	// turns bounds how many run at once; nil where something else does.
	turns *turns
	// form means that parameters may be in the body. It must be false where the body
	// is the request itself.
	form bool
	// text means that errors are plain text, as Prometheus answers them there.
	text bool
}

// read wraps the handler of a path that reads data: it gives the request a deadline,
// its turn, the caller's consent to a partial answer, and a guard.
func (a *API) read(p readPath, next http.HandlerFunc) http.HandlerFunc {
	answer := a.answerError
	if p.text {
		answer = a.answerTextError
	}
	return func(w http.ResponseWriter, r *http.Request) {
		allowed, err := partialParam(w, r, p.form)
		if err != nil {
			answer(w, badData{err})
			return
		}
		v := &verdict{}
		ctx := withClient(context.WithValue(r.Context(), verdictKey{}, v), r)
		ctx, cancel := context.WithTimeout(ctx, a.opts.Limits.QueryTimeout)
		defer cancel()
		if allowed {
			ctx = partial.With(ctx)
		}
		if p.turns != nil {
			if err := p.turns.take(ctx); err != nil {
				answer(w, busy(err))
				return
			}
			defer p.turns.giveBack()
		}
		g := &guard{ResponseWriter: w, ctx: ctx, verdict: v, answer: answer}
		next(g, r.WithContext(ctx))
		g.finish()
	}
}

// partialParam reads the parameter partial_response. Forms are parsed here, so that a
// body which cannot be parsed is an error on every path.
func partialParam(w http.ResponseWriter, r *http.Request, form bool) (bool, error) {
	var value string
	if form && r.Method == http.MethodPost {
		r.Body = http.MaxBytesReader(w, r.Body, maxFormBytes)
		if err := r.ParseMultipartForm(maxFormBytes); err != nil && !errors.Is(err, http.ErrNotMultipart) {
			return false, fmt.Errorf("error parsing form values: %w", err)
		}
		value = r.FormValue("partial_response")
	} else {
		value = r.URL.Query().Get("partial_response")
	}
	if value == "" {
		return false, nil
	}
	allowed, err := strconv.ParseBool(value)
	if err != nil {
		return false, fmt.Errorf("invalid parameter \"partial_response\": %q is neither true nor false", value)
	}
	return allowed, nil
}

// badData marks errors of the request itself.
type badData struct{ error }

func (e badData) Unwrap() error { return e.error }

// busyError says that a read did not get its turn in time.
type busyError struct{ error }

func (e busyError) Unwrap() error   { return e.error }
func (busyError) Unavailable() bool { return true }

// busy explains why waiting for a turn ended with err. A client that has gone is not
// told that we are busy.
func busy(err error) error {
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("waiting for other reads: %w", err)
	}
	return busyError{fmt.Errorf("waiting for other reads: too many run at once, try again later: %w", err)}
}

// whenServing answers 503 in place of the handler while the node cannot serve.
func (a *API) whenServing(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if err := a.opts.Serving(); err != nil {
			w.Header().Set("Retry-After", "5")
			a.answerError(w, notReady{err})
			return
		}
		next(w, r)
	}
}

// notReady is the answer of a node that cannot serve yet, or any more.
type notReady struct{ reason error }

func (e notReady) Error() string   { return "node is not ready: " + e.reason.Error() }
func (e notReady) Unwrap() error   { return e.reason }
func (notReady) Unavailable() bool { return true }
