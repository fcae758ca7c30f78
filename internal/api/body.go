package api

import (
	"errors"
	"io"
	"net/http"

	"github.com/starling-tsdb/starling/internal/receive"
)

// readBody fills buf as the body arrives: who claims much must also send some of it. The
// buffer grows fourfold, so that few bytes are copied and left to the garbage collector,
// and not beyond what was claimed.
func readBody(r *http.Request, buf *[]byte, reserve receive.Reserve) error {
	const firstStep = 512 << 10
	b := (*buf)[:0]
	// The spare byte lets the end of a body of known length be seen without growing.
	want := int(min(max(r.ContentLength, 0), firstStep)) + 1
	if err := reserve(int64(max(want, cap(b)))); err != nil {
		return err
	}
	if cap(b) < want {
		b = make([]byte, 0, want)
	}
	for {
		if len(b) == cap(b) {
			step := max(3*cap(b), 4<<10)
			if rest := int(r.ContentLength) + 1 - cap(b); rest > 0 {
				step = min(step, rest)
			}
			if err := reserve(int64(step)); err != nil {
				return err
			}
			b = append(make([]byte, 0, len(b)+step), b...)
		}
		n, err := r.Body.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		if errors.Is(err, io.EOF) {
			*buf = b
			return nil
		}
		if err != nil {
			return err
		}
	}
}
