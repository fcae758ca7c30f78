package pushdown

import "fmt"

// Grid is the steps at which a query is evaluated. Times are in milliseconds.
type Grid struct {
	// Start and End are inclusive; Step is positive, also where there is only one step.
	Start, End, Step int64
	// Lookback is how old the last sample of a series may be to count as present: it is not,
	// if it is exactly so old.
	Lookback int64
}

// Len returns the number of steps.
func (g Grid) Len() int { return int((g.End-g.Start)/g.Step) + 1 }

// maxSteps is far more than a query of the HTTP interface may have.
const maxSteps = 1 << 20

// Check refuses steps that do not end.
func (g Grid) Check() error {
	if g.Step <= 0 || g.End < g.Start || uint64(g.End-g.Start)/uint64(g.Step) >= maxSteps {
		return fmt.Errorf("steps of %d ms from %d to %d: there have to be between 1 and %d", g.Step, g.Start, g.End, maxSteps)
	}
	return nil
}

// Span returns the times of the oldest and the newest sample that a fragment looks at, in
// milliseconds, both inclusive.
func (f *Fragment) Span(g Grid) (mint, maxt int64) {
	return g.Start - f.Offset - f.back(g) + 1, g.End - f.Offset
}

// back is how long before a step a fragment looks at samples: at those after that time, up to that of
// the step.
func (f *Fragment) back(g Grid) int64 {
	if f.Call != nil {
		return f.Range
	}
	return g.Lookback
}

// Looks returns what tells whether a fragment looks at samples from mint to maxt, in milliseconds, both
// inclusive and within its Span. It is nil if it looks at all of its Span, as where steps are no further apart than it
// looks back.
func (f *Fragment) Looks(g Grid) func(mint, maxt int64) bool {
	back := f.back(g)
	if g.Step <= back {
		return nil
	}
	first := g.Start - f.Offset
	last := first + int64(g.Len()-1)*g.Step
	return func(mint, maxt int64) bool {
		if mint > last {
			return false
		}
		at := first // the first step that is not before mint
		if mint > first {
			at += (mint - first + g.Step - 1) / g.Step * g.Step
		}
		return at-back < maxt
	}
}
