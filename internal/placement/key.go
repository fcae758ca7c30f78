package placement

import (
	"encoding/binary"

	"github.com/cespare/xxhash/v2"
	"github.com/prometheus/prometheus/model/labels"
)

// KeyVersion is the version of everything that decides about owners: the key's byte
// format, the hashes and the rule. A different version is a different placement of all
// data. Golden vectors pin it.
const KeyVersion = 1

// Labels that tell parts of one histogram or summary from each other.
const (
	bucketLabel   = "le"
	quantileLabel = "quantile"
)

// Key returns the partition key of a series. The labels must be canonical: sorted, unique,
// without empty values. It does not allocate.
func Key(tenant string, ls labels.Labels) uint64 {
	var k keyHash
	k.add(tenant)
	ls.Range(func(l labels.Label) {
		if l.Name == bucketLabel || l.Name == quantileLabel {
			return
		}
		k.add(l.Name)
		k.add(l.Value)
	})
	return k.sum()
}

// FamilyKey returns the partition key of a metric family, whose owners keep its metadata.
// It does not allocate.
func FamilyKey(tenant, family string) uint64 {
	var k keyHash
	k.add(tenant)
	k.add(family)
	return k.sum()
}

// keyHash hashes length-prefixed strings. Nearly all label sets fit its buffer and are
// hashed in one call; the streaming digest, slower for short writes, takes the rest.
type keyHash struct {
	buf    [512]byte
	n      int
	spilt  bool
	digest xxhash.Digest
}

// add appends one string with its length.
func (k *keyHash) add(s string) {
	if len(k.buf)-k.n < binary.MaxVarintLen64+len(s) {
		k.spill()
	}
	k.n += binary.PutUvarint(k.buf[k.n:], uint64(len(s)))
	if len(s) <= len(k.buf)-k.n {
		k.n += copy(k.buf[k.n:], s)
		return
	}
	k.spill()
	_, _ = k.digest.WriteString(s) // never fails
}

// spill moves what the buffer holds to the digest.
func (k *keyHash) spill() {
	if !k.spilt {
		k.digest.Reset()
		k.spilt = true
	}
	_, _ = k.digest.Write(k.buf[:k.n]) // never fails
	k.n = 0
}

func (k *keyHash) sum() uint64 {
	if !k.spilt {
		return xxhash.Sum64(k.buf[:k.n])
	}
	k.spill()
	return k.digest.Sum64()
}
