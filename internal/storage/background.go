package storage

import (
	"context"
	"log/slog"
	"runtime"
	"sync/atomic"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
)

// background holds the TSDB's own goroutine while the store is fenced. Every minute that
// goroutine looks which blocks are at the path, and forgets those that are not: with the
// disk unmounted, all of them, and answers would lack them. Then it writes the chunks that
// are complete, and panics, which ends the process, where the disk does not take them.
//
// Before both it asks which blocks may be deleted, or logs why it could not even list them,
// so that is where it is held, until the TSDB is closed. Then it ends at once: what is left
// to do is done anew by the next TSDB.
type background struct {
	fence *fence
	// expired tells which blocks are to be deleted.
	expired func([]*tsdb.Block) map[ulid.ULID]struct{}
	// late hears what the TSDB logs.
	late   *lateGate
	closed <-chan struct{}         // by the TSDB's Close, which then waits for the goroutine
	db     atomic.Pointer[tsdb.DB] // nil while it opens
}

// attach has a TSDB of these options call b. The options have a way to make a compactor.
func (b *background) attach(o *tsdb.Options) {
	o.BlocksToDelete = b.blocksToDelete
	compactor := o.NewCompactorFunc
	o.NewCompactorFunc = func(ctx context.Context, r prometheus.Registerer, l *slog.Logger, ranges []int64, pool chunkenc.Pool, o *tsdb.Options) (tsdb.Compactor, error) {
		b.closed = ctx.Done()
		return compactor(ctx, r, l, ranges, pool, o)
	}
}

// blocksToDelete is called by the goroutine of the TSDB, and by who opens it, when nothing
// is deleted yet.
func (b *background) blocksToDelete(blocks []*tsdb.Block) map[ulid.ULID]struct{} {
	if b.db.Load() == nil {
		return nil
	}
	b.hold()
	return b.expired(blocks)
}

// hold does not return to a fenced TSDB that has been opened.
func (b *background) hold() {
	if b.db.Load() != nil && b.fence.check() != nil {
		<-b.closed
		runtime.Goexit()
	}
}

// logger returns the logger for the TSDB.
func (b *background) logger(l *slog.Logger) *slog.Logger {
	return slog.New(holdingHandler{Handler: l.Handler(), b: b})
}

// holdingHandler holds who logs that blocks could not be listed, and has late hear everything.
type holdingHandler struct {
	slog.Handler
	b *background
}

// Handle implements slog.Handler.
func (h holdingHandler) Handle(ctx context.Context, r slog.Record) error {
	var err error
	if h.Handler.Enabled(ctx, r.Level) {
		err = h.Handler.Handle(ctx, r)
	}
	h.b.late.heard(r)
	if r.Message == "reloadBlocks" {
		h.b.hold()
	}
	return err
}

// Enabled implements slog.Handler: no level keeps from Handle what it looks at.
func (h holdingHandler) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= slog.LevelInfo || h.Handler.Enabled(ctx, l)
}

// WithAttrs implements slog.Handler.
func (h holdingHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return holdingHandler{Handler: h.Handler.WithAttrs(attrs), b: h.b}
}

// WithGroup implements slog.Handler.
func (h holdingHandler) WithGroup(name string) slog.Handler {
	return holdingHandler{Handler: h.Handler.WithGroup(name), b: h.b}
}
