package node

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/starling-tsdb/starling/internal/config"
	"github.com/starling-tsdb/starling/internal/statefile"
	"github.com/starling-tsdb/starling/internal/table"
)

// outdatedFile keeps, below the data directory, that the directory is an old copy.
const outdatedFile = "outdated"

// outdated says that a peer has seen a start of this node that its directory does not know: the
// directory was put back from an old copy, and lacks what was confirmed since. The node then
// still takes writes, but vouches for nothing that it holds.
type outdated struct {
	Starts     uint64       `json:"starts"`
	Remembered uint64       `json:"remembered"`
	By         table.NodeID `json:"by"`
}

// Error implements error.
func (o *outdated) Error() string {
	return fmt.Sprintf("the data directory is an old copy: this is start %d, but node %s has seen a start %d that is not in it; what was confirmed in between is missing, so no query is answered from it: start as a new node with an empty directory",
		o.Starts, o.By, o.Remembered)
}

// starts implements transport.Starts.
type starts struct{ n *Node }

// Self implements transport.Starts.
func (s starts) Self() table.NodeID { return s.n.cluster.Self() }

// Own implements transport.Starts.
func (s starts) Own() (starts, run uint64) { return s.n.cluster.Starts(), s.n.session }

// Seen implements transport.Starts.
func (s starts) Seen(id table.NodeID, starts, run uint64) uint64 {
	return s.n.cluster.SeenStart(id, starts, run)
}

// Outdated implements transport.Starts. It is noted for good: after some more starts no peer
// would notice any more.
func (s starts) Outdated(by table.NodeID, seen uint64) {
	o := &outdated{Starts: s.n.cluster.Starts(), Remembered: seen, By: by}
	if !s.n.outdated.CompareAndSwap(nil, o) {
		return
	}
	s.n.logger.Error("This node vouches for nothing that it holds", "err", o)
	if err := statefile.Save(s.n.opts.Config.Storage.Path, outdatedFile, o); err != nil {
		s.n.logger.Error("That the data directory is an old copy could not be written down", "err", err)
	}
}

// loadOutdated reads whether the directory is known to be an old copy.
func loadOutdated(dir string, into *atomic.Pointer[outdated]) error {
	var o outdated
	err := statefile.Load(dir, outdatedFile, &o)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err == nil || errors.Is(err, statefile.ErrDamaged):
		into.Store(&o)
		return nil
	}
	return config.Flagged("storage.tsdb.path", fmt.Errorf("%s: %w", filepath.Join(dir, outdatedFile), err))
}
