package series

import (
	"fmt"

	"github.com/prometheus/prometheus/model/labels"
)

// LabelQuery asks which label names series have, or which values of one of them. The answer is
// sorted, without duplicates.
type LabelQuery struct {
	// Name is the label whose values are asked for; "" asks for names.
	Name string
	// Mint and Maxt bound the samples of the series, in milliseconds, inclusive. Who answers
	// may add labels of series that have samples near, in the same block.
	Mint, Maxt int64
	// Matchers belong to who asks and are not changed.
	Matchers []*labels.Matcher
	// Limit is how many are wanted, the first ones; 0 stands for all.
	Limit int
	// Session is what the node that is asked said of itself before; in another one it refuses. 0
	// stands for any.
	Session uint64
}

// StringOverhead is what a string takes beside its bytes.
const StringOverhead = 16

// TooManyLabelsError ends a LabelQuery that has a node hold more than it may. It is the query's
// fault.
type TooManyLabelsError struct {
	// Limit is in bytes; 0 stands for one that only the text names.
	Limit int64
	// Text is what the node that refused said, if it was another one.
	Text string
}

// Error implements error.
func (e *TooManyLabelsError) Error() string {
	if e.Text != "" {
		return e.Text
	}
	return fmt.Sprintf("a node would hold more than %d bytes to list labels, which is as many as its --query.max-samples allows; ask for fewer, with match[], start and end, or limit", e.Limit)
}
