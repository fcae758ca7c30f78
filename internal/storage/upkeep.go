package storage

import (
	"context"
	"sync"
)

// upkeep is the gate of those who write blocks, which can take long: who shuts it tells
// those inside to end.
type upkeep struct {
	gate
	mu     sync.Mutex
	inside context.Context // ends when the gate is shut
	cancel context.CancelCauseFunc
}

func newUpkeep() *upkeep {
	u := &upkeep{}
	u.inside, u.cancel = context.WithCancelCause(context.Background())
	return u
}

// begin lets the caller in, who calls leave in the end and stops when the context that is
// returned does, or returns what the gate was shut with.
func (u *upkeep) begin(ctx context.Context) (_ context.Context, leave func(), err error) {
	if err := u.enter(); err != nil {
		return nil, nil, err
	}
	u.mu.Lock()
	inside := u.inside
	u.mu.Unlock()
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(inside, func() { cancel(context.Cause(inside)) })
	return ctx, func() {
		stop()
		cancel(nil)
		u.leave()
	}, nil
}

// shut is that of the gate, and ends what is done inside with the same error.
func (u *upkeep) shut(refusal error) <-chan struct{} {
	empty := u.gate.shut(refusal)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.cancel(refusal)
	return empty
}

// open is that of the gate.
func (u *upkeep) open() {
	u.mu.Lock()
	u.inside, u.cancel = context.WithCancelCause(context.Background())
	u.mu.Unlock()
	u.gate.open()
}
