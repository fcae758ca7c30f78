// Package model holds a model of how Starling keeps what it acknowledged: appends with sync,
// gaps, hand-offs and reads with proof, as docs/adr/0008-gaps-and-proof.md decides them. It
// is all tests: the model is explored exhaustively within small bounds and at random within
// larger ones, and each of its rules, switched off, must be caught.
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
// # What is not an action
//
// Everything may happen at any time or never, so that much needs no action of its own. A
// message that is lost, delayed, or held up by a pause or a partition is one that is not
// delivered yet. A coordinator that crashed is one that takes no further step. A node that is
// down is one that takes no step between its crash and its next one. The random walks cut off
// and pause nodes all the same, since otherwise chance alone would seldom do so for long.
//
// # What is checked
//
// Each read that succeeds holds all samples in its range that were acknowledged before it
// began, and none that nobody sent. From each state, once everybody is up and no new write
// comes, the hand-offs close all gaps, and then every owner that was not lost holds every
// acknowledged sample.
package model
