package api

import (
	"context"
	"errors"
	"net/http"

	v1 "github.com/prometheus/prometheus/web/api/v1"
)

// ErrRefused marks a refusal to recover, or to change the keys of gossip: status 409.
var ErrRefused = errors.New("refused")

// Recoverer leads the cluster out of the loss of a majority of those who agree on the table.
// Its methods are called concurrently. An error that wraps [ErrRefused] is a refusal; one that
// implements [Unavailable] becomes status 503.
type Recoverer interface {
	// PlanRecovery asks the other nodes, and says what a recovery from this one would do.
	PlanRecovery(ctx context.Context) (*RecoveryPlan, error)
	// Recover carries out what was shown, and returns the epoch that it led to.
	Recover(ctx context.Context, r RecoveryRequest) (epoch uint64, err error)
}

// RecoveryRequest says what an operator was shown: a recovery of anything else is refused.
type RecoveryRequest struct {
	// Epoch is that of the table that is to be continued.
	Epoch uint64 `json:"epoch"`
	// Survivors are the IDs of the nodes that go on, in the order of the plan.
	Survivors []string `json:"survivors"`
}

// RecoveryPlan is what a recovery would do.
type RecoveryPlan struct {
	// Epoch is that of the table that is continued, Next the first one of the new generation.
	Epoch uint64 `json:"epoch"`
	Next  uint64 `json:"next"`
	// Survivors answer, Gone are members that do not. Voters is how many nodes a majority
	// counts by, and LostVoters how many of these are gone.
	Survivors  []NamedNode `json:"survivors"`
	Gone       []NamedNode `json:"gone"`
	Voters     int         `json:"voters"`
	LostVoters int         `json:"lostVoters"`
	// WriteQuorum is how many owners confirm a write.
	WriteQuorum int `json:"writeQuorum"`
	// Losses has, for each number of owners from 0 on, the part of all series that have so
	// many of them among the gone and the removed: from 0 to 1, and estimates.
	Losses []float64 `json:"losses"`
}

// NamedNode is a node with the name that people call it by.
type NamedNode struct {
	ID   string `json:"id"`
	Name string `json:"name,omitempty"`
}

// planRecovery serves GET /api/v1/cluster/recover, which changes nothing.
func (a *API) planRecovery(w http.ResponseWriter, r *http.Request) {
	p, err := a.opts.Recoverer.PlanRecovery(r.Context())
	if err != nil {
		a.answerRecoveryError(w, err)
		return
	}
	a.send(w, http.StatusOK, &v1.Response{Status: "success", Data: p})
}

// recover serves POST /api/v1/cluster/recover.
func (a *API) recover(w http.ResponseWriter, r *http.Request) {
	var req RecoveryRequest
	if err := readCommand(r, &req); err != nil {
		a.answerError(w, badData{err})
		return
	}
	if req.Epoch == 0 || len(req.Survivors) == 0 {
		a.answerError(w, badData{errors.New("epoch or survivors are missing: they are those that GET on this path shows")})
		return
	}
	a.logger.Info("An operator has the cluster recovered", "epoch", req.Epoch, "survivors", req.Survivors, "client", r.RemoteAddr)
	epoch, err := a.opts.Recoverer.Recover(r.Context(), req)
	if err != nil {
		a.answerRecoveryError(w, err)
		return
	}
	a.send(w, http.StatusOK, &v1.Response{Status: "success", Data: CommandResult{epoch}})
}

func (a *API) answerRecoveryError(w http.ResponseWriter, err error) {
	if errors.Is(err, ErrRefused) {
		a.refuse(w, http.StatusConflict, "conflict", err)
		return
	}
	a.answerError(w, err)
}
