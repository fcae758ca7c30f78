package cluster

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/oklog/ulid/v2"

	"github.com/starling-tsdb/starling/internal/statefile"
	"github.com/starling-tsdb/starling/internal/table"
)

const (
	identityFile = "identity"
	foundingFile = "founding"
	peersFile    = "peers"
	tableFile    = "table"
	lockFile     = "LOCK"
	raftDir      = "raft"
	ownerFile    = "owner"
)

// identity is who a data directory is.
type identity struct {
	Node table.NodeID `json:"node"`
	// Boots counts the starts; peers take a newer start's word over an older one's.
	Boots uint64 `json:"boots"`
}

// gossipName is the node's name in memberlist, new with every start.
func (id identity) gossipName() string {
	return fmt.Sprintf("%s-%d", id.Node, id.Boots)
}

// parseGossipName takes a name apart.
func parseGossipName(name string) (identity, error) {
	node, boots, found := strings.Cut(name, "-")
	n, err := strconv.ParseUint(boots, 10, 64)
	if !found || err != nil || node == "" {
		return identity{}, fmt.Errorf("gossip name %q is not of the form <node ID>-<starts>", name)
	}
	return identity{Node: table.NodeID(node), Boots: n}, nil
}

// openIdentity loads or makes the identity of dir and counts this start. The Raft store
// has to be open already: a store exists from before its node's identity was written,
// so an identity without one has lost it.
func openIdentity(dir string, store *raftStore) (identity, error) {
	var id identity
	path := filepath.Join(dir, identityFile)
	err := statefile.Load(dir, identityFile, &id)
	switch {
	case errors.Is(err, os.ErrNotExist):
		if err := checkNoIdentity(dir); err != nil {
			return id, err
		}
		if id.Node, err = newNodeID(); err != nil {
			return id, err
		}
		if err := statefile.Save(store.dir, ownerFile, id.Node); err != nil {
			return id, err
		}
	case err != nil:
		return id, fmt.Errorf("%w; restore it from a backup, or empty %s and let the node join as a new one", err, dir)
	default:
		if err := checkOwner(dir, id.Node, store); err != nil {
			return id, err
		}
	}
	id.Boots++
	if err := statefile.Save(dir, identityFile, id); err != nil {
		return id, fmt.Errorf("count the start in %s: %w", path, err)
	}
	return id, nil
}

func newNodeID() (table.NodeID, error) {
	id, err := newULID()
	return table.NodeID(id), err
}

func newULID() (string, error) {
	u, err := ulid.New(ulid.Now(), rand.Reader)
	if err != nil {
		return "", fmt.Errorf("make an ID: %w", err)
	}
	return u.String(), nil
}

// checkNoIdentity refuses to make an identity for a directory that had one.
func checkNoIdentity(dir string) error {
	for _, name := range []string{foundingFile, tableFile} {
		there, err := exists(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		if there {
			return fmt.Errorf("%w: %s has a file %q but no %q; restore the whole directory from one backup, or empty it and let the node join as a new one",
				errLost, dir, name, identityFile)
		}
	}
	return nil
}

// checkOwner refuses a Raft store that is not this node's: with an empty or foreign
// store it could vote twice in one term, or lack what it had confirmed.
func checkOwner(dir string, self table.NodeID, store *raftStore) error {
	var owner table.NodeID
	advice := fmt.Sprintf("restore %s and %s from one backup, or empty %s and let the node join as a new one",
		filepath.Join(dir, identityFile), store.dir, dir)
	err := statefile.Load(store.dir, ownerFile, &owner)
	switch {
	case errors.Is(err, os.ErrNotExist) || (err == nil && !store.wasThere):
		return fmt.Errorf("%w: the Raft store of node %s is not in %s; %s", errLost, self, store.dir, advice)
	case err != nil:
		return fmt.Errorf("%w; %s", err, advice)
	case owner != self:
		return fmt.Errorf("%w: the Raft store in %s belongs to node %s, the identity says %s; %s", errLost, store.dir, owner, self, advice)
	}
	return nil
}

// errLost marks a part of the directory that is missing while others show that it was
// there.
var errLost = errors.New("part of the directory is missing")

func exists(path string) (bool, error) {
	_, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
