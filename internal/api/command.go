package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"slices"
	"strings"

	v1 "github.com/prometheus/prometheus/web/api/v1"

	"github.com/starling-tsdb/starling/internal/table"
)

// Admin changes the cluster. Its methods are called concurrently. An error that wraps
// table.ErrCommand is a refusal; one that implements [Unavailable] becomes status 503.
type Admin interface {
	// Members are the nodes as far as this node knows them without asking.
	Members() []NodeStatus
	// Plan says what a command would do.
	Plan(ctx context.Context, c table.Command) (*ClusterPlan, error)
	// Propose has the cluster agree on a command, and returns the epoch of a table with it
	// that this node has adopted.
	Propose(ctx context.Context, c table.Command) (epoch uint64, err error)
}

// CommandRequest is the body of a command. Nodes are named by ID, by name, or by the
// beginning of either.
type CommandRequest struct {
	// Op is the command's name, for a plan.
	Op string `json:"op,omitempty"`
	// Nodes belongs to leave and remove.
	Nodes []string `json:"nodes,omitempty"`
	// AcceptLoss belongs to remove: what only those nodes held is lost.
	AcceptLoss bool `json:"acceptLoss,omitempty"`
	// Old and New belong to replace.
	Old string `json:"old,omitempty"`
	New string `json:"new,omitempty"`
	// Lost belongs to replace: whether the old node is given up. Without it, it is unless
	// gossip says that it is alive.
	Lost *bool `json:"lost,omitempty"`
	// ReplicationFactor belongs to replication.
	ReplicationFactor int `json:"replicationFactor,omitempty"`
}

// CommandResult is what a command is answered with.
type CommandResult struct {
	// Epoch is that of a table that includes the command.
	Epoch uint64 `json:"epoch"`
}

// ClusterPlan is what a command would do. Figures are estimates.
type ClusterPlan struct {
	// Epoch is that of the table that the plan goes from.
	Epoch uint64 `json:"epoch"`
	// Copies are those of each series, when all is done.
	Copies int `json:"copies"`
	// Slots are the slots that change.
	Slots []SlotChange `json:"slots"`
	Nodes []NodePlan   `json:"nodes"`
	Moves []MovePlan   `json:"moves"`
	// Share is the part of all copies that are made anew, from 0 to 1, and Optimum the
	// least that any placement would have to make.
	Share   float64 `json:"share"`
	Optimum float64 `json:"optimum"`
	// Series and Bytes are the sums of all moves.
	Series uint64 `json:"series"`
	Bytes  uint64 `json:"bytes"`
	// Seconds is how long the moves take at BytesPerSecond, which a node gives at most.
	Seconds        float64 `json:"seconds"`
	BytesPerSecond int64   `json:"bytesPerSecond"`
	// Warnings say what an operator may not expect.
	Warnings []string `json:"warnings,omitempty"`
}

// SlotChange is what becomes of a slot.
type SlotChange struct {
	Slot   int        `json:"slot"`
	Before SlotStatus `json:"before"`
	After  SlotStatus `json:"after"`
}

// NodePlan is a node's part in a plan.
type NodePlan struct {
	ID   string `json:"id"`
	Name string `json:"name,omitempty"`
	// Before and After are its parts of all copies, from 0 to 1.
	Before float64 `json:"before"`
	After  float64 `json:"after"`
}

// MovePlan is what one node copies from another.
type MovePlan struct {
	// From is empty if no owner is left to copy from.
	From   string  `json:"from,omitempty"`
	To     string  `json:"to"`
	Share  float64 `json:"share"`
	Series uint64  `json:"series"`
	Bytes  uint64  `json:"bytes"`
}

// commands are what operators may do, by the name that they do it under.
var commands = map[string]func(r *CommandRequest, nodes []NodeStatus) (table.Command, error){
	"leave":       leaving(table.Leave),
	"remove":      leaving(table.Remove),
	"replace":     replacing,
	"replication": replicating,
	"pause":       plain(table.Pause),
	"resume":      plain(table.Resume),
}

func leaving(kind table.Kind) func(*CommandRequest, []NodeStatus) (table.Command, error) {
	return func(r *CommandRequest, nodes []NodeStatus) (table.Command, error) {
		c := table.Command{Kind: kind, AcceptLoss: r.AcceptLoss}
		if c.AcceptLoss && kind != table.Remove {
			return c, errors.New("acceptLoss belongs to remove")
		}
		if len(r.Nodes) == 0 {
			return c, errors.New("nodes is missing: which are to go?")
		}
		for _, name := range r.Nodes {
			n, err := findNode(nodes, name)
			if err != nil {
				return c, err
			}
			c.Nodes = append(c.Nodes, table.NodeID(n.ID))
		}
		return c, nil
	}
}

func replacing(r *CommandRequest, nodes []NodeStatus) (table.Command, error) {
	if r.Old == "" || r.New == "" {
		return table.Command{}, errors.New("old or new is missing: which node takes the place of which?")
	}
	old, err := findNode(nodes, r.Old)
	if err != nil {
		return table.Command{}, err
	}
	by, err := findNode(nodes, r.New)
	if err != nil {
		return table.Command{}, err
	}
	lost := old.State != alive
	if r.Lost != nil {
		lost = *r.Lost
	}
	return table.Command{Kind: table.Replace, Nodes: []table.NodeID{table.NodeID(old.ID), table.NodeID(by.ID)}, Lost: lost}, nil
}

