// Package placement computes which slots of the cluster's table hold the copies of a
// series. It is pure: the same table and the same labels give the same owners on every
// node, in every process, for as long as [KeyVersion] stays the same.
//
// # The key
//
// A partition key is the xxhash64 (seed 0) of a byte string. Every string s in it is
// written as uvarint(len(s)) ‖ s, in bytes, so that no two inputs give the same byte
// string:
//
//	series: tenant ‖ name₁ ‖ value₁ ‖ name₂ ‖ value₂ ‖ …   sorted by name, without le and quantile
//	family: tenant ‖ family                                where a metric family's metadata lies
//
// A series has an odd number of strings and a family an even one, so these do not meet
// either. Leaving out le and quantile keeps the buckets of one histogram, and the
// quantiles of one summary, together on the same nodes.
//
// # The owners
//
//	in one zone:      owner r: for attempt a = 0, 1, … 63: slot = jump(xxhash64(r ‖ a ‖ key), slots)
//	                  take it if it is occupied and not yet chosen
//	in several zones: owner r: the slot with the greatest xxhash64(2³¹ ‖ 2³¹+slot ‖ key) among those that
//	                  are occupied, not yet chosen, and in a new zone while unused zones remain
//
// r, a and slot are four bytes each, key is eight, all little-endian. jump is the jump
// consistent hash of Lamping and Veach over the number of slots, holes included. A
// collision or a hole leads to another attempt and never to the next slot, which would
// load the neighbour half as much again. After 64 attempts the copy goes to the eligible
// slot with the greatest xxhash64(r ‖ 2³¹+slot ‖ key), the lowest of equal ones. So a
// look-up ends after a bounded number of steps, whatever the holes, and still spreads
// evenly. Unused zones are those of occupied slots that hold no copy of the key yet; the
// empty zone is a zone like any other.
//
// A slot added at the end takes copies from the others, little more than its fair share,
// and most copies stay where they are. A slot that becomes a hole gives away its own
// copies and no others, and when a node of the same zone fills it again, exactly the
// former placement returns.
//
// Why zones are ranked (rendezvous hashing) and not drawn: jump hash draws over the slots
// of all zones, so a slot added to zone A takes a share of the draws that used to end in
// zone B, and such a key draws again in B and may find another node there. Measured, that
// moves up to 1.77 times what has to move; ranking moves no more than has to. A look-up
// costs time in proportion to the number of slots, and is cached where it is hot.
//
// A zone with fewer nodes than the others carries more per node: with three copies and
// zones of four, four and one nodes, the lonely node holds a copy of everything.
package placement
