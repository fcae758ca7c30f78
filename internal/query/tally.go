package query

// tally decides when the answers of a fan-out suffice. It is pure.
//
// Everything acknowledged lies on at least quorum nodes, so fewer missing nodes than
// that cannot be all that hold it. With a quorum of 0 nothing was ever acknowledged.
// Whatever the quorum, an answer needs a node that gave one.
type tally struct {
	nodes, quorum    int
	answered, failed int
	// ahead is set when a node refused because its table is newer than ours or of
	// unknown age: what suffices by our table may not by its.
	ahead bool
}

// allowed is how many nodes may be missing from a complete answer.
func (t tally) allowed() int {
	if t.quorum <= 0 {
		return max(t.nodes-1, 0)
	}
	return max(min(t.quorum-1, t.nodes-1), 0)
}

// complete tells whether what was answered so far includes all acknowledged data.
func (t tally) complete() bool {
	return !t.ahead && t.answered > 0 && t.nodes-t.answered <= t.allowed()
}

// hopeless tells whether the answer cannot become complete anymore.
func (t tally) hopeless() bool {
	return t.ahead || t.failed > t.allowed()
}

// settled tells whether every node has answered or failed.
func (t tally) settled() bool { return t.answered+t.failed == t.nodes }
