package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/starling-tsdb/starling/internal/table"
)

// Requests between nodes are JSON: they are few and small, and a person can read them.
// Every one names the cluster, the sender and the addressee.
type request struct {
	Cluster string       `json:"cluster,omitempty"` // empty from a fresh node
	From    table.NodeID `json:"from"`
	To      table.NodeID `json:"to"`
	// Recovery is the ID of the sender's generation, nil if it has no table yet. What changes
	// the table has to come from the same generation.
	Recovery *string         `json:"recovery,omitempty"`
	Op       operation       `json:"op"`
	Body     json.RawMessage `json:"body,omitempty"`
}

type operation string

const (
	opVouch   operation = "vouch"   // vouch -> verdict
	opPropose operation = "propose" // table.Command -> the table that includes it
	opStatus  operation = "status"  // nothing -> status
	opTable   operation = "table"   // nothing -> the table that the node has adopted
	opSurvey  operation = "survey"  // nothing -> survey
	opPledge  operation = "pledge"  // pledgeRequest -> nothing
	opRelease operation = "release" // the ID of a recovery that is given up -> nothing
)

type response struct {
	Code  code            `json:"code,omitempty"`
	Error string          `json:"error,omitempty"`
	Body  json.RawMessage `json:"body,omitempty"`
	// Leader and LeaderAddress say where to ask, with codeNotLeader.
	Leader        table.NodeID `json:"leader,omitempty"`
	LeaderAddress string       `json:"leaderAddress,omitempty"`
}

// code says what kind of error a response is; it is empty if it is none.
type code string

const (
	codeNotLeader   code = "not-leader"
	codeForeign     code = "foreign"     // the other cluster, or no member
	codeWrongNode   code = "wrong-node"  // the address has passed to another node
	codeNotFounded  code = "not-founded" // there is no table yet
	codeRejected    code = "rejected"    // the table refuses the command, for good
	codeUnsupported code = "unsupported"
	codeGeneration  code = "generation" // the sender is in another generation
)

// remoteError is an answer that is an error.
type remoteError struct{ response }

// Error implements error.
func (e *remoteError) Error() string { return e.response.Error }

// Is lets errors.Is see through the network.
func (e *remoteError) Is(target error) bool {
	switch target {
	case errNotLeader:
		return e.Code == codeNotLeader
	case table.ErrNotFounded:
		return e.Code == codeNotFounded
	case table.ErrCommand:
		return e.Code == codeRejected
	case ErrForeign:
		return e.Code == codeForeign
	case errGeneration:
		return e.Code == codeGeneration
	}
	return false
}

type status struct {
	// RaftIndex is the last entry of the log of the generation that came from Recovery.
	RaftIndex uint64 `json:"raftIndex"`
	Recovery  string `json:"recovery,omitempty"`
	Epoch     uint64 `json:"epoch"`
	Ready     uint64 `json:"ready,omitempty"`
}

// call asks one node. in and out are what the operation says.
func (c *Cluster) call(ctx context.Context, to table.NodeID, address string, op operation, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := json.Marshal(request{Cluster: c.clusterID(), From: c.id.Node, To: to, Recovery: c.recoveryID(), Op: op, Body: body})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timing.Call)
	defer cancel()
	b, err := c.cfg.Caller.Call(ctx, address, req)
	if err != nil {
		return fmt.Errorf("%s at node %s (%s): %w", op, to, address, err)
	}
	var resp response
	if err := json.Unmarshal(b, &resp); err != nil {
		return fmt.Errorf("%s at node %s (%s): read the answer: %w", op, to, address, err)
	}
	if resp.Code != "" {
		return fmt.Errorf("%s at node %s (%s): %w", op, to, address, &remoteError{resp})
	}
	if err := json.Unmarshal(resp.Body, out); err != nil {
		return fmt.Errorf("%s at node %s (%s): read the answer: %w", op, to, address, err)
	}
	return nil
}

// Handle answers a request that a peer's Caller sent. It may be called concurrently. The
// error is for requests that are none; all others get an answer that says what is wrong.
func (c *Cluster) Handle(ctx context.Context, b []byte) ([]byte, error) {
	var req request
	if err := json.Unmarshal(b, &req); err != nil {
		return nil, fmt.Errorf("read the cluster request: %w", err)
	}
	body, err := c.answer(ctx, req)
	if err != nil {
		return json.Marshal(c.errorResponse(err))
	}
	raw, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("answer %s: %w", req.Op, err)
	}
	return json.Marshal(response{Body: raw})
}

