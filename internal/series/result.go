package series

// Result says what became of a batch that no valid item fell short in: whatever is not
// refused has reached its write quorum. A write that returns an error beside it tells
// what it could.
type Result struct {
	// Written counts exactly what is stored on a write quorum of owners.
	Written Written
	// Refused lists what the cluster will never take. Repeating the request is of no use.
	Refused []Refusal
}
