package node

import (
	"context"
	"net"
	"os"
	"strconv"

	"github.com/hashicorp/memberlist"
)

// Network is how a node reaches others and is reached. Tests put nodes into one process
// with an implementation that lives in memory.
type Network interface {
	// Listen binds host:port for HTTP or for RPC.
	Listen(address string) (net.Listener, error)
	Dial(ctx context.Context, address string) (net.Conn, error)
	// LookupHost resolves a name to addresses.
	LookupHost(ctx context.Context, name string) ([]string, error)
	// GossipTransport binds the gossip address; nil leaves it to memberlist.
	GossipTransport(address string) (memberlist.Transport, error)
	// Hostname names the machine for people to read.
	Hostname() string
}

// machine is the network of the machine that this process runs on.
type machine struct{}

func (machine) Listen(address string) (net.Listener, error) { return net.Listen("tcp", address) }

func (machine) Dial(ctx context.Context, address string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "tcp", address)
}

func (machine) LookupHost(ctx context.Context, name string) ([]string, error) {
	return net.DefaultResolver.LookupHost(ctx, name)
}

func (machine) GossipTransport(string) (memberlist.Transport, error) { return nil, nil }

func (machine) Hostname() string {
	name, err := os.Hostname()
	if err != nil {
		return "unknown"
	}
	return name
}

func portOf(a net.Addr) int {
	_, port, err := net.SplitHostPort(a.String())
	if err != nil {
		return 0
	}
	n, _ := strconv.Atoi(port)
	return n
}
