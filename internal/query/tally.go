package query

// tally decides when the answers of a fan-out suffice. It is pure.
//
// Everything acknowledged lies on at least quorum owners of its series, so nodes that can
// own fewer copies of a series than that cannot be all that hold it. With a quorum of 0
// nothing was ever acknowledged. Whatever the quorum, an answer needs a node that gave one.
// Where more nodes were given up than that allows for, what all the others have is all there is.
type tally struct {
	// outcomes are by node.
	outcomes []outcome
	quorum   int
	// mostCopies returns how many copies of one series can lie on the nodes that are told;
	// nil stands for one on each.
	mostCopies func(told func(node int) bool) int
	// ahead is set when a node refused because its table is newer than ours or of
	// unknown age: what suffices by our table may not by its.
	ahead bool
}

// outcome is what became of a node's question.
type outcome int

const (
	isOpen outcome = iota
	hasAnswered
	hasFailed
)

func (t *tally) count(o outcome) int {
	n := 0
	for _, other := range t.outcomes {
		if other == o {
			n++
		}
	}
	return n
}

// allowed is how many copies of a series may be missing from a complete answer.
func (t *tally) allowed() int {
	if t.quorum <= 0 {
		return len(t.outcomes)
	}
	return t.quorum - 1
}

// copies is how many copies of one series can lie on the nodes with such an outcome.
func (t *tally) copies(such func(outcome) bool) int {
	told := func(node int) bool { return such(t.outcomes[node]) }
	if t.mostCopies != nil {
		return t.mostCopies(told)
	}
	n := 0
	for node := range t.outcomes {
		if told(node) {
			n++
		}
	}
	return n
}

// lacking is how many copies of one series can lie on the nodes that failed.
func (t *tally) lacking() int { return t.copies(func(o outcome) bool { return o == hasFailed }) }

// complete tells whether what was answered so far includes all acknowledged data.
func (t *tally) complete() bool {
	unanswered := func(o outcome) bool { return o != hasAnswered }
	answered := t.count(hasAnswered)
	return !t.ahead && answered > 0 && (answered == len(t.outcomes) || t.copies(unanswered) <= t.allowed())
}

// hopeless tells whether the answer cannot become complete anymore.
func (t *tally) hopeless() bool {
	failed := t.count(hasFailed)
	return t.ahead || failed == len(t.outcomes) || failed > 0 && t.lacking() > t.allowed()
}

// settled tells whether every node has answered or failed.
func (t *tally) settled() bool { return t.count(isOpen) == 0 }
