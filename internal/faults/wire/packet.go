//go:build linux

package wire

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"time"
)

// Packet is what a rule may look at.
type Packet struct {
	From, To netip.Addr
	UDP      bool
	// FromPort and ToPort are 0 for what is neither TCP nor UDP.
	FromPort, ToPort uint16
}

// Port tells whether a packet belongs to a service at the port, whoever called whom.
func (p Packet) Port(port uint16) bool { return p.FromPort == port || p.ToPort == port }

// Fate is what becomes of a packet. The zero Fate delivers it.
type Fate struct {
	Drop bool
	// Delay is how long it takes; packets with different delays overtake each other.
	Delay time.Duration
	// Again delivers it once more, that much later, if it is not 0.
	Again time.Duration
}

// after returns the delays of the deliveries that are not at once.
func (f Fate) after() []time.Duration {
	var delays []time.Duration
	if f.Drop {
		return nil
	}
	if f.Delay > 0 {
		delays = append(delays, f.Delay)
	}
	if f.Again > 0 {
		delays = append(delays, f.Delay+f.Again)
	}
	return delays
}

// Cut drops what goes from one of some addresses to one of others.
func Cut(from, to []netip.Addr) Rule {
	return func(p Packet, _ *rand.Rand) Fate { return Fate{Drop: has(from, p.From) && has(to, p.To)} }
}

// Both drops what one of two rules drops; delays add up.
func Both(a, b Rule) Rule {
	return func(p Packet, rnd *rand.Rand) Fate {
		x, y := a(p, rnd), b(p, rnd)
		return Fate{Drop: x.Drop || y.Drop, Delay: x.Delay + y.Delay, Again: max(x.Again, y.Again)}
	}
}

// Lose drops a share of the packets, between 0 and 1, of the service at a port.
func Lose(share float64, port uint16) Rule {
	return func(p Packet, rnd *rand.Rand) Fate { return Fate{Drop: p.Port(port) && rnd.Float64() < share} }
}

// Jumble delays every packet between the addresses, reorders some and duplicates some.
func Jumble(among []netip.Addr, delay time.Duration) Rule {
	const reordered, duplicated = 0.05, 0.05
	return func(p Packet, rnd *rand.Rand) Fate {
		if !has(among, p.From) || !has(among, p.To) {
			return Fate{}
		}
		f := Fate{Delay: delay}
		if rnd.Float64() < reordered {
			f.Delay += time.Duration(rnd.Int64N(int64(2*delay))) + 1
		}
		if rnd.Float64() < duplicated {
			f.Again = time.Duration(rnd.Int64N(int64(4*delay))) + 1
		}
		return f
	}
}

func has(list []netip.Addr, a netip.Addr) bool {
	for _, b := range list {
		if a == b {
			return true
		}
	}
	return false
}

// parse reads the headers of an IPv4 packet. Only the first fragment has ports; with the
// MTU of this package there are none.
func parse(b []byte) (Packet, bool) {
	const tcp, udp = 6, 17
	if len(b) < 20 || b[0]>>4 != 4 {
		return Packet{}, false
	}
	p := Packet{From: netip.AddrFrom4([4]byte(b[12:16])), To: netip.AddrFrom4([4]byte(b[16:20])), UDP: b[9] == udp}
	header := int(b[0]&15) * 4
	if (b[9] == tcp || b[9] == udp) && header >= 20 && len(b) >= header+4 {
		p.FromPort = binary.BigEndian.Uint16(b[header:])
		p.ToPort = binary.BigEndian.Uint16(b[header+2:])
	}
	return p, true
}
