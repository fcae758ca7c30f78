package readable

import (
	"slices"
	"strings"
)

// minPrefix is how much of an ID is shown at least.
const minPrefix = 8

// Names are what nodes are called.
type Names struct {
	name map[string]string
	// prefix is as much of a node's ID as tells it from the others.
	prefix map[string]string
}

// NamesOf tells nodes apart by their names, which were given in the order of their IDs, and by
// the beginnings of their IDs where names are missing or given twice.
func NamesOf(ids, given []string) Names {
	n := Names{map[string]string{}, map[string]string{}}
	for i, id := range ids {
		size := min(len(id), minPrefix)
		for size < len(id) && slices.ContainsFunc(ids, func(other string) bool { return other != id && strings.HasPrefix(other, id[:size]) }) {
			size++
		}
		n.prefix[id], n.name[id] = id[:size], given[i]
		if given[i] == "" || given[i] == id {
			n.name[id] = id[:size]
		} else if count := len(slices.DeleteFunc(slices.Clone(given), func(g string) bool { return g != given[i] })); count > 1 {
			n.name[id] = given[i] + "/" + id[:size]
		}
	}
	return n
}

// Of is the name of a node, its ID if it is none of those that were named.
func (n Names) Of(id string) string {
	if name, known := n.name[id]; known {
		return name
	}
	return id
}

// Prefix is as much of a node's ID as tells it from the others.
func (n Names) Prefix(id string) string { return n.prefix[id] }

// List names nodes, with commas between.
func (n Names) List(ids []string) string {
	list := make([]string, len(ids))
	for i, id := range ids {
		list[i] = n.Of(id)
	}
	return strings.Join(list, ", ")
}