func (c *Cluster) errorResponse(err error) response {
	r := response{Code: codeRejected, Error: err.Error()}
	switch {
	case errors.Is(err, errNotLeader):
		r.Code = codeNotLeader
		if r.Leader = c.consensus().leader(); r.Leader != "" {
			r.LeaderAddress, _ = c.Address(r.Leader)
		}
	case errors.Is(err, ErrForeign):
		r.Code = codeForeign
	case errors.Is(err, table.ErrNotFounded):
		r.Code = codeNotFounded
	case errors.Is(err, errWrongNode):
		r.Code = codeWrongNode
	case errors.Is(err, errUnsupported):
		r.Code = codeUnsupported
	case errors.Is(err, errGeneration):
		r.Code = codeGeneration
	}
	return r
}

var (
	errWrongNode   = errors.New("the request is for another node")
	errUnsupported = errors.New("unknown operation")
	errGeneration  = errors.New("the sender is in another generation of the table")
)

func (c *Cluster) answer(ctx context.Context, req request) (any, error) {
	if req.To != c.id.Node {
		return nil, fmt.Errorf("%w: this is %s, it is for %s", errWrongNode, c.id.Node, req.To)
	}
	own := c.clusterID()
	fresh := own == "" || req.Cluster == ""
	if (!fresh && req.Cluster != own) || (fresh && req.Op != opVouch) {
		c.count.refuse("request")
		err := fmt.Errorf("%w: node %s belongs to %s, node %s to %s", ErrForeign, req.From, nameCluster(req.Cluster), c.id.Node, nameCluster(own))
		if c.quiet.allow("request " + string(req.From)) {
			c.log.Warn("refused a request from another cluster ID", "op", req.Op, "err", err)
		}
		return nil, err
	}
	switch req.Op {
	case opVouch:
		var v vouch
		if err := json.Unmarshal(req.Body, &v); err != nil {
			return nil, err
		}
		return c.receiveVouch(req.From, v)
	case opPropose:
		if own := c.recoveryID(); own != nil && req.Recovery != nil && *own != *req.Recovery {
			return nil, fmt.Errorf("%w: %s has gone through %s, %s through %s", errGeneration, req.From, nameRecovery(*req.Recovery), c.id.Node, nameRecovery(*own))
		}
		cmd, err := decodeCommand(req.Body)
		if err != nil {
			return nil, err
		}
		t, err := c.consensus().apply(ctx, cmd)
		if err != nil {
			return nil, err
		}
		c.wakeTender()
		return t, nil
	case opTable:
		if t := c.Table(); t != nil {
			return t, nil
		}
		return nil, table.ErrNotFounded
	case opSurvey:
		return c.survey(), nil
	case opPledge:
		var p pledgeRequest
		if err := json.Unmarshal(req.Body, &p); err != nil {
			return nil, err
		}
		return struct{}{}, c.pledge(p)
	case opRelease:
		var id string
		if err := json.Unmarshal(req.Body, &id); err != nil {
			return nil, err
		}
		return struct{}{}, c.unpledge(id)
	case opStatus:
		s := status{}
		part := c.consensus()
		if r := part.running(); r != nil {
			s.RaftIndex, s.Recovery = r.LastIndex(), part.group.recovery
		}
		if t := c.Table(); t != nil {
			s.Epoch, s.Ready = t.Epoch, c.cfg.Ready()
		}
		return s, nil
	}
	return nil, fmt.Errorf("%w %q: it is of another version", errUnsupported, req.Op)
}

// recoveryID is that of the node's table, nil if there is none.
func (c *Cluster) recoveryID() *string {
	t := c.Table()
	if t == nil {
		return nil
	}
	id := t.Recovery().ID
	return &id
}

func nameCluster(id string) string {
	if id == "" {
		return "no cluster"
	}
	return "cluster " + id
}

// strictJSON reads all of b into v, which has to have a place for every field.
func strictJSON(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("more follows after the value")
	}
	return nil
}
