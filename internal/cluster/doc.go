// Package cluster knows who is in the cluster and what the table says.
//
// Gossip (memberlist) finds the nodes, watches over their lives and spreads their
// addresses. Raft agrees on the table, and on nothing else. Neither moves data: the
// table changes by explicit commands only, and a node that gossip calls dead keeps its
// slot.
//
// # Identity
//
// A node is its data directory. The directory holds an ID, made once, and a counter of
// starts; together they are the name in gossip, since memberlist refuses a new address
// for a name that is alive. Raft servers are addressed by node ID and the ID is resolved
// when a connection is made, so that every address may change between two starts.
//
// # From fresh to member
//
// A fresh node looks for others. If it sees a cluster it binds itself to that cluster,
// for ever, and asks to join; if it sees enough fresh nodes they found one (founding.go
// is the state machine and says why there is never a second). Raft runs on bound nodes
// only, and refuses streams from any other cluster, or meant for any other node.
//
// # The table
//
// A table is synced to the node's own file before it is used or reported. The file, not
// Raft, says where a node stands after a restart: Raft forgets its commit index, and
// replays old tables, which are ignored. The first table comes from the leader, which
// has everything that was ever committed, so a node whose table file was lost or damaged
// never goes back either: it has no table until it has asked.
//
// # Transitions
//
// Gossip carries which epoch a node is in and for which phase it holds its share; when
// nobody is awaited any more, Raft's leader proposes the next phase (transition.go). Those
// vote in Raft whom queries read from: a newcomer votes from the second phase on, and one
// that leaves until then, so that it may be stopped at the end of the transition. Raft says
// nothing to a server that it dropped: such a node, as any that is behind, asks the peers
// that gossip says are ahead (follow.go). A node that was a member does not join again.
//
// # Files
//
// Everything is below Config.Dir. LOCK keeps a second process out. identity, founding,
// peers and table are text with a checksum in the first line. raft/ holds the log, the
// stable store and the snapshots of Raft; a node whose raft/ is gone while its identity
// is there must not start, because it could vote twice.
package cluster
