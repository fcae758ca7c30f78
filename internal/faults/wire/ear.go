//go:build linux

package wire

import (
	"bytes"
	"fmt"
	"slices"
	"sync"
)

// Ear listens for words that nobody must be able to read. It may be used concurrently.
type Ear struct {
	words [][]byte

	mu    sync.Mutex
	heard map[said]int
}

// said is a word in packets of the service at a port.
type said struct {
	word string
	port uint16
}

// NewEar returns an ear for words, which are to be so long that they are in no encrypted packet by
// chance.
func NewEar(words []string) *Ear {
	e := &Ear{heard: map[said]int{}}
	for _, w := range words {
		e.words = append(e.words, []byte(w))
	}
	return e
}

// hear looks for the words in a packet. One that begins in one packet and ends in the next is missed.
func (e *Ear) hear(p Packet, data []byte) {
	for _, w := range e.words {
		if bytes.Contains(data, w) {
			e.mu.Lock()
			// A client's own port is above those of services.
			e.heard[said{string(w), min(p.FromPort, p.ToPort)}]++
			e.mu.Unlock()
		}
	}
}

// Heard says what was heard, in order.
func (e *Ear) Heard() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var all []string
	for s, n := range e.heard {
		all = append(all, fmt.Sprintf("%q is in clear in %d packets of port %d", s.word, n, s.port))
	}
	slices.Sort(all)
	return all
}
