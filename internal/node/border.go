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
	return border.New(o)
}

// dialPeer opens a connection to the port for peers of another node.
func (n *Node) dialPeer(ctx context.Context, address string) (net.Conn, error) {
	return n.border.Dial(n.opts.Network.Dial)(ctx, address)
}

// advertised hears at which address peers dial this node.
func (n *Node) advertised(ip netip.Addr) error { return n.border.SetSelf(ip) }
