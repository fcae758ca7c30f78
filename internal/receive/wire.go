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
