// Package peerpb is the protocol between nodes, generated from peer.proto.
package peerpb
