package api

import (
	"context"
	"net/http"
	"time"
)

// Cluster describes the cluster as this node sees it.
type Cluster interface {
	// Status returns the present state. It may ask other nodes, and waits about a second
	// for those that do not answer. It is called concurrently.
	Status(ctx context.Context) ClusterStatus
}

// ClusterStatus is what GET /api/v1/cluster shows.
type ClusterStatus struct {
	ClusterID string `json:"clusterId"`
	// Self is the ID of the node that answers.
	Self string `json:"self"`
	// Epoch, ReplicationFactor and Slots are those of the table this node works with, by
	// its current assignment.
	Epoch uint64 `json:"epoch"`
	// Generation counts the recoveries from the loss of a majority.
	Generation        uint64       `json:"generation,omitempty"`
	ReplicationFactor int          `json:"replicationFactor"`
	WriteQuorum       int          `json:"writeQuorum"`
	Slots             []SlotStatus `json:"slots"`
	// Crowded is about which part of the series, from 0 to 1, have copies in fewer zones than
	// they could, because a zone has too few nodes.
	Crowded float64 `json:"crowded,omitempty"`
	// Apart says why this node serves nobody, if the cluster was recovered without it.
	Apart string `json:"apart,omitempty"`
	// Transition leads to another assignment; nil if there is none.
	Transition *TransitionStatus `json:"transition,omitempty"`
	// Waiting is how many changes wait for the transition to end.
	Waiting int `json:"waiting,omitempty"`
	// Paused holds back the copying of this and of later transitions.
	Paused bool `json:"paused,omitempty"`
	// Nodes are all that this node knows of, in a slot or not.
	Nodes []NodeStatus `json:"nodes"`
	// Gaps are what this node notes that others miss.
	Gaps []GapStatus `json:"gaps"`
	// Damage is what this node found in its own data and has not repaired.
	Damage []DamageStatus `json:"damage,omitempty"`
	// Events are what this node told lately, the newest first: not what others did.
	Events []EventStatus `json:"events,omitempty"`
}

// EventStatus is something that this node told in its log.
type EventStatus struct {
	// Time is when it was told last, and Count how often.
	Time  time.Time `json:"time"`
	Count int       `json:"count"`
	// Level is "info", "warn" or "error".
	Level  string `json:"level"`
	Text   string `json:"text"`
	Detail string `json:"detail,omitempty"`
}

// GapStatus is an open gap: a peer may lack samples that this node holds.
type GapStatus struct {
	Peer string `json:"peer"`
	// Since is the time of the oldest sample that the peer may lack, empty if all are in
	// doubt.
	Since string `json:"since,omitempty"`
	// Opened is when the gap was noted first.
	Opened time.Time `json:"opened"`
	// HandingOff tells whether the peer is taking what it lacks.
	HandingOff bool `json:"handingOff"`
	// SamplesLeft and BytesLeft estimate what is to be handed off.
	SamplesLeft int64 `json:"samplesLeft"`
	BytesLeft   int64 `json:"bytesLeft"`
}

// DamageStatus is a range of time for which this node may lack samples.
type DamageStatus struct {
	// MinTime and MaxTime are inclusive, in milliseconds since 1970.
	MinTime int64     `json:"minTime"`
	MaxTime int64     `json:"maxTime"`
	Kind    string    `json:"kind"`
	Name    string    `json:"name"`
	Detail  string    `json:"detail"`
	Found   time.Time `json:"found"`
	// Suspect ranges lack only what was not confirmed, as far as a node can tell.
	Suspect bool `json:"suspect,omitempty"`
}

// SlotStatus is one slot of the table; a hole has no node.
type SlotStatus struct {
	Slot int    `json:"slot"`
	Node string `json:"node,omitempty"`
	Zone string `json:"zone,omitempty"`
	// Removed nodes are given up: their copies count as missing.
	Removed bool `json:"removed,omitempty"`
}

// TransitionStatus is how far the way to another assignment is.
type TransitionStatus struct {
	// Phase is in the words of the table: "copying" or "switching".
	Phase string `json:"phase"`
	// Began is the epoch with which the phase began, and Since when a node first saw that;
	// nil if all have restarted since.
	Began             uint64       `json:"began"`
	Since             *time.Time   `json:"since,omitempty"`
	ReplicationFactor int          `json:"replicationFactor"`
	Slots             []SlotStatus `json:"slots"`
	// Awaited are the IDs of the nodes that the next phase waits for.
	Awaited []string `json:"awaited"`
	// Copying is how far each node is that is to own copies, while the phase is "copying".
	Copying []CopyStatus `json:"copying,omitempty"`
}

