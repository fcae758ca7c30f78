package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/starling-tsdb/starling/internal/api"
	"github.com/starling-tsdb/starling/internal/cluster"
	"github.com/starling-tsdb/starling/internal/config"
	"github.com/starling-tsdb/starling/internal/keyring"
	"github.com/starling-tsdb/starling/internal/table"
	"github.com/starling-tsdb/starling/internal/transport"
)

// keyringTimeout bounds how long a node is waited for that is to change its keys.
const keyringTimeout = 5 * time.Second

// openKeyring reads the keys of gossip, if there are any.
func (n *Node) openKeyring() error {
	path := n.opts.Config.Cluster.GossipKeyringFile
	if path == "" {
		return nil
	}
	var err error
	if n.keyring, err = keyring.Open(path); err != nil {
		return config.Flagged("cluster.gossip-keyring-file", err)
	}
	mode, err := keyring.Readable(path)
	if err != nil {
		return config.Flagged("cluster.gossip-keyring-file", err)
	}
	if mode != 0 {
		n.logger.Warn("The file of gossip keys is open to others than its owner: set its permissions to 0600", "file", path, "mode", fmt.Sprintf("%04o", mode))
	}
	return nil
}

// keyrings changes the keys of gossip, of this node for its peers, and of all for operators.
type keyrings struct{ n *Node }

var (
	errNoKeyring = errors.New("gossip is not encrypted on this node: --cluster.gossip-keyring-file is not set")
	errNoSecrecy = errors.New("keys do not travel in clear: without TLS between nodes, which --cluster.tls.cert-file, --cluster.tls.key-file and --cluster.tls.ca-file turn on, change the files of --cluster.gossip-keyring-file by hand and restart the nodes")
)

// ChangeKeys implements transport.Keyring.
func (k keyrings) ChangeKeys(c transport.KeyChange) ([]string, error) {
	n := k.n
	switch {
	case n.keyring == nil:
		return nil, errNoKeyring
	case !n.border.Secret():
		return nil, errNoSecrecy
	}
	var err error
	switch c.Op {
	case "list":
		return n.keyring.Fingerprints(), nil
	case "add":
		c.Fingerprint = keyring.Fingerprint(c.Key)
		err = n.keyring.Add(c.Key)
	case "use":
		err = n.keyring.Use(c.Fingerprint)
	case "remove":
		err = n.keyring.Remove(c.Fingerprint)
	default:
		err = fmt.Errorf("there is no operation %q: it is of another version", c.Op)
	}
	if err != nil {
		return nil, err
	}
	prints := n.keyring.Fingerprints()
	n.logger.Info("The keys of gossip were changed", "command", c.Op, "fingerprint", c.Fingerprint, "uses", prints[0], "keys", len(prints))
	return prints, nil
}

// Keyring implements api.Keyrings. What could cut a node off is refused before any node does it.
func (k keyrings) Keyring(ctx context.Context, c api.KeyringChange) (*api.KeyringStatus, error) {
	p := k.n.placed.Load()
	if p == nil {
		return nil, errNotFormed
	}
	if _, err := k.ChangeKeys(transport.KeyChange{Op: "list"}); err != nil {
		return nil, fmt.Errorf("%w: %w", api.ErrRefused, err)
	}
	if c.Op == "use" || c.Op == "remove" {
		if err := keysPermit(c, k.everywhere(ctx, p, transport.KeyChange{Op: "list"})); err != nil {
			return nil, fmt.Errorf("%w: %w", api.ErrRefused, err)
		}
	}
	nodes := k.everywhere(ctx, p, transport.KeyChange(c))
	return &api.KeyringStatus{Nodes: nodes, Keys: countKeys(nodes)}, nil
}

// everywhere has all nodes change their keys, this one included.
func (k keyrings) everywhere(ctx context.Context, p *placed, c transport.KeyChange) []api.KeyringNode {
	ctx, cancel := context.WithTimeout(ctx, keyringTimeout)
	defer cancel()
	var nodes []api.KeyringNode
	for _, m := range k.n.cluster.Members() {
		if p.table.Member(m.ID) || m.State == cluster.Alive {
			nodes = append(nodes, api.KeyringNode{ID: string(m.ID), Name: m.Name})
		}
	}
	var asked sync.WaitGroup
	for i := range nodes {
		asked.Go(func() { k.change(ctx, p, c, &nodes[i]) })
	}
	asked.Wait()
	return nodes
}

// change has one node change its keys.
func (k keyrings) change(ctx context.Context, p *placed, c transport.KeyChange, at *api.KeyringNode) {
	id := table.NodeID(at.ID)
	var err error
	if id == k.n.cluster.Self() {
		at.Keys, err = k.ChangeKeys(c)
	} else {
		at.Keys, err = k.n.peers.Peer(id).Keyring(ctx, p.table, c)
	}
	if err != nil {
		at.Error = err.Error()
	}
}

// keysPermit returns why a key must not be used or removed now, given what all nodes have.
func keysPermit(c api.KeyringChange, nodes []api.KeyringNode) error {
	held := false
	for _, n := range nodes {
		name := cmp.Or(n.Name, n.ID)
		has := slices.Contains(n.Keys, c.Fingerprint)
		switch {
		case n.Error != "":
			return fmt.Errorf("%s (%s) cannot be asked for its keys, so nothing was changed on any node; have it answer, or remove it from the cluster: %s", name, n.ID, n.Error)
		case c.Op == "use" && !has:
			return fmt.Errorf("%s (%s) lacks the key %s and would be cut off, so nothing was changed on any node; add the key first", name, n.ID, c.Fingerprint)
		case c.Op == "remove" && has && n.Keys[0] == c.Fingerprint:
			return fmt.Errorf("%s (%s) encrypts with the key %s, so nothing was changed on any node; use another one first", name, n.ID, c.Fingerprint)
		}
		held = held || has
	}
	if !held {
		return fmt.Errorf("no node has a key %s", c.Fingerprint)
	}
	return nil
}

// countKeys says of each key how many nodes have it, those that are used most first.
func countKeys(nodes []api.KeyringNode) []api.KeyStatus {
	keys := []api.KeyStatus{}
	for _, n := range nodes {
		for i, print := range n.Keys {
			at := slices.IndexFunc(keys, func(k api.KeyStatus) bool { return k.Fingerprint == print })
			if at < 0 {
				at = len(keys)
				keys = append(keys, api.KeyStatus{Fingerprint: print})
			}
			keys[at].Nodes++
			if i == 0 {
				keys[at].Uses++
			}
		}
	}
	slices.SortFunc(keys, func(a, b api.KeyStatus) int {
		return cmp.Or(cmp.Compare(b.Uses, a.Uses), cmp.Compare(b.Nodes, a.Nodes), cmp.Compare(a.Fingerprint, b.Fingerprint))
	})
	return keys
}
