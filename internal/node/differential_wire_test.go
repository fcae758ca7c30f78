package node

import (
	"math"
	"math/rand/v2"
	"slices"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
	"google.golang.org/protobuf/encoding/protowire"
)

// wireSeries is a series as a sender puts it into a request.
type wireSeries struct {
	pairs     [][2]string
	samples   []wireSample
	exemplars []wireExemplar
	// odd are series whose message has not the form that encoders give it.
	odd bool
}

type wireSample struct {
	st, t int64
	v     float64
	h     *histogram.Histogram
	fh    *histogram.FloatHistogram
}

type wireExemplar struct {
	pairs [][2]string
	v     float64
	t     int64
}

// speller writes requests of one version, byte by byte: what matters to a node that remembers
// bytes is their order and their spelling.
type speller struct {
	rng     *rand.Rand
	version int
	symbols map[string]uint64
	table   []string
}

func bytesField(out []byte, num protowire.Number, data []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(out, num, protowire.BytesType), data)
}

func varintField(out []byte, num protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(out, num, protowire.VarintType), v)
}

func doubleField(out []byte, num protowire.Number, v float64) []byte {
	return protowire.AppendFixed64(protowire.AppendTag(out, num, protowire.Fixed64Type), math.Float64bits(v))
}

// request returns the body of a request.
func (s *speller) request(all []wireSeries) []byte {
	s.symbols, s.table = map[string]uint64{"": 0}, []string{""}
	var list [][]byte
	for i := range all {
		list = append(list, s.series(&all[i]))
	}
	var head, msg []byte
	number := protowire.Number(1)
	if s.version == 2 {
		number = 5
		for _, text := range s.table {
			head = bytesField(head, 4, []byte(text))
		}
	} else if s.rng.IntN(4) == 0 {
		var m []byte
		m = bytesField(varintField(m, 1, 1), 2, []byte("family"))
		head = bytesField(head, 3, bytesField(m, 4, []byte("what it is")))
	}
	if s.rng.IntN(8) == 0 {
		head = varintField(head, 15, 7)
	}
	first := s.rng.IntN(4) > 0
	if first {
		msg = append(msg, head...)
	}
	for _, b := range list {
		msg = bytesField(msg, number, b)
	}
	if !first {
		msg = append(msg, head...)
	}
	return snappy.Encode(nil, msg)
}

func (s *speller) symbol(text string) uint64 {
	if n, ok := s.symbols[text]; ok && s.rng.IntN(20) > 0 {
		return n
	}
	n := uint64(len(s.table))
	s.table = append(s.table, text)
	s.symbols[text] = n
	return n
}

// labels returns the fields of labels.
func (s *speller) labels(pairs [][2]string, odd bool) (fields [][]byte) {
	if s.version == 2 {
		var packed []byte
		for _, p := range pairs {
			refs := []uint64{s.symbol(p[0]), s.symbol(p[1])}
			if odd && s.rng.IntN(6) == 0 {
				refs[s.rng.IntN(2)] = 1 << 20
			}
			if odd && s.rng.IntN(20) == 0 {
				refs = refs[:1]
			}
			for _, ref := range refs {
				if odd {
					fields = append(fields, varintField(nil, 1, ref))
				}
				packed = protowire.AppendVarint(packed, ref)
			}
		}
		if !odd || s.rng.IntN(2) == 0 {
			return [][]byte{bytesField(nil, 1, packed)}
		}
		return fields
	}
	for _, p := range pairs {
		name, text := bytesField(nil, 1, []byte(p[0])), bytesField(nil, 2, []byte(p[1]))
		switch {
		case odd && s.rng.IntN(3) == 0:
			name, text = text, name
		case odd && p[1] == "":
			text = nil
		case odd && s.rng.IntN(5) == 0:
			name = append(bytesField(nil, 1, []byte("overwritten")), name...)
		}
		fields = append(fields, bytesField(nil, 1, append(name, text...)))
	}
	return fields
}

func (s *speller) series(w *wireSeries) (msg []byte) {
	// What is odd about a series may be its order alone: then its first bytes may be all of another.
	fields := s.labels(w.pairs, w.odd && s.rng.IntN(2) == 0)
	named := len(fields)
	for i := range w.samples {
		fields = append(fields, s.sample(&w.samples[i], w.odd))
	}
	for i := range w.exemplars {
		e := &w.exemplars[i]
		var m []byte
		for _, f := range s.labels(e.pairs, false) {
			m = append(m, f...)
		}
		fields = append(fields, bytesField(nil, s.exemplarField(), varintField(doubleField(m, 2, e.v), 3, uint64(e.t))))
	}
	if s.version == 2 && s.rng.IntN(4) == 0 {
		m := varintField(varintField(nil, 1, 1), 3, s.symbol("what it is"))
		if w.odd && s.rng.IntN(3) == 0 {
			m = varintField(m, 4, 1<<20)
		}
		fields = append(fields, bytesField(nil, 5, m))
	}
	if w.odd {
		switch s.rng.IntN(3) {
		case 0: // labels behind the samples, and between them
			s.rng.Shuffle(len(fields), func(i, j int) { fields[i], fields[j] = fields[j], fields[i] })
		case 1: // something that nobody knows
			fields = slices.Insert(fields, s.rng.IntN(len(fields)+1), bytesField(nil, 14, []byte("unknown")))
		case 2: // what comes first names another series
			last := fields[named-1]
			fields = append(slices.Delete(fields, named-1, named), last)
		}
	}
	return slices.Concat(fields...)
}

// exemplarField is 3 in the first version, and 4 in the second one.
func (s *speller) exemplarField() protowire.Number { return protowire.Number(2 + s.version) }

func (s *speller) sample(w *wireSample, odd bool) []byte {
	if w.h != nil || w.fh != nil {
		return s.histogram(w)
	}
	v, t := doubleField(nil, 1, w.v), varintField(nil, 2, uint64(w.t))
	if math.Float64bits(w.v) == 0 && s.rng.IntN(2) == 0 {
		v = nil
	}
	m := append(v, t...)
	if odd {
		switch s.rng.IntN(4) {
		case 0:
			m = append(t, v...)
		case 1:
			m = append(doubleField(nil, 1, 12345), m...)
			m = append(m, v...)
			if v == nil {
				m = doubleField(m, 1, 0)
			}
		case 2:
			m = varintField(m, 9, 3)
		case 3: // a time that takes more bytes than it needs
			last := len(m) - 1
			m[last] |= 0x80
			m = append(m, 0x80, 0)
		}
	}
	if s.version == 2 && w.st != 0 {
		m = varintField(m, 3, uint64(w.st))
	}
	return bytesField(nil, 2, m)
}

func (s *speller) histogram(w *wireSample) []byte {
	var m []byte
	var err error
	number := protowire.Number(4)
	switch {
	case s.version == 1 && w.h != nil:
		h := prompb.FromIntHistogram(w.t, w.h)
		m, err = h.Marshal()
	case s.version == 1:
		h := prompb.FromFloatHistogram(w.t, w.fh)
		m, err = h.Marshal()
	case w.h != nil:
		h := writev2.FromIntHistogram(w.st, w.t, w.h)
		m, err = h.Marshal()
	default:
		h := writev2.FromFloatHistogram(w.st, w.t, w.fh)
		m, err = h.Marshal()
	}
	if err != nil {
		panic(err) // of a generated encoder, which does not fail
	}
	if s.version == 2 {
		number = 3
	}
	return bytesField(nil, number, m)
}
