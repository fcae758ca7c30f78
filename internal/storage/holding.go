package storage

import "math"

// Holding is about how much a store holds.
type Holding struct {
	// Series are those in memory.
	Series uint64
	// Bytes is what blocks, logs and head chunks take on disk.
	Bytes uint64
	// Oldest is the time of the oldest sample that is not expired, in milliseconds;
	// math.MaxInt64 if there is none. Samples that came out of order and are not in a block yet may be older.
	Oldest int64
	// Extents are where in time the bytes are: a block each, and what is in memory.
	Extents []Extent
}

// Extent says that samples of a time, in milliseconds, both ends inclusive, take so much on
// disk.
type Extent struct {
	Min, Max int64
	Bytes    uint64
}

// Holding is cheap, but for a look at the directories of the logs.
func (s *Store) Holding() (Holding, error) {
	if err := s.readers.enter(); err != nil {
		return Holding{}, err
	}
	defer s.readers.leave()
	head := s.db.Head()
	h := Holding{Series: head.NumSeries(), Bytes: uint64(head.Size()), Oldest: math.MaxInt64}
	if head.MinTime() <= head.MaxTime() {
		h.Oldest = head.MinTime()
		h.Extents = append(h.Extents, Extent{Min: head.MinTime(), Max: head.MaxTime(), Bytes: h.Bytes})
	}
	// With an out-of-order window without end the head's own answer has none, once it was cut.
	if oldest := head.MinOOOTime(); oldest <= head.MaxOOOTime() && oldest > math.MinInt64/8 {
		h.Oldest = min(h.Oldest, oldest)
	}
	for _, b := range s.db.Blocks() {
		h.Bytes += uint64(b.Size())
		h.Oldest = min(h.Oldest, b.MinTime())
		h.Extents = append(h.Extents, Extent{Min: b.MinTime(), Max: b.MaxTime() - 1, Bytes: uint64(b.Size())})
	}
	h.Oldest = max(h.Oldest, s.Horizon().At())
	return h, nil
}
