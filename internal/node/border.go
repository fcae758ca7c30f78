package node

import (
	"context"
	"net"
	"net/netip"

	"github.com/starling-tsdb/starling/internal/border"
)

// newBorder builds what decides with whom this node exchanges bytes.
func (n *Node) newBorder() (*border.Guard, error) {
	c := &n.opts.Config.Cluster
	o := border.Options{Logger: n.logger, Registerer: n.registry}
	if c.TLS.Enabled() {
		o.TLS = &border.Files{Cert: c.TLS.CertFile, Key: c.TLS.KeyFile, CA: c.TLS.CAFile, ServerName: c.TLS.ServerName}
	}
	var err error
	if o.Networks, err = c.Networks(); err != nil {
		return nil, err
	}
	return border.New(o)
}

// allowed is where other nodes may be, nil for anywhere.
func (n *Node) allowed() func(netip.Addr) error {
	if len(n.opts.Config.Cluster.AllowedCIDRs) == 0 {
		return nil
	}
	return n.border.Allows
}

// dialPeer opens a connection to the port for peers of another node.
func (n *Node) dialPeer(ctx context.Context, address string) (net.Conn, error) {
	return n.border.Dial(n.opts.Network.Dial)(ctx, address)
}

// advertised hears at which address peers dial this node.
func (n *Node) advertised(ip netip.Addr) error {
	if err := n.border.SetSelf(ip); err != nil {
		return err
	}
	c := &n.opts.Config.Cluster
	if !public(ip) {
		return nil
	}
	if !c.TLS.Enabled() {
		n.logger.Warn("Nodes reach this one at a public address without TLS: whoever reaches --cluster.rpc-address reads and writes everything; set --cluster.tls.cert-file, --cluster.tls.key-file and --cluster.tls.ca-file, or advertise a private address", "address", ip)
	}
	if c.GossipKeyringFile == "" {
		n.logger.Warn("Nodes reach this one at a public address by gossip in clear: whoever reaches --cluster.gossip-address sees who is there, and can have nodes look dead; set --cluster.gossip-keyring-file, or advertise a private address", "address", ip)
	}
	return nil
}

// public tells whether an address is one that others than this machine and its own network reach.
func public(ip netip.Addr) bool {
	return !ip.IsLoopback() && !ip.IsPrivate() && !ip.IsLinkLocalUnicast()
}
