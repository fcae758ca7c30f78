// Package faults runs real Starling processes under faults and holds what they answer
// against what they were sent. It needs Linux and root: each node lives in a network
// namespace of its own, behind a switch in user space (package wire).
//
// A Row is one fault. Run makes a fresh cluster for it and starts (package load)
//
//	senders ──▶ node 1 ◀── readers, one per node
//	   │        node 2        │
//	   │        node 3        │
//	   └──▶ ledger ◀──────────┘   what was sent, what was answered
//
// lets the row do its harm and heal it, waits until the nodes agree again, reads everything
// back from every node, kills all of them and reads their disks. What the ledger finds
// lost, duplicated or invented fails the row, and so does an answer that is neither a
// success nor an honest refusal.
//
// Builds are made of changed copies of the sources (package overlay): one with a clock that
// can be set and syncs that can fail, and ones with mistakes, which the suite must find.
package faults
