package query

import (
	"errors"
	"time"

	"github.com/starling-tsdb/starling/internal/proof"
)

// ErrManySeries ends a read that looks up more series than it was meant for. It is told to who
// asked for that, and never to a client.
var ErrManySeries = errors.New("more series than one node is to read for all")

// near is a read by the node that asks, instead of by all.
type near struct {
	req    SelectRequest
	states gathered[stated]
}

// nearby returns the read of all series by the node that asks, if that is sure to hold all of them. It fails with
// ErrManySeries where the work is better divided.
func (f *Fanout) nearby(req SelectRequest, states gathered[stated]) (near, bool) {
	most := nearbySeries(f.opts.NearbyWork, req.span())
	if most <= 0 || len(states.answers) < 2 || len(states.warnings) > 0 {
		return near{}, false
	}
	for i, s := range states.answers {
		if s.ID != states.view.Self {
			continue
		}
		only := req.Proof.Only(states.view.Assignment, s.Slot)
		if only == nil {
			return near{}, false
		}
		req.Proof, req.Most = only, most
		states.answers = states.answers[i : i+1]
		return near{req, states}, true
	}
	return near{}, false
}

// nearbySeries is how many series of a range are so much work.
func nearbySeries(work int, span proof.Range) int {
	hours := (float64(span.Max) - float64(span.Min)) / float64(time.Hour.Milliseconds())
	return int(float64(work) / (1 + max(0, hours)))
}

// nearbyResult is what came of a read by the node that asks, as the outcome label names it.
func nearbyResult(err error) string {
	if errors.Is(err, ErrManySeries) {
		return "divided"
	}
	return result(err, false)
}
