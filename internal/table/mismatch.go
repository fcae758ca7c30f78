package table

import "fmt"

// MismatchError is a node's refusal of a request that was planned by another epoch than
// its own. The sender plans anew once both have the newer of the two tables.
type MismatchError struct {
	// Have is the refusing node's table, nil if it has none yet.
	Have *Table
	// Want is the epoch of the refused request.
	Want uint64
}

// Error implements error.
func (e *MismatchError) Error() string {
	if e.Have == nil {
		return fmt.Sprintf("request planned by epoch %d refused by a node that has no table yet", e.Want)
	}
	return fmt.Sprintf("request planned by epoch %d refused by a node at epoch %d", e.Want, e.Have.Epoch)
}

// EpochChanged tells readers that planning anew may help.
func (e *MismatchError) EpochChanged() bool { return true }

// NodeEpoch is the refusing node's epoch, 0 if it has no table yet.
func (e *MismatchError) NodeEpoch() uint64 {
	if e.Have == nil {
		return 0
	}
	return e.Have.Epoch
}
