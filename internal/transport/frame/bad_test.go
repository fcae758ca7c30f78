package frame

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/starling-tsdb/starling/internal/series"
)

// handmade is a frame with a header of such numbers.
func handmade(nSeries, nSamples, nFamilies uint32, rest ...byte) []byte {
	var b []byte
	for _, n := range []uint32{nSeries, nSamples, nFamilies} {
		b = binary.LittleEndian.AppendUint32(b, n)
	}
	return append(b, rest...)
}

// minusOne is a signed varint.
const minusOne = 1

func TestBadFramesAreRefused(t *testing.T) {
	high := binary.AppendVarint(nil, maxIndex)
	text := []byte{0, 1, 'a'}
	define := append([]byte{general | byDefinition, 0, 1}, append(text, text...)...)
	for name, tc := range map[string]struct {
		frame []byte
		want  error
	}{
		"nothing":             {nil, errEnds},
		"half a header":       {make([]byte, headerBytes-1), errEnds},
		"too many series":     {handmade(1<<31, 0, 0, 1, 2), errEnds},
		"too many samples":    {handmade(0, 1<<31, 0, 1, 2), errEnds},
		"too many families":   {handmade(0, 0, 1<<31, 1, 2), errEnds},
		"too much memory":     {handmade(6<<20, 0, 0, make([]byte, 12<<20)...), errMemory},
		"unknown number":      {handmade(1, 1, 0, integer<<kindShift, 0), errUnknown},
		"unknown high number": {handmade(1, 1, 0, append([]byte{jump | integer<<kindShift}, append(binary.AppendVarint(nil, maxIndex-1), 0)...)...), errUnknown},
		"number too high":     {handmade(1, 0, 0, append([]byte{general | byDefinition}, append(high, 0, 0)...)...), errIndex},
		"number too low":      {handmade(1, 0, 0, general|byDefinition, minusOne, 0, 0), errIndex},
		"no sample left":      {handmade(1, 0, 0, integer<<kindShift, 0), errCounts},
		"samples left":        {handmade(1, 1, 0, general|byLabels, 0, 0), errCounts},
		"more samples":        {handmade(1, 1, 0, general|byLabels, 0, 2, integer<<kindShift, 2, integer<<kindShift, 2), errCounts},
		"control":             {handmade(1, 0, 0, general|1<<3, 0, 0), errControl},
		"naming":              {handmade(1, 0, 0, general|nameMask, 0, 0), errControl},
		"control of a sample": {handmade(1, 1, 0, general|byLabels, 0, 1, jump|integer<<kindShift, 0), errControl},
		"kind of a histogram": {handmade(1, 1, 0, general|byLabels, 0, 1, native|integer<<kindShift, 0), errControl},
		"long histogram":      {handmade(1, 1, 0, general|byLabels, 0, 1, native, 9), errEnds},
		"no such text":        {handmade(1, 0, 0, general|byLabels, 1, 1, 1, 0), errText},
		"long text":           {handmade(1, 0, 0, general|byLabels, 1, 0, 99, 0), errEnds},
		"many labels":         {handmade(1, 0, 0, general|byLabels, 99, 0, 0), errEnds},
		"short value":         {handmade(1, 1, 0, general|byLabels, 0, 1, raw, 1, 2, 3), errEnds},
		"exemplars":           {handmade(1, 0, 0, general|byLabels|exemplars, 0, 0, 9, 0), errEnds},
		"no metadata":         {handmade(0, 0, 1, 0, 0), errEnds},
		"rest":                {handmade(0, 0, 0, 1), errRest},
		"rest of a series":    {handmade(1, 0, 0, append(define, 0, 7)...), errRest},
	} {
		if _, err := NewDecoder(nil).Decode(tc.frame); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
	}
	d := NewDecoder(nil)
	d.entries = maxEntries
	if _, err := d.Decode(handmade(1, 0, 0, append(define, 0)...)); !errors.Is(err, errEntries) {
		t.Errorf("a definition too many: %v", err)
	}
}

// FuzzDecoder: whatever comes is a batch or an error, and a batch travels on unchanged. The
// input is two frames of one stream: the length of the first one, and both.
func FuzzDecoder(f *testing.F) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 8 {
		reg := &registry{handles: make([]*series.Handle, 10)}
		e := &Encoder{}
		var frames [][]byte
		for range 2 {
			out, _, err := e.Append(nil, reg.batch(rng), 0)
			if err != nil {
				f.Fatal(err)
			}
			frames = append(frames, out)
		}
		f.Add(slices.Concat(binary.LittleEndian.AppendUint16(nil, uint16(len(frames[0]))), frames[0], frames[1]))
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		if len(input) < 2 {
			return
		}
		n := min(int(binary.LittleEndian.Uint16(input)), len(input)-2)
		d, e, again := NewDecoder(nil), &Encoder{}, NewDecoder(nil)
		serial := uint64(0)
		for _, frame := range [][]byte{input[2 : 2+n], input[2+n:]} {
			b, err := d.Decode(frame)
			if err != nil {
				return
			}
			if b.Bytes() < 0 {
				t.Fatal("a batch of less than nothing")
			}
			// The handles are of a receiver, whose numbers say nothing.
			for i := range b.Series {
				if h := b.Series[i].Handle; h != nil {
					b.Series[i].Handle = &series.Handle{Labels: h.Labels, Index: uint32(i), Serial: serial}
					serial++
				}
			}
			// Encoded, since NaN does not equal itself.
			var encoded [2][]byte
			part := carry(t, e, again, b)[0]
			for round := range encoded {
				for i := range part.Series {
					part.Series[i].Handle = nil
				}
				if encoded[round], _, err = (&Encoder{}).Append(nil, part, 0); err != nil {
					t.Fatal(err)
				}
				if part, err = NewDecoder(nil).Decode(encoded[round]); err != nil {
					t.Fatal(err)
				}
			}
			if !bytes.Equal(encoded[0], encoded[1]) {
				t.Fatalf("%x became %x", encoded[0], encoded[1])
			}
		}
	})
}
