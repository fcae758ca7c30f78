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
// from them that somebody is dead, and tell them who is there.
type fence struct {
	memberlist.Transport
	allows  func(address string) error
	packets chan *memberlist.Packet
	streams chan net.Conn
	done    chan struct{}
	once    sync.Once
	wg      sync.WaitGroup
}

// fence puts a fence around the transport, if there are addresses to keep out. It binds the
// transport that memberlist would have bound.
func (g *gossip) fence(conf *memberlist.Config) error {
	if g.cfg.Allowed == nil {
		return nil
	}
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
	f := &fence{
		Transport: base, allows: g.allowsAt,
		packets: make(chan *memberlist.Packet), streams: make(chan net.Conn), done: make(chan struct{}),
	}
	f.wg.Go(f.filterPackets)
	f.wg.Go(f.filterStreams)
	conf.Transport = f
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
func (f *fence) PacketCh() <-chan *memberlist.Packet { return f.packets }

// StreamCh implements memberlist.Transport.
func (f *fence) StreamCh() <-chan net.Conn { return f.streams }

// WriteTo implements memberlist.Transport.
func (f *fence) WriteTo(b []byte, address string) (time.Time, error) {
	if err := f.allows(address); err != nil {
		return time.Time{}, err
	}
	return f.Transport.WriteTo(b, address)
}

// DialTimeout implements memberlist.Transport.
func (f *fence) DialTimeout(address string, timeout time.Duration) (net.Conn, error) {
	if err := f.allows(address); err != nil {
		return nil, err
	}
	return f.Transport.DialTimeout(address, timeout)
}

// Shutdown implements memberlist.Transport. It may be called more than once.
func (f *fence) Shutdown() error {
	err := f.Transport.Shutdown()
	f.once.Do(func() { close(f.done) })
	f.wg.Wait()
	return err
}
