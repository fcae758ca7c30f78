package handoff

import (
	"context"
	"encoding/binary"
	"errors"

	"github.com/cespare/xxhash/v2"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"

	"github.com/starling-tsdb/starling/internal/merge"
	"github.com/starling-tsdb/starling/internal/proof"
	"github.com/starling-tsdb/starling/internal/series"
)

// Queryable is a store that is summed up.
type Queryable interface {
	Querier(mint, maxt int64) (storage.Querier, error)
	ChunkQuerier(mint, maxt int64) (storage.ChunkQuerier, error)
}

// Sum reads a window of what a store holds, in milliseconds, both ends inclusive, and adds each
// series that matches to the sums that into returns for its labels, at its key; to none if it
// returns none. It sums up samples, or, encoded, chunks as they are: that is a small part of the
// work. Where those sums are the same, the samples are; chunks that were cut elsewhere differ, and
// have the same samples. It ends with ctx, with its cause.
func Sum(ctx context.Context, s Queryable, window proof.Range, matchers []*labels.Matcher, encoded bool, into func(labels.Labels) (key uint64, sums []*proof.Sums)) error {
	if encoded {
		q, err := s.ChunkQuerier(window.Min, window.Max)
		if err != nil {
			return err
		}
		return errors.Join(sumUpEncoded(ctx, q, window, matchers, into), q.Close())
	}
	q, err := s.Querier(window.Min, window.Max)
	if err != nil {
		return err
	}
	return errors.Join(sumUpSamples(ctx, q, window, matchers, into), q.Close())
}

func sumUpSamples(ctx context.Context, q storage.Querier, window proof.Range, matchers []*labels.Matcher, into func(labels.Labels) (key uint64, sums []*proof.Sums)) error {
	set := q.Select(ctx, false, &storage.SelectHints{Start: window.Min, End: window.Max}, matchers...)
	var digest merge.Digest
	var it chunkenc.Iterator
	var sample series.Sample // one for all: the digest has it escape
	for set.Next() {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		s := set.At()
		key, sums := into(s.Labels())
		if len(sums) == 0 {
			continue
		}
		digest.Reset(s.Labels())
		it = s.Iterator(it)
		for typ := it.Next(); typ != chunkenc.ValNone; typ = it.Next() {
			if t := it.AtT(); t < window.Min || t > window.Max {
				continue
			}
			sample = merge.SampleAt(it, typ)
			digest.Add(&sample)
		}
		if err := it.Err(); err != nil {
			return err
		}
		for _, sum := range sums {
			sum[proof.KeyRange(key)] += digest.Sum()
		}
	}
	return set.Err()
}

func sumUpEncoded(ctx context.Context, q storage.ChunkQuerier, window proof.Range, matchers []*labels.Matcher, into func(labels.Labels) (key uint64, sums []*proof.Sums)) error {
	set := q.Select(ctx, false, &storage.SelectHints{Start: window.Min, End: window.Max}, matchers...)
	var hash xxhash.Digest
	var it chunks.Iterator
	var buffer []byte
	for set.Next() {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		s := set.At()
		key, sums := into(s.Labels())
		if len(sums) == 0 {
			continue
		}
		hash.Reset()
		buffer = s.Labels().Bytes(buffer[:0])
		empty := true
		for it = s.Iterator(it); it.Next(); {
			m := it.At()
			if m.MaxTime < window.Min || m.MinTime > window.Max {
				continue
			}
			empty = false
			buffer = binary.LittleEndian.AppendUint64(buffer, uint64(m.MinTime))
			buffer = binary.LittleEndian.AppendUint64(buffer, uint64(len(m.Chunk.Bytes())))
			buffer = append(append(buffer, byte(m.Chunk.Encoding())), m.Chunk.Bytes()...)
			_, _ = hash.Write(buffer) // never fails
			buffer = buffer[:0]
		}
		if err := it.Err(); err != nil {
			return err
		}
		if empty {
			continue
		}
		for _, sum := range sums {
			sum[proof.KeyRange(key)] += hash.Sum64()
		}
	}
	return set.Err()
}
