// Package transport carries requests between the nodes of one cluster: appends and reads
// over gRPC, and Raft's own connections, all on one port.
//
// A Listener splits what arrives on the port. A Server answers for its own node alone:
// an append that arrives here is stored here and nowhere else, so forwarding loops cannot
// be written. Peers keeps one connection per peer and finds its address anew at each dial,
// so nodes may move.
//
// Every request names the cluster and the epoch that its sender plans by. A node at
// another epoch refuses it and hands over its table; the client then makes both sides
// hold the newer one and returns a table.MismatchError, upon which the caller plans anew.
//
// Appends, which come all the time, share one stream per peer. It has a dictionary of series
// that lasts as long as the stream does (package frame); its calls wait for their answers as
// those of requests do.
//
// The messages are described in peerpb/peer.proto.
package transport

//go:generate protoc --go_out=peerpb --go_opt=paths=source_relative --go-grpc_out=peerpb --go-grpc_opt=paths=source_relative -Ipeerpb peer.proto