func replicating(r *CommandRequest, _ []NodeStatus) (table.Command, error) {
	if r.ReplicationFactor < 1 || r.ReplicationFactor > table.MaxReplicationFactor {
		return table.Command{}, fmt.Errorf("replicationFactor is %d, want 1 to %d", r.ReplicationFactor, table.MaxReplicationFactor)
	}
	return table.Command{Kind: table.Replicate, ReplicationFactor: r.ReplicationFactor}, nil
}

func plain(kind table.Kind) func(*CommandRequest, []NodeStatus) (table.Command, error) {
	return func(*CommandRequest, []NodeStatus) (table.Command, error) { return table.Command{Kind: kind}, nil }
}

// alive is the state of a node that gossip reaches.
const alive = "alive"

// findNode returns the node that has name as its ID, or else as its name, or else alone
// begins with it. The error lists the nodes that there are.
func findNode(nodes []NodeStatus, name string) (NodeStatus, error) {
	for _, fits := range []func(NodeStatus) bool{
		func(n NodeStatus) bool { return n.ID == name },
		func(n NodeStatus) bool { return n.Name == name },
		func(n NodeStatus) bool { return strings.HasPrefix(n.ID, name) || strings.HasPrefix(n.Name, name) },
	} {
		var found []NodeStatus
		for _, n := range nodes {
			if name != "" && fits(n) {
				found = append(found, n)
			}
		}
		switch len(found) {
		case 0:
		case 1:
			return found[0], nil
		default:
			return NodeStatus{}, fmt.Errorf("%q may be any of %s: name it by its ID", name, listNodes(found))
		}
	}
	return NodeStatus{}, fmt.Errorf("no node is called %q; there are %s", name, listNodes(nodes))
}

func listNodes(nodes []NodeStatus) string {
	list := make([]string, len(nodes))
	for i, n := range nodes {
		list[i] = fmt.Sprintf("%s (%s, %s)", n.Name, n.ID, n.State)
	}
	return strings.Join(list, ", ")
}

// maxCommandBytes is more than any command takes.
const maxCommandBytes = 64 << 10

// administered lets through what changes the cluster if it was not made by a page of another
// site in somebody's browser. A form cannot send JSON. A script of another site can, as
// Prometheus's API lets any origin read; browsers say so in a header.
func (a *API) administered(next http.HandlerFunc) http.HandlerFunc {
	protection := http.NewCrossOriginProtection()
	return func(w http.ResponseWriter, r *http.Request) {
		if err := protection.Check(r); err != nil {
			a.refuse(w, http.StatusForbidden, "forbidden", err)
			return
		}
		if media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || media != "application/json" {
			a.refuse(w, http.StatusUnsupportedMediaType, "bad_data", errors.New("the body of a command is JSON: send Content-Type: application/json"))
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxCommandBytes)
		next(w, r)
	}
}

// propose serves POST /api/v1/cluster/leave and the like.
func (a *API) propose(op string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		c, err := a.parseCommand(r, op)
		if err != nil {
			a.answerError(w, badData{err})
			return
		}
		a.logger.Info("An operator changes the cluster", "command", c.Kind, "nodes", c.Nodes, "lost", c.Lost, "accept_loss", c.AcceptLoss, "replication_factor", c.ReplicationFactor, "client", r.RemoteAddr)
		epoch, err := a.opts.Admin.Propose(r.Context(), c)
		if err != nil {
			a.answerCommandError(w, err)
			return
		}
		a.send(w, http.StatusOK, &v1.Response{Status: "success", Data: CommandResult{epoch}})
	}
}

// plan serves POST /api/v1/cluster/plan, which changes nothing.
func (a *API) plan(w http.ResponseWriter, r *http.Request) {
	c, err := a.parseCommand(r, "")
	if err != nil {
		a.answerError(w, badData{err})
		return
	}
	p, err := a.opts.Admin.Plan(r.Context(), c)
	if err != nil {
		a.answerCommandError(w, err)
		return
	}
	a.send(w, http.StatusOK, &v1.Response{Status: "success", Data: p})
}

// readCommand reads the body of a command, which may be empty.
func readCommand(r *http.Request, into any) error {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read the command: %w", err)
	}
	return nil
}

// parseCommand reads a command, which is named by the body unless by op.
func (a *API) parseCommand(r *http.Request, op string) (table.Command, error) {
	var req CommandRequest
	if err := readCommand(r, &req); err != nil {
		return table.Command{}, err
	}
	if op == "" {
		op = req.Op
	}
	build, known := commands[op]
	if !known {
		return table.Command{}, fmt.Errorf("op is %q, want one of %s", op, strings.Join(slices.Sorted(maps.Keys(commands)), ", "))
	}
	return build(&req, a.opts.Admin.Members())
}

func (a *API) answerCommandError(w http.ResponseWriter, err error) {
	if errors.Is(err, table.ErrCommand) {
		a.refuse(w, http.StatusConflict, "conflict", err)
		return
	}
	a.answerError(w, err)
}

func (a *API) refuse(w http.ResponseWriter, status int, errorType string, err error) {
	a.send(w, status, &v1.Response{Status: "error", ErrorType: errorType, Error: err.Error()})
}
