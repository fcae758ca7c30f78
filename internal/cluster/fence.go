package cluster

import (
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// fence is a transport of gossip to and from addresses where nodes may be. memberlist itself
// can keep nodes elsewhere out of its list, and goes on to talk with anybody: it would take
// from them that somebody is dead, tell them who is there, and answer to any address that they
// name.
type fence struct {
	memberlist.Transport
	// allows is nil if nodes may be anywhere, and the channels then are those of the transport.
	allows  func(address string) error
	answers func(address string) error
	packets chan *memberlist.Packet
	streams chan net.Conn
	done    chan struct{}
	once    sync.Once
	wg      sync.WaitGroup
}

// fence puts a fence around the transport. It binds the transport that memberlist would have
// bound.
func (g *gossip) fence(conf *memberlist.Config) error {
	base := conf.Transport
	if base == nil {
		bound, err := memberlist.NewNetTransport(&memberlist.NetTransportConfig{
			BindAddrs: []string{conf.BindAddr}, BindPort: conf.BindPort, Logger: conf.Logger,
		})
		if err != nil {
			return fmt.Errorf("--cluster.gossip-address=%s: %w", g.cfg.GossipBind, err)
		}
		conf.BindPort = bound.GetAutoBindPort()
		conf.AdvertisePort = conf.BindPort
		base = bound
	}
	f := &fence{Transport: base, answers: g.answersAt}
	conf.Transport = f
	if g.cfg.Allowed == nil {
		return nil
	}
	f.allows = g.allowsAt
	f.packets, f.streams, f.done = make(chan *memberlist.Packet), make(chan net.Conn), make(chan struct{})
	f.wg.Go(f.filterPackets)
	f.wg.Go(f.filterStreams)
	return nil
}

// allowsAt returns why gossip is not exchanged with host:port.
func (g *gossip) allowsAt(address string) error {
	at, err := netip.ParseAddrPort(address)
	if err == nil {
		err = g.cfg.Allowed(at.Addr())
	}
	if err != nil {
		g.refuseAddress(at.Addr().String(), err)
	}
	return err
}

// answersAt returns why no packet is sent to host:port, which may be what somebody has named.
func (g *gossip) answersAt(address string) error {
	if g.cfg.Allowed != nil {
		return g.allowsAt(address)
	}
	at, err := netip.ParseAddrPort(address)
	if err == nil && g.noPlace(at.Addr()) {
		err = fmt.Errorf("no node is at %s", at.Addr())
		g.refuseAddress(at.Addr().String(), err)
	}
	return err
}

// noPlace tells whether no other node can be at an address: it is none of one machine, or one that
// means another machine to each, and this node is not at such a one itself.
func (g *gossip) noPlace(ip netip.Addr) bool {
	ip = ip.Unmap()
	broadcast := netip.AddrFrom4([4]byte{255, 255, 255, 255})
	return ip.IsUnspecified() || ip.IsMulticast() || ip == broadcast || ip.IsLoopback() && !g.ip.IsLoopback() ||
		ip.IsLinkLocalUnicast() && !g.ip.IsLinkLocalUnicast()
}

func (g *gossip) refuseAddress(host string, err error) {
	g.count.refuse("address")
	if g.quiet.allow("not allowed " + host) {
		g.log.Warn("no gossip is exchanged with an address where no node may be", "err", err)
	}
}

// filterPackets goes on until the transport below has been shut down, which waits for its
// packets to be taken.
func (f *fence) filterPackets() {
	for {
		select {
		case p := <-f.Transport.PacketCh():
			if f.allows(p.From.String()) != nil {
				continue
			}
			select {
			case f.packets <- p:
			case <-f.done:
				return
			}
		case <-f.done:
			return
		}
	}
}

func (f *fence) filterStreams() {
	for {
		select {
		case s := <-f.Transport.StreamCh():
			if f.allows(s.RemoteAddr().String()) != nil {
				_ = s.Close()
				continue
			}
			select {
			case f.streams <- s:
			case <-f.done:
				_ = s.Close()
				return
			}
		case <-f.done:
			return
		}
	}
}

// PacketCh implements memberlist.Transport.
func (f *fence) PacketCh() <-chan *memberlist.Packet {
	if f.allows == nil {
		return f.Transport.PacketCh()
	}
	return f.packets
}

// StreamCh implements memberlist.Transport.
func (f *fence) StreamCh() <-chan net.Conn {
	if f.allows == nil {
		return f.Transport.StreamCh()
	}
	return f.streams
}

// WriteTo implements memberlist.Transport.
func (f *fence) WriteTo(b []byte, address string) (time.Time, error) {
	if err := f.answers(address); err != nil {
		return time.Time{}, err
	}
	return f.Transport.WriteTo(b, address)
}

// DialTimeout implements memberlist.Transport. It is called for seeds, which may be on this machine, and
// for nodes that NotifyAlive has let in.
func (f *fence) DialTimeout(address string, timeout time.Duration) (net.Conn, error) {
	if f.allows != nil {
		if err := f.allows(address); err != nil {
			return nil, err
		}
	}
	return f.Transport.DialTimeout(address, timeout)
}

// Shutdown implements memberlist.Transport. It may be called more than once.
func (f *fence) Shutdown() error {
	err := f.Transport.Shutdown()
	if f.allows == nil {
		return err
	}
	f.once.Do(func() { close(f.done) })
	f.wg.Wait()
	return err
}
