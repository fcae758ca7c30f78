package storage

import "math"

// Holding is about how much a store holds.
type Holding struct {
	// Series are those in memory.
	Series uint64
	// Bytes is what blocks, logs and head chunks take on disk.
	Bytes uint64
	// Oldest is the time of the oldest sample, in milliseconds; math.MaxInt64 if there is
	// none. Samples that came out of order and are not in a block yet may be older.
	Oldest int64
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
	}
	// With an out-of-order window without end the head's own answer has none, once it was cut.
	if oldest := head.MinOOOTime(); oldest <= head.MaxOOOTime() && oldest > math.MinInt64/8 {
		h.Oldest = min(h.Oldest, oldest)
	}
	for _, b := range s.db.Blocks() {
		h.Bytes += uint64(b.Size())
		h.Oldest = min(h.Oldest, b.MinTime())
	}
	return h, nil
}
