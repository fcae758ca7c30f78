package model

import "reflect"

// moveRules are the protocol of transitions. Each can be switched off; off is a mistake that
// somebody could make.
type moveRules struct {
	// Writing, in each phase of a transition.
	WriteCurrent      bool // a write quorum of the current owners confirmed
	WriteTarget       bool // and one of the target owners
	NoteCurrent       bool // missing current owners are noted by a write quorum of current ones
	NoteTarget        bool // missing target owners by one of target ones
	NotePerAssignment bool // and a note counts only for assignments that own both

	// Adopting.
	EpochChecked      bool // a node refuses what was sent at another epoch
	AppendsBeforeNext bool // it finishes or refuses the appends of an epoch before the next
	NotesBeforeNext   bool // and the notes
	TableSynced       bool // it syncs a table before it uses it

	// Copying what was gained.
	CopyQuorum      bool // R current owners answered
	CopyClean       bool // and the first clean one is read, or where there is none, R of them
	CopyAtEpoch     bool // all at the epoch of the reader, from the first answer to the last read
	CopySecondRound bool // no store is read before all of them answered
	CopySynced      bool // who is ready has synced what it read

	// Keeping what is retained.
	RetainedClean   bool // who notes a gap for an owner does not vouch for it
	RetainedQuorum  bool // R current owners vouch, itself included
	RetainedAtEpoch bool // at its epoch
	DamagedCopies   bool // an owner that is damaged copies like one that gains
	DamagedLater    bool // at a later epoch: its earlier confirmations count for nothing then
	DamagedApart    bool // and is missing until only that is read of it

	// Phases.
	SwitchReady     bool // all target owners are ready before the target is read
	ReadyPerEpoch   bool // for the very epoch
	SwitchPhase     bool // the target is read for a phase before the current owners are let go
	EndReported     bool // all members have reported that phase
	AdvanceForEpoch bool // a phase ends only where the leader saw it, not after a command
	RemovalAtOnce   bool // a node that is removed while the target is read counts no more at once
	RemovalBounded  bool // without the removed nodes enough are left to read, and to write unless they are dead
	RemovalProven   bool // and they are dead if they could answer a read by themselves

	// Reading.
	ReadCurrent     bool // the current assignment is read while the target copies
	ReadTarget      bool // the target is read from then on
	ReadAtEpoch     bool // all answers are given at one epoch
	RemovedUnread   bool // no answer of a removed node counts for a read
	RemovedUncopied bool // nor for what is copied

	// Ending, and handing off meanwhile.
	CleanUpAtEnd   bool // an owner drops what neither assignment gives it
	HandOffBoth    bool // a hand-off covers what the peer owns by either assignment
	HandOffAtEpoch bool // as both know it
}

// allMoveRules is the protocol as decided.
var allMoveRules = moveRules{
	WriteCurrent: true, WriteTarget: true, NoteCurrent: true, NoteTarget: true, NotePerAssignment: true,
	EpochChecked: true, AppendsBeforeNext: true, NotesBeforeNext: true, TableSynced: true,
	CopyQuorum: true, CopyClean: true, CopyAtEpoch: true, CopySecondRound: true, CopySynced: true,
	RetainedClean: true, RetainedQuorum: true, RetainedAtEpoch: true, DamagedCopies: true, DamagedLater: true, DamagedApart: true,
	SwitchReady: true, ReadyPerEpoch: true, SwitchPhase: true, EndReported: true,
	AdvanceForEpoch: true, RemovalAtOnce: true, RemovalBounded: true, RemovalProven: true,
	ReadCurrent: true, ReadTarget: true, ReadAtEpoch: true,
	RemovedUnread: true, RemovedUncopied: true,
	CleanUpAtEnd: true, HandOffBoth: true, HandOffAtEpoch: true,
}

// without returns the rules but for one.
func (r moveRules) without(rule string) moveRules {
	reflect.ValueOf(&r).Elem().FieldByName(rule).SetBool(false)
	return r
}
