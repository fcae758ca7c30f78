package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/starling-tsdb/starling/internal/table"
)

// metadata is what a node says of itself in gossip. memberlist panics above 512 bytes:
// the texts are bounded by Config.check, so the JSON has about 350 at most.
type metadata struct {
	Cluster string `json:"c,omitempty"`
	Zone    string `json:"z,omitempty"`
	Name    string `json:"n,omitempty"`
	Version string `json:"v,omitempty"`
	RPC     uint16 `json:"r"`
	HTTP    uint16 `json:"h"`
	Epoch   uint64 `json:"e,omitempty"`
	Ready   uint64 `json:"y,omitempty"`
	Expect  uint16 `json:"x,omitempty"`
	// Starts is set where it is more than the number in the name.
	Starts uint64 `json:"s,omitempty"`
	// Leaving is set just before a graceful stop; memberlist tells those who hear of the
	// end in other ways that the node is dead.
	Leaving bool `json:"l,omitempty"`
}

// maxExpect bounds --cluster.bootstrap-expect, which travels in the metadata.
const maxExpect = 1000

// gossip runs memberlist and keeps the registry of peers up to date.
type gossip struct {
	cfg   *Config
	self  identity
	ip    netip.Addr
	peers *registry
	log   *slog.Logger
	quiet *throttle
	count *metrics
	// describe returns what the node says of itself now; it must not block.
	describe func() metadata
	table    func() *table.Table

	list   *memberlist.Memberlist
	addr   string        // own gossip address
	change chan struct{} // own metadata changed

	mu      sync.Mutex
	leaving bool
	dialing map[string]bool // addresses being joined
	wg      sync.WaitGroup  // the attempts
}

// start opens the sockets and begins to talk.
func (g *gossip) start(ctx context.Context) error {
	conf := memberlist.DefaultLANConfig()
	conf.Name = g.self.gossipName()
	conf.Label = g.cfg.ClusterName
	conf.Delegate, conf.Events, conf.Merge, conf.Alive, conf.Conflict = g, g, g, g, g
	// With keys, what comes in clear is refused, and nothing is sent in clear.
	conf.Keyring, conf.GossipVerifyIncoming, conf.GossipVerifyOutgoing = g.cfg.GossipKeys, true, true
	conf.TCPTimeout = g.cfg.Timing.Stream
	// A node is suspected for six seconds at least before it counts as dead: a pause of
	// a busy machine is not a death. Nothing but reports and choice of peers depends on it.
	conf.SuspicionMult = 6
	conf.Transport = g.cfg.GossipTransport
	conf.Logger = (&gossipLog{log: g.log, quiet: g.quiet, refused: g.refuseName, sealed: g.refuseKey}).logger()
	conf.AdvertiseAddr = g.ip.String()
	if conf.Transport == nil {
		if err := g.bind(ctx, conf); err != nil {
			return err
		}
	} else {
		_, port, err := conf.Transport.FinalAdvertiseAddr("", 0)
		if err != nil {
			return fmt.Errorf("address of the gossip transport: %w", err)
		}
		conf.AdvertisePort = port
	}
	if err := g.fence(conf); err != nil {
		return err
	}
	list, err := memberlist.Create(conf)
	if err != nil {
		if f, fenced := conf.Transport.(*fence); fenced {
			err = errors.Join(err, f.Shutdown())
		}
		return fmt.Errorf("--cluster.gossip-address=%s: %w", g.cfg.GossipBind, err)
	}
	g.list = list
	g.addr = list.LocalNode().Address()
	return nil
}

func (g *gossip) bind(ctx context.Context, conf *memberlist.Config) error {
	host, port, err := splitHostPort(g.cfg.GossipBind)
	if err != nil {
		return err
	}
	conf.BindAddr, conf.BindPort, conf.AdvertisePort = "0.0.0.0", port, port
	if host == "" {
		return nil
	}
	ips, err := g.cfg.Find.LookupHost(ctx, host)
	if err != nil {
		return fmt.Errorf("--cluster.gossip-address %q: %w", g.cfg.GossipBind, err)
	}
	ip, err := preferIPv4(ips)
	if err != nil {
		return fmt.Errorf("--cluster.gossip-address %q: %w", g.cfg.GossipBind, err)
	}
	conf.BindAddr = ip.String()
	return nil
}

