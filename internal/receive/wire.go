package receive

import (
	"math"

	"google.golang.org/protobuf/encoding/protowire"
)

// field is one field of a protobuf message.
type field struct {
	num protowire.Number
	typ protowire.Type
	// bits holds numbers, data strings and messages, as part of the body.
	bits uint64
	data []byte
}

func (f *field) float() float64 { return math.Float64frombits(f.bits) }

// next reads the first field of msg and returns the rest. Groups, which only unknown
// fields can be, are skipped over.
func next(msg []byte) (f field, rest []byte, err error) {
	if f, rest, ok := short(msg); ok {
		return f, rest, nil
	}
	num, typ, n := protowire.ConsumeTag(msg)
	if n < 0 {
		return f, nil, malformed(n)
	}
	msg = msg[n:]
	f.num, f.typ = num, typ
	switch typ {
	case protowire.VarintType:
		f.bits, n = protowire.ConsumeVarint(msg)
	case protowire.Fixed64Type:
		f.bits, n = protowire.ConsumeFixed64(msg)
	case protowire.BytesType:
		f.data, n = protowire.ConsumeBytes(msg)
	default:
		n = protowire.ConsumeFieldValue(num, typ, msg)
	}
	if n < 0 {
		return f, nil, malformed(n)
	}
	return f, msg[n:], nil
}

// short is next for what messages mostly consist of: a string or message whose number takes
// one byte and whose length one or two.
func short(msg []byte) (f field, rest []byte, ok bool) {
	if len(msg) < 3 || msg[0] >= 0x80 || msg[0]&7 != byte(protowire.BytesType) || msg[0] < 1<<3 {
		return f, nil, false
	}
	size, begin := int(msg[1]), 2
	if size >= 0x80 {
		if msg[2] >= 0x80 {
			return f, nil, false
		}
		size, begin = size&0x7f|int(msg[2])<<7, 3
	}
	if size > len(msg)-begin {
		return f, nil, false
	}
	f.num, f.typ, f.data = protowire.Number(msg[0]>>3), protowire.BytesType, msg[begin:begin+size:begin+size]
	return f, msg[begin+size:], true
}

// each calls do for every field of msg, until it errs.
func each(msg []byte, do func(*field) error) error {
	var f field
	for len(msg) > 0 {
		var err error
		if f, msg, err = next(msg); err != nil {
			return err
		}
		if err := do(&f); err != nil {
			return err
		}
	}
	return nil
}

func malformed(n int) error {
	return errorf(Malformed, "decoding protobuf: %w", protowire.ParseError(n))
}

// want checks the type of a known field.
func (f *field) want(typ protowire.Type) error {
	if f.typ != typ {
		return errorf(Malformed, "decoding protobuf: field %d has wire type %d, want %d", f.num, f.typ, typ)
	}
	return nil
}
