package receive

import (
	"encoding/binary"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/starling-tsdb/starling/internal/series"
)

// Tags of a prometheus.TimeSeries, of its Label and of its Sample, as every encoder writes them.
const (
	labelTag  = 1<<3 | byte(protowire.BytesType)
	sampleTag = 2<<3 | byte(protowire.BytesType)
	nameTag   = 1<<3 | byte(protowire.BytesType)
	textTag   = 2<<3 | byte(protowire.BytesType)
	valueTag  = 1<<3 | byte(protowire.Fixed64Type)
	timeTag   = 2<<3 | byte(protowire.VarintType)
)

// spelledOut decodes a series of Remote Write 1.0 whose labels, as they stand in the message,
// are remembered. Where they are not, it returns the name to remember the series by: all of
// its labels, which stand at the beginning of the message. Labels that stand elsewhere are
// not remembered.
func (r *remoteDecoder) spelledOut(msg []byte) (name []byte, done bool, err error) {
	h, n := r.cursor.Guess(msg)
	if h != nil && (n == len(msg) || msg[n] != labelTag) {
		r.cursor.Accept()
	} else if n = leadingLabels(msg); n > 0 {
		h = r.cursor.Find(msg[:n])
	}
	if n == 0 {
		return nil, false, nil
	}
	rest := msg[n:]
	if h != nil {
		if sample, ok := onlySample(rest); ok {
			return nil, true, r.single(h, sample)
		}
	}
	count, all, err := r.contents(rest)
	if !all || err != nil {
		return nil, false, err
	}
	if h == nil {
		return msg[:n], false, nil
	}
	if count == (series.Written{}) {
		return nil, true, nil
	}
	return nil, true, r.values(rest, count, series.Series{Labels: h.Labels, Handle: h})
}

// resolved looks up what the labels in the scratch, resolved from symbols and not yet
// canonical, are remembered as, and returns the name of that: what Remote Write 1.0 would
// spell them as.
func (r *remoteDecoder) resolved() (name []byte, h *series.Handle) {
	name = r.scratch.name[:0]
	for i := range r.labels.pairs {
		p := &r.labels.pairs[i]
		name = append(name, labelTag)
		name = protowire.AppendVarint(name, uint64(2+protowire.SizeBytes(len(p.name))+protowire.SizeBytes(len(p.value))))
		name = append(name, nameTag)
		name = protowire.AppendBytes(name, p.name)
		name = append(name, textTag)
		name = protowire.AppendBytes(name, p.value)
	}
	r.scratch.name = name
	h, n := r.cursor.Guess(name)
	if h != nil && n == len(name) {
		r.cursor.Accept()
		return name, h
	}
	return name, r.cursor.Find(name)
}

// named returns a series by its handle, or, where there is none, by the canonical labels in
// the scratch, which are remembered by the name if there is one.
func (r *remoteDecoder) named(name []byte, h *series.Handle) series.Series {
	if h == nil {
		ls := r.labels.build()
		if name != nil {
			h = r.cursor.Add(name, ls)
		}
		if h == nil {
			return series.Series{Labels: ls}
		}
	}
	return series.Series{Labels: h.Labels, Handle: h}
}

// single adds a series with one sample.
func (r *remoteDecoder) single(h *series.Handle, sample series.Sample) error {
	if err := r.budget.take(sampleBytes); err != nil {
		return err
	}
	s := series.Series{Labels: h.Labels, Handle: h, Samples: append(r.samples(1), sample)}
	r.out.Batch.Series = append(r.out.Batch.Series, s)
	return nil
}

// leadingLabels returns the length of the labels that a message begins with.
func leadingLabels(msg []byte) int {
	n := 0
	for n < len(msg) && msg[n] == labelTag {
		size, m := protowire.ConsumeVarint(msg[n+1:])
		if m < 0 || size > uint64(len(msg)-n-1-m) {
			return 0 // the general way says what is wrong
		}
		n += 1 + m + int(size)
	}
	return n
}

// plainLabel reads a label of short texts, in the form that encoders give it. What has another
// form is not of interest here.
func plainLabel(msg []byte) (name, value []byte, ok bool) {
	if len(msg) < 4 || len(msg) >= 0x80 || msg[0] != nameTag {
		return nil, nil, false
	}
	end := 2 + int(msg[1])
	if end+2 > len(msg) || msg[end] != textTag || int(msg[end+1]) != len(msg)-end-2 {
		return nil, nil, false
	}
	return msg[2:end], msg[end+2:], true
}

// onlySample reads the rest of a series that is one float sample, in the form that encoders
// give it. What has another form is not of interest here.
func onlySample(rest []byte) (s series.Sample, ok bool) {
	const fixed = 2 + 1 + 8 + 1 // up to the time
	if len(rest) <= fixed || len(rest) >= 0x80 || rest[0] != sampleTag || int(rest[1]) != len(rest)-2 || rest[2] != valueTag || rest[11] != timeTag {
		return s, false
	}
	t, n := protowire.ConsumeVarint(rest[fixed:])
	if n != len(rest)-fixed {
		return s, false
	}
	f := field{bits: binary.LittleEndian.Uint64(rest[3:])}
	return series.Sample{T: int64(t), V: f.float()}, true
}

// contents counts what a message of Remote Write 1.0 holds behind its labels. It is not all
// of it if there are labels, too.
func (r *remoteDecoder) contents(rest []byte) (count series.Written, all bool, err error) {
	all = true
	err = each(rest, func(f *field) error {
		switch f.num {
		case 1:
			all = false
		case 2:
			count.Samples++
		case r.histograms:
			count.Histograms++
		case r.exemplars:
			count.Exemplars++
		default:
			return nil
		}
		return f.want(protowire.BytesType)
	})
	return count, all, err
}
