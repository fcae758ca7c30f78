// Package freeport finds ports of the loopback interface for programs that are started later.
package freeport

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
)

// The kernel gives connections and listeners ports of a range of its own, on Linux from 32768 on:
// a port of that range may be somebody's a moment after it was found free. Those below are taken
// only by who asks for them by number.
const first, end = 10000, 32768

// attempts is after how many ports that are taken the search ends.
const attempts = 1000

// Addresses returns n addresses of 127.0.0.1, host:port, on which nobody listens now, neither for
// TCP nor for UDP. They are chosen at random, so that programs that look for some at the same
// time find different ones.
func Addresses(n int) ([]string, error) {
	all := make([]string, 0, n)
	var last error
	for range attempts {
		if len(all) == n {
			return all, nil
		}
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(first+rand.IntN(end-first)))
		release, err := hold(address)
		if err != nil {
			last = err
			continue
		}
		defer release() // Only now, so that none is found twice.
		all = append(all, address)
	}
	return nil, fmt.Errorf("%d of %d free ports found among %d from %d to %d: %w", len(all), n, attempts, first, end-1, last)
}

// hold listens on an address until release is called.
func hold(address string) (release func(), err error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	p, err := net.ListenPacket("udp", address)
	if err != nil {
		_ = l.Close()
		return nil, err
	}
	return func() { _, _ = l.Close(), p.Close() }, nil
}
