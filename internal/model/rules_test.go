package model

// rules are the protocol. Each can be switched off; off is a mistake that somebody could
// make.
type rules struct {
	// Confirming.
	SyncBeforeConfirm bool // an owner confirms what it has synced
	DuplicateSynced   bool // also what it held already
	OfferAfterStore   bool // it reads its gaps after the sample is stored
	OfferSynced       bool // it offers what is synced
	OfferOutside      bool // and nothing while it hands off
	OfferEarly        bool // a gap that begins after the sample counts for nothing

	// Acknowledging.
	GapBeforeAck    bool // who did not confirm is covered by a gap
	GapQuorum       bool // on a write quorum
	RefusalCovered  bool // who refused for age did not confirm
	NoteSynced      bool // a note is synced before it is answered
	NoteFromSample  bool // and begins with the sample
	NoteMarksAtSync bool // the window under way when it is synced hears of it

	// Taking notes back.
	OfferFirm         bool // a gap that can vanish is not offered
	WithdrawConfirmed bool // a note is withdrawn when the peer has confirmed
	WithdrawCounted   bool // and the gap is there until all notes are
	FirmForgets       bool // no note of a gap that was handed off, or offered, is withdrawn

	// Handing off.
	StopBeforeRead     bool // the gap is not offered from before the store is read
	SyncBeforeAdvance  bool // the peer has synced the window
	MissedAtAdvance    bool // a gap advances no further than a note that came meanwhile
	MissedAtClose      bool // nor closes
	SessionChecked     bool // the word of another session counts for nothing
	WindowChecked      bool // nor that of another window
	RestartEndsSession bool // a restart ends a session
	SilenceEndsSession bool // so does silence, or a new beginning
	HeldWhileSaving    bool // but nothing does while the gap is being advanced, nor is it noted

	// Reading.
	ReadQuorum     bool // fewer than an answer quorum of nodes are missing
	MissingApart   bool // who lost its disk, or is damaged, is missing
	SecondRound    bool // no store is read before all gaps are known
	CleanOnly      bool // one owner serves alone only if it is clean
	MergeWhereNone bool // where no owner is clean, a read quorum serves
	SameSession    bool // a node that restarted between the rounds refuses
	OneProof       bool // answers to another proof count for nothing
}

// allRules is the protocol as decided.
var allRules = rules{
	SyncBeforeConfirm: true, DuplicateSynced: true, OfferAfterStore: true, OfferSynced: true,
	OfferOutside: true, OfferEarly: true,
	GapBeforeAck: true, GapQuorum: true, RefusalCovered: true, NoteSynced: true,
	NoteFromSample: true, NoteMarksAtSync: true,
	OfferFirm: true, WithdrawConfirmed: true, WithdrawCounted: true, FirmForgets: true,
	StopBeforeRead: true, SyncBeforeAdvance: true, MissedAtAdvance: true, MissedAtClose: true,
	SessionChecked: true, WindowChecked: true, RestartEndsSession: true,
	SilenceEndsSession: true, HeldWhileSaving: true,
	ReadQuorum: true, MissingApart: true, SecondRound: true, CleanOnly: true,
	MergeWhereNone: true, SameSession: true, OneProof: true,
}
