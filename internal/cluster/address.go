package cluster

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"

	sockaddr "github.com/hashicorp/go-sockaddr"
)

// advertiseIP finds the address that peers shall use, or says why there is none. An
// address that nobody can reach is worse than none: the node would look alive and fail
// every call.
func (c *Config) advertiseIP(ctx context.Context) (netip.Addr, error) {
	host := c.Advertise.Host
	if host == "" {
		return c.guessIP(ctx)
	}
	ips, err := c.Find.LookupHost(ctx, host)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("--cluster.advertise-host %q: %w", host, err)
	}
	ip, err := preferIPv4(ips)
	if err != nil {
		return ip, fmt.Errorf("--cluster.advertise-host %q: %w", host, err)
	}
	if ip.IsUnspecified() {
		return ip, fmt.Errorf("--cluster.advertise-host %q: peers cannot reach an unspecified address; name one that they can", host)
	}
	return ip, c.checkLoopback(ip)
}

// guessIP chooses without --cluster.advertise-host.
func (c *Config) guessIP(ctx context.Context) (netip.Addr, error) {
	if c.GossipTransport != nil {
		raw, _, err := c.GossipTransport.FinalAdvertiseAddr("", 0)
		if err != nil {
			return netip.Addr{}, fmt.Errorf("address of the gossip transport: %w", err)
		}
		ip, _ := netip.AddrFromSlice(raw)
		return ip.Unmap(), c.checkLoopback(ip.Unmap())
	}
	host, _, err := splitHostPort(c.GossipBind)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("--cluster.gossip-address %q: %w", c.GossipBind, err)
	}
	if host != "" {
		ips, err := c.Find.LookupHost(ctx, host)
		if err != nil {
			return netip.Addr{}, fmt.Errorf("--cluster.gossip-address %q: %w", c.GossipBind, err)
		}
		ip, err := preferIPv4(ips)
		if err != nil {
			return ip, fmt.Errorf("--cluster.gossip-address %q: %w", c.GossipBind, err)
		}
		if !ip.IsUnspecified() {
			return ip, c.checkLoopback(ip)
		}
	}
	private, err := sockaddr.GetPrivateIP()
	if err == nil && private != "" {
		return netip.ParseAddr(private)
	}
	loopback := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	if err := c.checkLoopback(loopback); err != nil {
		return netip.Addr{}, fmt.Errorf("gossip is bound to %q and this machine has no private address: say with --cluster.advertise-host at which address peers reach it", c.GossipBind)
	}
	return loopback, nil
}

// checkLoopback refuses a loopback address if seeds on other machines are to use it.
// Seeds that are names are checked when they are resolved.
func (c *Config) checkLoopback(ip netip.Addr) error {
	if !ip.IsLoopback() {
		return nil
	}
	for _, seed := range c.Find.Join {
		host, _, err := splitHostPort(seed)
		if err != nil {
			return err
		}
		if s, err := netip.ParseAddr(host); err == nil && !s.IsLoopback() {
			return loopbackError(ip, seed)
		}
	}
	return nil
}

func loopbackError(ip netip.Addr, seed string) error {
	return fmt.Errorf("this node would advertise %s, which %s cannot reach: bind --cluster.gossip-address to another address, or set --cluster.advertise-host", ip, seed)
}

func preferIPv4(ips []string) (netip.Addr, error) {
	var found netip.Addr
	for _, s := range ips {
		ip, err := netip.ParseAddr(s)
		if err != nil {
			continue
		}
		ip = ip.Unmap()
		if ip.Is4() {
			return ip, nil
		}
		if !found.IsValid() {
			found = ip
		}
	}
	if !found.IsValid() {
		return found, fmt.Errorf("no address in %q", ips)
	}
	return found, nil
}

func joinHostPort(ip string, port int) string {
	return net.JoinHostPort(ip, strconv.Itoa(port))
}
