package receive

import "google.golang.org/protobuf/encoding/protowire"

// OTLP's own decoder recurses as deep as a body is nested and builds whatever the body
// says, at up to a hundred bytes of memory for one of body. So a body is walked first,
// without allocating, to see how deep it goes and about how large it will be.

// maxNesting bounds the nesting of a body. Ordinary ones come to 9 levels, or 16 in
// JSON, before structured attribute values.
const maxNesting = 64

// jsonObjectBytes is what an object of OTLP's JSON takes when decoded, on average. A
// null stands for an empty object.
const jsonObjectBytes = 160

// message is a type of OTLP message, as far as memory goes.
type message struct {
	// bytes is about what one takes, with its place in its parent.
	bytes int64
	// perByte is what its own payload expands to.
	perByte int64
	// fields are those that hold messages.
	fields map[protowire.Number]*message
}

// otlpMessages describes the request of OTLP's metrics service.
func otlpMessages() *message {
	type fields = map[protowire.Number]*message
	value := &message{bytes: 40}
	keyValue := &message{bytes: 72, fields: fields{2: value}}
	value.fields = fields{
		5: {bytes: 40, fields: fields{1: value}},
		6: {bytes: 40, fields: fields{1: keyValue}},
	}
	exemplar := &message{bytes: 96, fields: fields{7: keyValue}}
	buckets := &message{perByte: 8}
	points := func(attributes, exemplars protowire.Number, more fields) *message {
		p := &message{bytes: 240, fields: fields{attributes: keyValue}}
		if exemplars != 0 {
			p.fields[exemplars] = exemplar
		}
		for num, m := range more {
			p.fields[num] = m
		}
		return &message{bytes: 48, fields: fields{1: p}}
	}
	numbers := points(7, 5, nil)
	metric := &message{bytes: 128, fields: fields{
		5:  numbers,
		7:  numbers,
		9:  points(9, 8, nil),
		10: points(1, 11, fields{8: buckets, 9: buckets}),
		11: points(7, 0, fields{6: {bytes: 32}}),
		12: keyValue,
	}}
	scope := &message{bytes: 144, fields: fields{
		1: {fields: fields{3: keyValue}},
		2: metric,
	}}
	resource := &message{bytes: 160, fields: fields{
		1:    {fields: fields{1: keyValue, 3: {bytes: 80}}},
		2:    scope,
		1000: scope,
	}}
	return &message{fields: fields{1: resource}}
}

// scanProto charges what decoding msg will take.
func (m *message) scanProto(msg []byte, depth int, b *budget) error {
	if depth > maxNesting {
		return errorf(Malformed, "message nested more than %d deep", maxNesting)
	}
	if err := b.take(m.bytes + m.perByte*int64(len(msg))); err != nil {
		return err
	}
	for len(msg) > 0 {
		f, rest, err := next(msg)
		if err != nil {
			return err
		}
		msg = rest
		if sub := m.fields[f.num]; sub != nil && f.typ == protowire.BytesType {
			if err := sub.scanProto(f.data, depth+1, b); err != nil {
				return err
			}
		}
	}
	return nil
}

// scanJSON is scanProto for JSON, of which it looks at brackets and strings only.
func scanJSON(msg []byte, b *budget) error {
	depth, inString := 0, false
	for i := 0; i < len(msg); i++ {
		c := msg[i]
		switch {
		case inString && c == '\\':
			i++
			continue
		case c == '"':
			inString = !inString
			continue
		case inString:
			continue
		}
		switch c {
		case '{', '[':
			if depth++; depth > maxNesting {
				return errorf(Malformed, "JSON nested more than %d deep", maxNesting)
			}
		case '}', ']':
			depth--
		}
		if c == '{' || c == 'n' {
			if err := b.take(jsonObjectBytes); err != nil {
				return err
			}
		}
	}
	return nil
}
