package evaluate

import (
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
)

// iterated is what appendXOR is to give: by the chunk's own iterator.
func iterated(c chunkenc.Chunk, mint, maxt int64, dropStale bool) ([]promql.FPoint, error) {
	var ps []promql.FPoint
	it := c.Iterator(nil)
	for it.Next() != chunkenc.ValNone {
		t, v := it.At()
		if t > maxt {
			break
		}
		if t >= mint && !(dropStale && value.IsStaleNaN(v)) {
			ps = append(ps, promql.FPoint{T: t, F: v})
		}
	}
	return ps, it.Err()
}

// same compares by bits.
func same(a, b promql.FPoint) bool {
	return a.T == b.T && math.Float64bits(a.F) == math.Float64bits(b.F)
}

func TestAppendXORGivesWhatTheIteratorGives(t *testing.T) {
	for seed := range 3000 {
		r := rand.New(rand.NewPCG(uint64(seed), 2))
		c := chunkenc.NewXORChunk()
		app, err := c.Appender()
		if err != nil {
			t.Fatal(err)
		}
		next, at, v := kinds[r.IntN(len(kinds))], r.Int64N(1e13)-5e12, float64(r.IntN(1000))
		widths := []int64{2, 100, 1 << 13, 1 << 16, 1 << 19, 1 << 40}
		width := widths[r.IntN(len(widths))]
		n, regular, steady := r.IntN(150), r.IntN(2) == 0, r.IntN(3)
		for range n {
			if r.IntN(10) >= 4*steady { // else the value stays
				v = next(r, v)
			}
			if r.IntN(20) == 0 {
				v = math.Float64frombits(r.Uint64())
			}
			if r.IntN(20) == 0 {
				v = math.Float64frombits(value.StaleNaN)
			}
			if at += width; !regular || r.IntN(20) == 0 {
				at -= r.Int64N(width)
			}
			app.Append(0, at, v)
		}
		mint, maxt := int64(math.MinInt64), int64(math.MaxInt64)
		if r.IntN(2) == 0 {
			mint, maxt = at-r.Int64N(width)*int64(n+1), at-r.Int64N(width)*int64(n/2+1)
		}
		drop := r.IntN(2) == 0
		want, _ := iterated(c, mint, maxt, drop)
		got, err := appendXOR(nil, c.Bytes(), mint, maxt, drop)
		if err != nil || !slices.EqualFunc(got, want, same) {
			t.Fatalf("seed %d: have %v, %v\nwant %v", seed, got, err, want)
		}

		// If bytes are missing that is an error, unless they are after maxt.
		cut := c.Bytes()[:r.IntN(len(c.Bytes()))]
		got, err = appendXOR(nil, cut, mint, maxt, drop)
		if !errors.Is(err, io.EOF) && len(got) < len(want) || len(got) > len(want) || !slices.EqualFunc(got, want[:len(got)], same) {
			t.Fatalf("seed %d: have %v, %v\nof %v", seed, got, err, want)
		}
	}
}

// FuzzAppendXOR only wants it not to panic, and to end.
func FuzzAppendXOR(f *testing.F) {
	c := chunkenc.NewXORChunk()
	app, _ := c.Appender()
	for i := range 10 {
		app.Append(0, int64(i*i), float64(i))
	}
	f.Add(c.Bytes())
	f.Fuzz(func(t *testing.T, chunk []byte) {
		if ps, _ := appendXOR(nil, chunk, math.MinInt64, math.MaxInt64, false); len(ps) > math.MaxUint16 {
			t.Errorf("%d samples", len(ps))
		}
	})
}
