package receive

import (
	"fmt"
	"slices"

	"github.com/golang/snappy"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/starling-tsdb/starling/internal/handles"
	"github.com/starling-tsdb/starling/internal/series"
)

// maxSnappyRatio is the most that snappy's block format can expand: a copy of three
// bytes stands for at most 64. A body that claims more is refused unread.
const maxSnappyRatio = 22

// maxPooledBuffer keeps one huge request from pinning its buffer for ever.
const maxPooledBuffer = 4 << 20

// RemoteWrite1 decodes a snappy-compressed prometheus.WriteRequest.
func (d *Decoder) RemoteWrite1(body []byte, reserve Reserve) (*Decoded, error) {
	return d.remoteWrite(body, &remoteWrite1, reserve)
}

// RemoteWrite2 decodes a snappy-compressed io.prometheus.write.v2.Request.
func (d *Decoder) RemoteWrite2(body []byte, reserve Reserve) (*Decoded, error) {
	return d.remoteWrite(body, &remoteWrite2, reserve)
}

// dialect is what distinguishes the two messages, whose samples, exemplars and
// histograms are otherwise the same on the wire.
type dialect struct {
	name string
	// symbols is the field of the request with the symbol table, 0 if labels are
	// spelled out.
	symbols protowire.Number
	// series and metadata are fields of the request, the latter 0 if metadata belongs
	// to series.
	series, metadata protowire.Number
	// foreign are the fields of the other message's request. That one's body, sent under
	// this one's name, would otherwise be an empty request, stored with success.
	foreign [2]protowire.Number
	// histograms, exemplars and seriesMetadata are fields of a series.
	histograms, exemplars, seriesMetadata protowire.Number
	// startTimes tells whether samples carry start timestamps.
	startTimes bool
	// contentRequired makes a series without any invalid, as the specification of 2.0
	// has it. In 1.0 such a series is nothing.
	contentRequired bool
}

var (
	remoteWrite1 = dialect{
		name:   "prometheus.WriteRequest",
		series: 1, metadata: 3, foreign: [...]protowire.Number{4, 5},
		histograms: 4, exemplars: 3,
	}
	remoteWrite2 = dialect{
		name:    "io.prometheus.write.v2.Request",
		symbols: 4, series: 5, foreign: [...]protowire.Number{1, 3},
		histograms: 3, exemplars: 4, seriesMetadata: 5,
		startTimes: true, contentRequired: true,
	}
)

// scratch is what decoding needs and can be used again.
type scratch struct {
	labels  labelSet
	symbols [][]byte
	name    []byte
}

// remoteDecoder decodes one body. It is not safe for concurrent use.
type remoteDecoder struct {
	*dialect
	*scratch
	limits            *Limits
	typeAndUnitLabels bool
	budget            budget
	out               *Decoded
	families          families
	// seen counts the series of the request so far, and paid those that memory is reserved
	// for.
	seen, paid int64
	// remembers is set if cursor may be asked for handles.
	remembers bool
	cursor    handles.Cursor
	// slab is where the samples of many small series lie together.
	slab []series.Sample
}

func (d *Decoder) remoteWrite(body []byte, di *dialect, reserve Reserve) (*Decoded, error) {
	buf := d.buffers.Get().(*[]byte)
	defer d.putBuffer(buf)
	msg, err := d.unsnappy(body, buf, reserve)
	if err != nil {
		return nil, err
	}
	r := &remoteDecoder{
		dialect:           di,
		scratch:           d.scratches.Get().(*scratch),
		limits:            &d.limits,
		typeAndUnitLabels: d.opts.TypeAndUnitLabels,
		budget:            budget{limit: d.limits.MaxBatchBytes, reserve: reserve},
		out:               d.decoded.Get().(*Decoded),
	}
	if d.opts.Handles != nil {
		r.remembers, r.cursor = true, d.opts.Handles.Start()
	}
	defer func() {
		r.cursor.Close()
		r.labels.release()
		clear(r.scratch.symbols)
		r.scratch.symbols = r.scratch.symbols[:0]
		if cap(r.scratch.symbols)*int(symbolBytes) <= maxPooledBuffer && cap(r.scratch.name) <= maxPooledBuffer {
			d.scratches.Put(r.scratch)
		}
	}()
	r.families = families{limits: r.limits, out: r.out, budget: &r.budget}
	if err := r.request(msg); err != nil {
		r.out.Batch.Release()
		return nil, fmt.Errorf("%s: %w", di.name, err)
	}
	return r.out, nil
}