// announce spreads the node's own metadata whenever they change.
func (g *gossip) announce(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-g.change:
			if err := g.list.UpdateNode(g.cfg.Timing.Call); err != nil {
				g.log.Debug("own metadata not spread yet", "err", err)
			}
		}
	}
}

// changed asks announce to spread the metadata.
func (g *gossip) changed() {
	select {
	case g.change <- struct{}{}:
	default:
	}
}

// stop says good-bye and closes the sockets.
func (g *gossip) stop() {
	g.mu.Lock()
	g.leaving = true
	g.mu.Unlock()
	if err := g.list.UpdateNode(g.cfg.Timing.Leave); err != nil {
		g.log.Debug("leave of gossip not announced", "err", err)
	}
	if err := g.list.Leave(g.cfg.Timing.Leave); err != nil {
		g.log.Debug("leave of gossip not spread", "err", err)
	}
	if err := g.list.Shutdown(); err != nil {
		g.log.Warn("close gossip", "err", err)
	}
	g.wg.Wait()
}

// rejoin contacts seeds and lost members for ever: memberlist itself never finds again
// what it declared dead, so that a long split would last.
func (g *gossip) rejoin(ctx context.Context) {
	started := time.Now()
	complain := newThrottle(g.cfg.Timing.Complain)
	for {
		g.rejoinOnce(ctx)
		g.forget()
		if err := g.peers.save(g.cfg.Dir); err != nil {
			g.log.Warn("remember the peers", "err", err)
		}
		pause := g.cfg.Timing.Rejoin
		if !g.anyAlive() && len(g.cfg.Find.Join) > 0 {
			pause = min(pause, 2*g.cfg.Timing.Poll)
			if time.Since(started) >= g.cfg.Timing.Complain && complain.allow("alone") {
				g.log.Warn("no other node is reachable", "join", g.cfg.Find.Join, "self", g.addr)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// forget drops the dead that are no members: nobody has to find them again.
func (g *gossip) forget() {
	if t := g.table(); t != nil {
		g.peers.forget(func(p peer) bool {
			return t.Member(p.ID) || p.State == Alive
		})
	}
}

func (g *gossip) anyAlive() bool {
	for _, p := range g.peers.all() {
		if p.State == Alive {
			return true
		}
	}
	return false
}

// maxLost bounds how many lost members one round of rejoin contacts.
const maxLost = 16

func (g *gossip) rejoinOnce(ctx context.Context) {
	alive := map[string]bool{g.addr: true}
	var lost []string
	for _, p := range g.peers.all() {
		if p.State == Alive {
			alive[p.Gossip] = true
		} else if p.Gossip != "" {
			lost = append(lost, p.Gossip)
		}
	}
	rand.Shuffle(len(lost), func(i, j int) { lost[i], lost[j] = lost[j], lost[i] })
	targets := append(g.resolveSeeds(ctx), lost[:min(len(lost), maxLost)]...)
	for _, addr := range targets {
		if alive[addr] || !g.beginDial(addr) {
			continue
		}
		g.wg.Go(func() { g.join(addr) })
	}
}

// beginDial claims an address, so that one that hangs is tried once at a time.
func (g *gossip) beginDial(addr string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.dialing[addr] {
		return false
	}
	g.dialing[addr] = true
	return true
}

func (g *gossip) join(addr string) {
	_, err := g.list.Join([]string{addr})
	g.mu.Lock()
	delete(g.dialing, addr)
	leaving := g.leaving
	g.mu.Unlock()
	g.count.rejoin(err == nil)
	if err == nil || leaving {
		return
	}
	hint := ""
	if errors.Is(err, io.EOF) || strings.Contains(err.Error(), io.EOF.Error()) {
		hint = fmt.Sprintf("it closed the stream: is its --cluster.name %q, too, and has it the same keys of gossip, or none?", g.cfg.ClusterName)
	}
	if g.quiet.allow("join " + addr) {
		g.log.Info("gossip with a seed or lost member failed; it is tried again", "address", addr, "err", err, "hint", hint)
	}
}

// resolveSeeds looks up the names in Join anew.
func (g *gossip) resolveSeeds(ctx context.Context) []string {
	ctx, cancel := context.WithTimeout(ctx, g.cfg.Timing.Stream)
	defer cancel()
	var addrs []string
	for _, seed := range g.cfg.Find.Join {
		host, port, err := splitHostPort(seed)
		if err != nil {
			continue // checked by Config.check
		}
		ips, err := g.cfg.Find.LookupHost(ctx, host)
		if err != nil {
			if g.quiet.allow("resolve " + seed) {
				g.log.Warn("a seed does not resolve; it is tried again", "seed", seed, "err", err)
			}
			continue
		}
		for _, s := range ips {
			ip, err := netip.ParseAddr(s)
			if err != nil {
				continue
			}
			addr := joinHostPort(ip.Unmap().String(), port)
			if g.ip.IsLoopback() && !ip.IsLoopback() && addr != g.addr {
				if g.quiet.allow("loopback " + seed) {
					g.log.Error("a seed is not contacted", "err", loopbackError(g.ip, seed))
				}
				continue
			}
			if g.cfg.Allowed != nil && addr != g.addr {
				if err := g.cfg.Allowed(ip); err != nil {
					if g.quiet.allow("not allowed " + seed) {
						g.log.Warn("a seed is not contacted", "seed", seed, "err", err)
					}
					continue
				}
			}
			addrs = append(addrs, addr)
		}
	}
	return addrs
}

// NodeMeta implements memberlist.Delegate.
func (g *gossip) NodeMeta(limit int) []byte {
	m := g.describe()
	g.mu.Lock()
	m.Leaving = g.leaving
	g.mu.Unlock()
	b, err := json.Marshal(m)
	if err != nil || len(b) > limit {
		// Unreachable, see metadata. Peers ignore a node that says nothing of itself,
		// which beats the panic that memberlist has for too much.
		g.log.Error("own gossip metadata", "bytes", len(b), "limit", limit, "err", err)
		return nil
	}
	return b
}

// NotifyMsg implements memberlist.Delegate; the cluster sends no messages of its own.
func (g *gossip) NotifyMsg([]byte) {}

// GetBroadcasts implements memberlist.Delegate.
func (g *gossip) GetBroadcasts(int, int) [][]byte { return nil }

// LocalState implements memberlist.Delegate.
func (g *gossip) LocalState(bool) []byte { return nil }

// MergeRemoteState implements memberlist.Delegate.
func (g *gossip) MergeRemoteState([]byte, bool) {}

// read takes apart what a node says of itself.
func (g *gossip) read(n *memberlist.Node) (peer, metadata, error) {
	id, err := parseGossipName(n.Name)
	if err != nil {
		return peer{}, metadata{}, err
	}
	var m metadata
	if err := json.Unmarshal(n.Meta, &m); err != nil {
		return peer{}, m, fmt.Errorf("metadata of %s: %w", n.Name, err)
	}
	ip := n.Addr.String()
	return peer{
		ID: id.Node, Boots: max(id.Boots, m.Starts), Gossip: joinHostPort(ip, int(n.Port)),
		RPC: joinHostPort(ip, int(m.RPC)), HTTP: joinHostPort(ip, int(m.HTTP)),
		Name: m.Name, Zone: m.Zone, Version: m.Version, Cluster: m.Cluster, Epoch: m.Epoch, Ready: m.Ready,
		Expect: int(m.Expect), State: Alive,
	}, m, nil
}

// NotifyAlive implements memberlist.AliveDelegate: it keeps out nodes of another cluster
// and those at addresses that cannot be right. memberlist's lock is held.
func (g *gossip) NotifyAlive(n *memberlist.Node) error {
	p, _, err := g.read(n)
	if err != nil {
		return err
	}
	if p.ID == g.self.Node {
		return nil
	}
	if own := g.describe().Cluster; own != "" && p.Cluster != "" && p.Cluster != own {
		return g.refuseID(p, own)
	}
	ip, _ := netip.AddrFromSlice(n.Addr)
	ip = ip.Unmap()
	if g.cfg.Allowed != nil {
		if err := g.cfg.Allowed(ip); err != nil {
			g.refuseAddress(n.Addr.String(), fmt.Errorf("node %s: %w", p.ID, err))
			return err
		}
	}
	if ip.IsUnspecified() || ip.IsLoopback() && !g.ip.IsLoopback() || g.cfg.Allowed == nil && g.noPlace(ip) {
		err := fmt.Errorf("node %s advertises %s, which is of no use here: set its --cluster.advertise-host", p.ID, n.Addr)
		if g.quiet.allow("address " + string(p.ID)) {
			g.log.Warn("gossip refused", "err", err)
		}
		return err
	}
	return nil
}

func (g *gossip) refuseID(p peer, own string) error {
	g.count.refuse("cluster-id")
	err := fmt.Errorf("node %s at %s belongs to cluster %s, this one to %s", p.ID, p.Gossip, p.Cluster, own)
	if g.quiet.allow("foreign " + string(p.ID)) {
		g.log.Warn("refused gossip from another cluster ID; two clusters that share addresses or seeds should differ in --cluster.name",
			"err", err, "node", p.ID, "theirs", p.Cluster, "ours", own)
	}
	return err
}

func (g *gossip) refuseName(label, from string) {
	g.count.refuse("cluster-name")
	host, _, _ := net.SplitHostPort(from)
	if g.quiet.allow("label " + label + host) {
		g.log.Warn("refused gossip from a node with another cluster name: --cluster.name differs",
			"theirs", label, "ours", g.cfg.ClusterName, "from", from)
	}
}

// refuseKey notes what could not be opened with the keys of this node.
func (g *gossip) refuseKey(said string) {
	g.count.refuse("key")
	if g.quiet.allow("key") {
		g.log.Warn("refused gossip that is not encrypted with a key of this node: the files of --cluster.gossip-keyring-file differ, or somebody is no node", "gossip", said)
	}
}

// NotifyMerge implements memberlist.MergeDelegate: it refuses the view of a node that
// knows another cluster only. A mixed view is filtered by NotifyAlive.
func (g *gossip) NotifyMerge(nodes []*memberlist.Node) error {
	own := g.describe().Cluster
	if own == "" {
		return nil
	}
	var foreign error
	for _, n := range nodes {
		p, _, err := g.read(n)
		if err != nil || n.State != memberlist.StateAlive {
			continue
		}
		if p.Cluster == "" || p.Cluster == own {
			return nil
		}
		if foreign == nil {
			foreign = g.refuseID(p, own)
		}
	}
	return foreign
}

// NotifyConflict implements memberlist.ConflictDelegate.
func (g *gossip) NotifyConflict(have, other *memberlist.Node) {
	if g.quiet.allow("conflict " + have.Name) {
		g.log.Error("two processes claim one identity: was a data directory copied?",
			"node", have.Name, "address", have.Address(), "other", other.Address())
	}
}

// NotifyJoin implements memberlist.EventDelegate.
func (g *gossip) NotifyJoin(n *memberlist.Node) {
	if p := g.take(n); p.ID != "" {
		g.log.Info("node is there", "node", p.ID, "name", p.Name, "gossip", p.Gossip, "rpc", p.RPC, "zone", p.Zone)
	}
}

// NotifyUpdate implements memberlist.EventDelegate.
func (g *gossip) NotifyUpdate(n *memberlist.Node) { g.take(n) }

// take puts another node into the registry.
func (g *gossip) take(n *memberlist.Node) peer {
	p, _, err := g.read(n)
	if err != nil || p.ID == g.self.Node {
		return peer{}
	}
	if newer := g.peers.put(p); newer > 0 && g.quiet.allow("older "+string(p.ID)) {
		g.log.Warn("a node came back with an older start counter than it had: is its directory an old copy?",
			"node", p.ID, "starts", p.Boots, "remembered", newer, "gossip", p.Gossip)
	}
	return p
}

// NotifyLeave implements memberlist.EventDelegate.
func (g *gossip) NotifyLeave(n *memberlist.Node) {
	p, m, err := g.read(n)
	if err != nil || p.ID == g.self.Node {
		return
	}
	state := Dead
	if m.Leaving {
		state = Left
	}
	g.peers.gone(identity{Node: p.ID, Boots: p.Boots}, state)
	g.log.Info("node is gone", "node", p.ID, "name", p.Name, "state", state, "gossip", p.Gossip)
}

// sightings returns the other nodes as founding needs them.
func (r *registry) sightings() map[table.NodeID]sighting {
	seen := make(map[table.NodeID]sighting)
	for _, p := range r.all() {
		seen[p.ID] = sighting{Cluster: p.Cluster, Expect: p.Expect, Alive: p.State == Alive}
	}
	return seen
}
