// Package model holds two models of how Starling keeps what it acknowledged. The first has
// appends with sync, gaps, hand-offs and reads with proof, as
// docs/adr/0008-gaps-and-proof.md decides them, under one table, and late notes, which
// docs/adr/0017-late-notes.md adds. The second, in the files that begin with move, has the same
// but late notes, in less detail, while the table changes: nodes join, leave, are removed and
// replaced. It is all tests: the models are explored exhaustively
// within small bounds and at random within larger ones, and each of their rules, switched
// off, must be caught.
//
// # What a state is
//
// A state holds the nodes with what they have stored and synced, the gaps they note and the
// hand-offs they make; the writes and the reads, each with its coordinator; and what a client
// remembers: which samples were acknowledged before a read began. An action changes it in one
// step. A step is what no other step can be seen in the middle of: "store" and "sync" are two,
// "sync a note and say so" is one, because a note that is not synced yet is as good as one
// that has not arrived.
//
// In the second model each node has come to some epoch, and the history of tables is part of
// the state. A command, the next phase and a node's step to the next epoch are actions, and
// so is each message by which a target owner copies: it hears of the gaps of each current
// owner, reads from one after the other, syncs, and reports that it is ready. Samples have no
// times there: all reads, copies and hand-offs have one window.
//
// In any phase, and outside of transitions, a node may find its store damaged, or that its
// directory is an old copy, and then copies what it lost in the same steps, at an epoch that
// it has begin. Damage takes all samples, an old copy the gaps and the tables too: what is
// left of them can only do less harm. The finding is one step with the loss, so that what such
// a node does before it is told is not in the model.
//
// # What is not an action
//
// Everything may happen at any time or never, so that much needs no action of its own. A
// message that is lost, delayed, or held up by a pause or a partition is one that is not
// delivered yet. A coordinator that crashed is one that takes no further step. What a node
// reports stays true, so that a report that is late is a leader that is slow; but damage ends
// that a node is ready, and leaders that hear of it late are in scenarios of their own. A node
// that is down is one that takes no step between its crash and its next one. The random walks
// cut off and pause nodes all the same, since otherwise chance alone would seldom do so for
// long.
//
// # What is checked
//
// Each read that succeeds holds all samples in its range that were acknowledged before it
// began, and none that nobody sent. From each state, once everybody is up and no new write
// comes, the hand-offs close all gaps, all commands are followed to their end, and then every
// owner that was not lost holds every acknowledged sample.
package model