// CopyStatus is how far a node is that copies what it is to own. All but Node and Ready are
// about right, and zero as long as they are unknown.
type CopyStatus struct {
	Node string `json:"node"`
	// Silent nodes have not answered: all that is known of them is from gossip.
	Silent bool `json:"silent,omitempty"`
	// Ready nodes hold all that they are to own.
	Ready bool `json:"ready"`
	// Done is the part of the data that is copied, from 0 to 1: all before Until, which is nil
	// at the beginning and at the end. It goes through time.
	Done  float64    `json:"done"`
	Until *time.Time `json:"until,omitempty"`
	// Samples were lacking and are stored; SamplesLeft may still be lacking.
	Samples     int64 `json:"samples"`
	SamplesLeft int64 `json:"samplesLeft,omitempty"`
	// Bytes are those of the chunks that came from other nodes.
	Bytes     int64 `json:"bytes"`
	BytesLeft int64 `json:"bytesLeft,omitempty"`
	// SamplesPerSecond and BytesPerSecond are measured since the copying began, or went on
	// after a pause or a restart.
	SamplesPerSecond float64    `json:"samplesPerSecond,omitempty"`
	BytesPerSecond   float64    `json:"bytesPerSecond,omitempty"`
	SecondsLeft      float64    `json:"secondsLeft,omitempty"`
	Started          *time.Time `json:"started,omitempty"`
}

// NodeStatus is one node as this node sees it.
type NodeStatus struct {
	ID        string        `json:"id"`
	Name      string        `json:"name,omitempty"`
	Addresses NodeAddresses `json:"addresses"`
	Zone      string        `json:"zone,omitempty"`
	// State is in the words of the cluster: "alive", "dead", "left", ….
	State   string `json:"state"`
	Version string `json:"version,omitempty"`
	// Epoch is the newest table that the node has said to have.
	Epoch uint64 `json:"epoch"`
	// Ready is the epoch with which the phase of a transition began for which the node holds
	// all it is to own.
	Ready uint64 `json:"ready,omitempty"`
	// Slot is nil for a node without one.
	Slot *int `json:"slot"`
	// Unready is what an alive node says of why it is no good place to send requests to.
	Unready string `json:"unready,omitempty"`
	// Holds and Load are nil for a node that has not answered.
	Holds *HoldingStatus `json:"holds,omitempty"`
	Load  *LoadStatus    `json:"load,omitempty"`
	// Gaps are what the node notes that others miss.
	Gaps []GapStatus `json:"gaps,omitempty"`
	// Share is nil for a node that owns no copies, and is to own none.
	Share *ShareStatus `json:"share,omitempty"`
	// Comparing is how many windows of two hours the node is to compare with other owners
	// soon, of about Windows that it holds, and Damaged how many ranges of time it makes good.
	Comparing int `json:"comparing,omitempty"`
	Windows   int `json:"windows,omitempty"`
	Damaged   int `json:"damaged,omitempty"`
}

// LoadStatus is how busy a node is, and what room it has. What is unlimited or unknown is 0.
type LoadStatus struct {
	// SamplesPerSecond are those that the node stores, and CPU is how many of its CPUs it keeps
	// busy: both over the last ten seconds or so.
	SamplesPerSecond float64 `json:"samplesPerSecond"`
	CPU              float64 `json:"cpu"`
	CPUs             int     `json:"cpus"`
	// Memory is what the program holds, in bytes, and MemoryLimit what it may hold.
	Memory      uint64 `json:"memory"`
	MemoryLimit uint64 `json:"memoryLimit,omitempty"`
	// DiskFree and DiskSize are those of the file system of the data, in bytes.
	DiskFree uint64 `json:"diskFree,omitempty"`
	DiskSize uint64 `json:"diskSize,omitempty"`
}

// HoldingStatus is how much lies on a node.
type HoldingStatus struct {
	// Series are those in memory, Bytes what blocks and logs take on disk.
	Series uint64 `json:"series"`
	Bytes  uint64 `json:"bytes"`
}

// ShareStatus is about which part of all copies are a node's own, from 0 to 1.
type ShareStatus struct {
	Current float64 `json:"current"`
	// Target is what the transition leads to; it equals Current if there is none.
	Target float64 `json:"target"`
}

// NodeAddresses are host:port, empty if unknown.
type NodeAddresses struct {
	Gossip string `json:"gossip,omitempty"`
	RPC    string `json:"rpc,omitempty"`
	HTTP   string `json:"http,omitempty"`
}

// cluster serves GET /api/v1/cluster, ready or not: that is when people look.
func (a *API) cluster(w http.ResponseWriter, r *http.Request) {
	status := a.opts.Info.Cluster.Status(r.Context())
	if status.Slots == nil {
		status.Slots = []SlotStatus{}
	}
	if status.Nodes == nil {
		status.Nodes = []NodeStatus{}
	}
	a.answer(w, r, status, nil)
}
