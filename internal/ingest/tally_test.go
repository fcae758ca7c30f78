package ingest

import "testing"

// Every combination of answers for up to seven copies: the verdict must be right, and
// must never be taken back by the answers that come later.
func TestDecideExhaustively(t *testing.T) {
	for copies := 1; copies <= 7; copies++ {
		quorum := copies/2 + 1
		readQuorum := copies - quorum + 1
		for _, v := range allVotes(copies) {
			got := decide(v, copies, quorum, readQuorum)
			pending := copies - v.stored - v.conflict - v.invalid - v.failed
			if got == written && v.stored < quorum {
				t.Fatalf("copies %d, %+v: written without a write quorum", copies, v)
			}
			if v.stored >= quorum && got != written {
				t.Fatalf("copies %d, %+v: %d, want written", copies, v, got)
			}
			if got == refused && v.invalid < readQuorum && v.stored+v.conflict < quorum {
				t.Fatalf("copies %d, %+v: refused although a retry could succeed", copies, v)
			}
			if pending == 0 && got == open {
				t.Fatalf("copies %d, %+v: open although all owners answered", copies, v)
			}
			if got == short && v.failed == 0 && v.invalid == 0 {
				t.Fatalf("copies %d, %+v: conflicts alone lead to a retry", copies, v)
			}
			if got != open && pending > 0 {
				checkFinal(t, v, copies, quorum, readQuorum, got)
			}
		}
	}
}

// checkFinal adds one more answer of each kind to a settled vote.
func checkFinal(t *testing.T, v votes, copies, quorum, readQuorum int, settled verdict) {
	t.Helper()
	for _, add := range []votes{{stored: 1}, {conflict: 1}, {invalid: 1}, {failed: 1}} {
		next := votes{v.stored + add.stored, v.conflict + add.conflict, v.invalid + add.invalid, v.failed + add.failed}
		if got := decide(next, copies, quorum, readQuorum); got != settled {
			t.Fatalf("copies %d, %+v: verdict %d became %d with %+v", copies, v, settled, got, add)
		}
	}
}

func allVotes(copies int) []votes {
	var out []votes
	for s := 0; s <= copies; s++ {
		for c := 0; s+c <= copies; c++ {
			for i := 0; s+c+i <= copies; i++ {
				for f := 0; s+c+i+f <= copies; f++ {
					out = append(out, votes{s, c, i, f})
				}
			}
		}
	}
	return out
}

func TestDecideByHand(t *testing.T) {
	for _, c := range []struct {
		name string
		v    votes
		want verdict
	}{
		{"nothing yet", votes{}, open},
		{"one of three", votes{stored: 1}, open},
		{"quorum", votes{stored: 2}, written},
		{"quorum against one refusal", votes{stored: 2, invalid: 1}, written},
		{"two down", votes{stored: 1, failed: 2}, short},
		{"two refuse as invalid", votes{invalid: 2}, refused},
		{"one refuses, one is down", votes{stored: 1, invalid: 1, failed: 1}, short},
		{"another value on one, third down", votes{stored: 1, conflict: 1, failed: 1}, refused},
		{"another value everywhere", votes{conflict: 3}, refused},
		{"another value on one, third open", votes{stored: 1, conflict: 1}, open},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := decide(c.v, 3, 2, 2); got != c.want {
				t.Errorf("decide(%+v) = %d, want %d", c.v, got, c.want)
			}
		})
	}
}
