// Package api is the HTTP front door of a node: Prometheus's own API handlers over the
// whole cluster, federation, the write paths, and the pages that operators look at.
//
// The JSON of the read paths, their parameters and their errors are Prometheus's,
// because its handlers produce them. What this package adds is honesty about
// incompleteness: an error that means "not everything could be read" becomes status 503
// on every path, and never a success that lacks something.
package api

import (
	"log/slog"
	"net/http"
	"time"
)

// API serves the HTTP paths of a node. Its handler may be used concurrently.
type API struct {
	opts    Options
	logger  *slog.Logger
	start   time.Time
	metrics *metrics
	// reads answers everything that does not go through the query engine.
	reads readQueryable
	// readTurns bounds reads other than queries and remote reads.
	readTurns *turns
	// remoteReadTurns bounds remote reads, so that one which has to wait too long is
	// told 503; the gate within Prometheus's handler would answer 500.
	remoteReadTurns *turns
	handler         http.Handler
}

// New builds the API and registers its metrics. An error names the option at fault.
func New(opts Options) (*API, error) {
	if err := opts.fill(); err != nil {
		return nil, err
	}
	a := &API{
		opts:            opts,
		logger:          opts.Logger,
		start:           opts.Now().UTC(),
		metrics:         newMetrics(opts.Registerer),
		reads:           readQueryable{opts.Sources.Queryable},
		readTurns:       newTurns(opts.Limits.MaxConcurrent),
		remoteReadTurns: newTurns(opts.Limits.RemoteReadConcurrent),
	}
	a.handler = a.observed(a.routes())
	return a, nil
}

// Handler serves all paths. Panics of handlers are caught, logged and answered with 500,
// except http.ErrAbortHandler, which breaks the connection of an answer that went wrong
// after it had begun.
func (a *API) Handler() http.Handler { return a.handler }
