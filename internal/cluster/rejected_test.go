package cluster

import (
	"errors"
	"fmt"
	"testing"

	"github.com/starling-tsdb/starling/internal/table"
)

// Whoever proposes has to tell a refusal from a failure, wherever the leader is.
func TestRefusalsTravel(t *testing.T) {
	for _, c := range []struct {
		err  error
		code code
		is   error
	}{
		{fmt.Errorf("leave: %w: no node would be left", table.ErrCommand), codeRejected, table.ErrCommand},
		{fmt.Errorf("leave: %w", table.ErrNotFounded), codeNotFounded, table.ErrNotFounded},
		{fmt.Errorf("%w: it is another one", ErrForeign), codeForeign, ErrForeign},
	} {
		r := (&Cluster{}).errorResponse(c.err)
		err := fmt.Errorf("propose: %w", &remoteError{r})
		if r.Code != c.code || !errors.Is(err, c.is) {
			t.Errorf("%v becomes %+v, which is %v: %t", c.err, r, c.is, errors.Is(err, c.is))
		}
		for _, other := range []error{table.ErrCommand, table.ErrNotFounded, ErrForeign, errNotLeader} {
			if !errors.Is(c.is, other) && errors.Is(err, other) {
				t.Errorf("%v becomes %v", c.err, other)
			}
		}
	}
}
