package storage

import (
	"context"
	"errors"
	"fmt"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/tsdb"

	"github.com/starling-tsdb/starling/internal/damage"
)

// Findings grows with each damage that is found, before Damage tells of it.
func (s *Store) Findings() uint64 { return s.damage.Findings() }

// NoteDamage notes durably that samples that this store confirmed may be missing.
func (s *Store) NoteDamage(r damage.Range) error { return s.damage.Add(r) }

// Isolate has a damaged range be in nobody's way that makes it good: a damaged block goes out
// of service. Damaged chunks of the head are made anew from the logs, for which the storage
// fences itself and is opened again; then the error is ErrFenced.
func (s *Store) Isolate(ctx context.Context, r damage.Range) error {
	switch r.Kind {
	case damage.Block:
		return s.setAside(ctx, r)
	case damage.HeadChunks:
		// Once: what the logs do not have is made good as all else.
		if found := r.Found.UnixNano(); s.reopenedFor.Swap(found) != found {
			return s.fence.raise(fmt.Errorf("the head's chunks are damaged, and are made anew from the logs: %s", r.Detail))
		}
	}
	return nil
}

// setAside takes a damaged block out of service, if the TSDB has it.
func (s *Store) setAside(ctx context.Context, r damage.Range) error {
	ctx, leave, err := s.upkeep.begin(ctx)
	if err != nil {
		return err
	}
	defer leave()
	id, err := ulid.ParseStrict(r.Name)
	if err != nil || !s.compactor.loaded(id) {
		return nil // it went before the TSDB was opened
	}
	release, ok := s.compactor.reserve(id)
	if !ok {
		return fmt.Errorf("take a damaged block out of service: block %s is just being replaced", id)
	}
	defer release()
	var block *tsdb.Block
	err = s.compactor.do(ctx, s.fence, func(loaded []*tsdb.Block) error {
		for _, b := range loaded {
			if b.Meta().ULID == id {
				block = b
				return s.damage.SetAside(id)
			}
		}
		return nil
	})
	switch {
	case err != nil:
		return fmt.Errorf("take a damaged block out of service: %w", err)
	case block == nil:
		return nil // expired meanwhile
	case s.compactor.loaded(id):
		return errors.New("take a damaged block out of service: the TSDB keeps it open")
	}
	return block.Close() // waits for its readers
}

// Mended says that what a damaged range may lack before a time, in milliseconds, was stored
// and synced, after Findings had returned so many. It is an error if more damage was found
// since.
func (s *Store) Mended(r damage.Range, until int64, findings uint64) error {
	return s.damage.Mended(r, until, findings)
}
