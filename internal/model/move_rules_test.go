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

	// Making good what a node lost: by damage, or as its directory is an old copy.
	RebuildMissing     bool // until then it is missing from all that is read
	RebuildLater       bool // it reads at an epoch that began after the finding
	OldCopyLater       bool // and with an old copy not only after the table in that
	OldCopyRefuses     bool // before which such a node confirms and notes nothing
	RebuildQuorum      bool // R owners answered
	RebuildApart       bool // it is not one of them itself
	RebuildClean       bool // and the first clean one is read, or where there is none, R of them
	RebuildAtEpoch     bool // all at its epoch
	RebuildSecondRound bool // no store is read before all of them answered
	RebuildRead        bool // they own by the assignment that queries read by
	RebuildAll         bool // it reads all that it owns by either assignment
	RebuildSynced      bool // and has synced it before it counts again
	RebuildTakesNotes  bool // an old copy notes the gaps that those owners note
	GiveIntact         bool // it hands nothing off before
	DamagedUnready     bool // nor becomes ready
	ReadyTakenBack     bool // and if it was, it is not any more

	// Phases.
	SwitchReady     bool // all target owners are ready before the target is read
	ReadyPerPhase   bool // for the very phase
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
	RetainedClean: true, RetainedQuorum: true, RetainedAtEpoch: true,
	RebuildMissing: true, RebuildLater: true, OldCopyLater: true, OldCopyRefuses: true, RebuildQuorum: true, RebuildApart: true,
	RebuildClean: true, RebuildAtEpoch: true, RebuildSecondRound: true, RebuildRead: true, RebuildAll: true,
	RebuildSynced: true, RebuildTakesNotes: true, GiveIntact: true, DamagedUnready: true, ReadyTakenBack: true,
	SwitchReady: true, ReadyPerPhase: true, SwitchPhase: true, EndReported: true,
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
