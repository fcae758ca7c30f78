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
//	                  are occupied, not yet chosen, and in a new group of zones whose least hash this one
//	                  reaches; or, if there is none, in a group that has room for another copy
//
// r, a and slot are four bytes each, key is eight, all little-endian. jump is the jump
// consistent hash of Lamping and Veach over the number of slots, holes included. A
// collision or a hole leads to another attempt and never to the next slot, which would
// load the neighbour half as much again. After 64 attempts the copy goes to the eligible
// slot with the greatest xxhash64(r ‖ 2³¹+slot ‖ key), the lowest of equal ones. So a
// look-up ends after a bounded number of steps, whatever the holes, and still spreads
// evenly. The empty zone is a zone like any other.
//
// # Groups of zones
//
// As a rule each zone is a group of its own, without a least hash. It has room for one copy
// of a key if there are no more copies than zones, and for any number if there are. That is
// so where it overloads nobody: where all zones have equally many of the N occupied slots, or
// where there are fewer copies c than zones and 1/E₀ + 1/E₁ + … + 1/E of the last copy is at
// most 2c/N, E being the slots outside the r largest zones. Elsewhere so many nodes n may take
// w(n) = 2cn/N copies of each key:
//
//	as long as the two smallest groups have w < 1 each, they become one
//	a group has room for w copies, rounded down
//	a group with w < 1 has room for one, and the smallest least hash whose power n is at least 1 - w
//
// Of groups of the same size the one whose first slot is the lowest comes first. Hashes are
// fractions of 2⁶⁴ here, 1 - w is rounded down, and so is the power at each of its steps. So no
// node is given more than twice ([MaxLoad]) the mean, for a price: where a zone has less than
// half the mean number of nodes, some or all keys have two copies in another one, or more.
//
// # What moves
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
// Where a zone is too small, what it may take depends on the number of all nodes, and any join
// or leave moves up to 1.3 times what has to move.
package placement
