// Package copies tells what nodes left on their disks, and on whose disks it is to be.
package copies

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/starling-tsdb/starling/internal/faults/ledger"
	"github.com/starling-tsdb/starling/internal/placement"
	"github.com/starling-tsdb/starling/internal/plan"
	"github.com/starling-tsdb/starling/internal/statefile"
	"github.com/starling-tsdb/starling/internal/table"
)

// clusterDir is where a node's directory has its identity and the table.
const clusterDir = "cluster"

// ID is the identity that a node's directory has, empty before the node was first started.
func ID(dir string) (table.NodeID, error) {
	var identity struct{ Node table.NodeID }
	err := statefile.Load(filepath.Join(dir, clusterDir), "identity", &identity)
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	return identity.Node, err
}

// Owners returns which nodes are to hold a series, by the newest table on the disks of the
// members, that queries read by. The directories of the members are by their names.
func Owners(dirs map[string]string) (func(ledger.Series) []string, error) {
	var newest *table.Table
	names := map[table.NodeID]string{}
	for name, dir := range dirs {
		id, err := ID(dir)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		names[id] = name
		content, err := os.ReadFile(filepath.Join(dir, clusterDir, "table"))
		if err != nil {
			return nil, err
		}
		t, err := table.Decode(content)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if newest == nil || t.Epoch > newest.Epoch {
			newest = t
		}
	}
	placed := Placed(newest.Reading())
	return func(s ledger.Series) []string {
		var owners []string
		for _, id := range placed(s) {
			owners = append(owners, names[id])
		}
		return owners
	}, nil
}

// Placed returns which nodes own a series by an assignment.
func Placed(a *table.Assignment) func(ledger.Series) []table.NodeID {
	placed := plan.Place(a)
	return func(s ledger.Series) []table.NodeID {
		var owners []table.NodeID
		for _, slot := range placed.Owners(placement.Key("", s.Labels()), nil) {
			owners = append(owners, a.Slots[slot].Node)
		}
		return owners
	}
}

// Moved is what it takes to lead from one assignment to another, in samples: those of copies
// that are made, and the least that any placement would make that gives each node as much. Sizes
// are the samples of each series.
func Moved(from, to *table.Assignment, sizes map[ledger.Series]int) (made, least int) {
	before, after := Placed(from), Placed(to)
	gained := map[table.NodeID]int{}
	for s, n := range sizes {
		had := before(s)
		for _, id := range had {
			gained[id] -= n
		}
		for _, id := range after(s) {
			gained[id] += n
			if !slices.Contains(had, id) {
				made += n
			}
		}
	}
	for _, n := range gained {
		least += max(0, n)
	}
	return made, least
}