// unsnappy decompresses a body, having checked the length it claims.
func (d *Decoder) unsnappy(body []byte, buf *[]byte, reserve Reserve) ([]byte, error) {
	if int64(len(body)) > d.limits.MaxBodyBytes {
		return nil, errorf(TooLarge, "body of %d bytes, the limit is %d", len(body), d.limits.MaxBodyBytes)
	}
	n, err := snappy.DecodedLen(body)
	switch {
	case err != nil:
		return nil, errorf(Malformed, "body is not in snappy's block format: %w", err)
	case int64(n) > d.limits.MaxBodyBytes:
		return nil, errorf(TooLarge, "body of %d bytes when decompressed, the limit is %d", n, d.limits.MaxBodyBytes)
	case n > maxSnappyRatio*len(body):
		return nil, errorf(Malformed, "body of %d bytes claims to decompress to %d, more than snappy can", len(body), n)
	}
	if reserve != nil {
		if err := reserve(int64(n)); err != nil {
			return nil, fmt.Errorf("reserving memory for a request: %w", err)
		}
	}
	// snappy uses the buffer if it is long, not only large, enough.
	msg, err := snappy.Decode((*buf)[:cap(*buf)], body)
	if err != nil {
		return nil, errorf(Malformed, "decompressing: %w", err)
	}
	*buf = msg[:0]
	return msg, nil
}

func (d *Decoder) putBuffer(buf *[]byte) {
	if cap(*buf) <= maxPooledBuffer {
		d.buffers.Put(buf)
	}
}

// request reads the outer message. Symbols come first, because on the wire they may follow
// the series that use them.
func (r *remoteDecoder) request(msg []byte) error {
	if r.dialect.symbols != 0 {
		if err := r.symbolTable(msg); err != nil {
			return err
		}
	}
	r.slab = r.out.slab
	for len(msg) > 0 {
		f, rest, err := next(msg)
		if err != nil {
			return err
		}
		msg = rest
		switch f.num {
		case r.series:
			if err = r.room(&f, rest); err == nil {
				err = r.timeSeries(f.data)
			}
		case r.metadata:
			if err = f.want(protowire.BytesType); err == nil {
				err = r.familyMetadata(f.data)
			}
		case r.foreign[0], r.foreign[1]:
			err = errorf(Malformed, "field %d is none of this message's: is the body of the other version of remote write than its Content-Type says?", f.num)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// symbolTable reads the symbols of a request, counted first: that tells what is needed
// before anything grows.
func (r *remoteDecoder) symbolTable(msg []byte) error {
	var n int64
	err := each(msg, func(f *field) error {
		if f.num != r.dialect.symbols {
			return nil
		}
		n++
		return f.want(protowire.BytesType)
	})
	if err != nil || n == 0 {
		return err
	}
	if err := r.budget.take(n * symbolBytes); err != nil {
		return err
	}
	r.scratch.symbols = slices.Grow(r.scratch.symbols, int(n))
	err = each(msg, func(f *field) error {
		if f.num == r.dialect.symbols {
			r.scratch.symbols = append(r.scratch.symbols, f.data)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if first := r.scratch.symbols[0]; len(first) > 0 {
		return errorf(Malformed, "the first symbol is %s, where the specification has the empty one", quoted(first))
	}
	return nil
}

// room has memory for one more series, and reserves it. Where more must be allocated, the
// series in the rest of the message are counted: that tells how much.
func (r *remoteDecoder) room(f *field, rest []byte) error {
	if err := f.want(protowire.BytesType); err != nil {
		return err
	}
	r.seen++
	if r.seen <= r.paid {
		return nil
	}
	n := int64(1)
	grow := len(r.out.Batch.Series) == cap(r.out.Batch.Series)
	if grow {
		err := each(rest, func(f *field) error {
			if f.num == r.series {
				n++
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	r.paid += n
	if err := r.budget.take(n * seriesBytes); err != nil {
		return err
	}
	if grow {
		r.out.grow(int(n))
		r.slab = r.out.slab
	}
	return nil
}

// familyMetadata reads a prometheus.MetricMetadata.
func (r *remoteDecoder) familyMetadata(msg []byte) error {
	var family, help, unit []byte
	var typ uint64
	for len(msg) > 0 {
		f, rest, err := next(msg)
		if err != nil {
			return err
		}
		msg = rest
		want := protowire.BytesType
		switch f.num {
		case 1:
			typ, want = f.bits, protowire.VarintType
		case 2:
			family = f.data
		case 4:
			help = f.data
		case 5:
			unit = f.data
		default:
			continue
		}
		if err := f.want(want); err != nil {
			return err
		}
	}
	return r.families.add(family, metricType(typ), help, unit)
}
