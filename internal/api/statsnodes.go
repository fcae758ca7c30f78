package api

import (
	"time"

	"github.com/starling-tsdb/starling/internal/pushdown"
	"github.com/starling-tsdb/starling/internal/spent"
)

// ReadStats tell what one read took, of a part of a query or of series as they are stored.
type ReadStats struct {
	// Selector is that of series which are read as they are stored, "" where owners evaluate.
	Selector string `json:"selector,omitempty"`
	// Seconds is how long it took, begun again included; ProvingSeconds the part of that in which
	// the nodes were asked what they hold.
	Seconds        float64 `json:"seconds"`
	ProvingSeconds float64 `json:"provingSeconds"`
	// Nodes are in the order in which they answered, each as often as it was asked.
	Nodes []NodeReadStats `json:"nodes"`
}

// NodeName is how a node is called in the status of the cluster. What is not known is "".
type NodeName struct {
	Name string `json:"name,omitempty"`
	// Address is that of its RPC port.
	Address string `json:"address,omitempty"`
}

// NodeReadStats tell what a read took of one node.
type NodeReadStats struct {
	ID string `json:"id"`
	NodeName
	// Seconds is the time from the question to the end of the answer, on the node that asks.
	Seconds float64 `json:"seconds"`
	// BytesReceived came from the node; 0 from the one that asks.
	BytesReceived int64 `json:"bytesReceived"`
	// Series are those of the answer.
	Series int64 `json:"series"`
	// Failed is why the answer was not used.
	Failed string `json:"failed,omitempty"`
	// Owner is null if the node has not said: it is of an earlier version, or failed.
	Owner *OwnerStats `json:"owner"`
}

// OwnerStats are what a node measured of a read of its own series.
type OwnerStats struct {
	WaitingSeconds    float64 `json:"waitingSeconds"`
	ReadingSeconds    float64 `json:"readingSeconds"`
	EvaluatingSeconds float64 `json:"evaluatingSeconds"`
	// SeriesRead and SamplesRead are whole series and chunks, once, whatever of them counts how often.
	SeriesRead  int64 `json:"seriesRead"`
	SamplesRead int64 `json:"samplesRead"`
}

// ReadTotals are those of all reads of a query.
type ReadTotals struct {
	SeriesRead    int64 `json:"seriesRead"`
	SamplesRead   int64 `json:"samplesRead"`
	BytesReceived int64 `json:"bytesReceived"`
	// Unknown is how many answers of nodes are not in SeriesRead and SamplesRead, as the nodes
	// have not said.
	Unknown int `json:"unknown"`
}

func (t *ReadTotals) add(reads []ReadStats) {
	for _, r := range reads {
		for _, n := range r.Nodes {
			t.BytesReceived += n.BytesReceived
			if n.Owner == nil {
				t.Unknown++
				continue
			}
			t.SeriesRead += n.Owner.SeriesRead
			t.SamplesRead += n.Owner.SamplesRead
		}
	}
}

// readStats renders what was noted, without the names of nodes.
func readStats(q *spent.Query) []ReadStats {
	all := []ReadStats{}
	for _, read := range q.Reads() {
		took, nodes := read.Noted()
		r := ReadStats{
			Selector: read.Selector, Seconds: took.Total.Seconds(), ProvingSeconds: took.Proving.Seconds(), Nodes: []NodeReadStats{},
		}
		for _, n := range nodes {
			r.Nodes = append(r.Nodes, NodeReadStats{
				ID: string(n.ID), Seconds: n.Took.Seconds(), BytesReceived: n.Bytes, Series: n.Series, Failed: n.Failed, Owner: ownerStats(n.Owner),
			})
		}
		all = append(all, r)
	}
	return all
}

func ownerStats(o *spent.Owner) *OwnerStats {
	if o == nil {
		return nil
	}
	return &OwnerStats{
		WaitingSeconds: seconds(o.Waiting), ReadingSeconds: seconds(o.Reading), EvaluatingSeconds: seconds(o.Evaluating),
		SeriesRead: o.Series, SamplesRead: o.Samples,
	}
}

// seconds does not trust what comes from elsewhere.
func seconds(d time.Duration) float64 { return max(0, d).Seconds() }

// nameNodes fills in how the nodes are called.
func nameNodes(reads []ReadStats, name func(id string) NodeName) {
	for _, r := range reads {
		for i := range r.Nodes {
			r.Nodes[i].NodeName = name(r.Nodes[i].ID)
		}
	}
}

func explainedSelectors(whole []pushdown.Whole) []ExplainedSelector {
	all := []ExplainedSelector{}
	for _, s := range whole {
		all = append(all, ExplainedSelector(s))
	}
	return all
}
