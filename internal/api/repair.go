package api

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"time"

	v1 "github.com/prometheus/prometheus/web/api/v1"
)

// Repairer has the nodes compare what they hold. It is called concurrently.
type Repairer interface {
	// Repair has all members compare samples of a range, both ends inclusive and in
	// milliseconds, with the other owners soon. It returns how many heard of it, and why the
	// others did not, by their IDs.
	Repair(ctx context.Context, mint, maxt int64) (nodes int, unreached map[string]string)
}

// RepairRequest says of which time samples are to be compared: all, without From and To.
type RepairRequest struct {
	From *time.Time `json:"from,omitempty"`
	To   *time.Time `json:"to,omitempty"`
}

// RepairResult says who compares.
type RepairResult struct {
	// Nodes is how many nodes compare what they hold, and Unreached why others do not, by ID.
	Nodes     int               `json:"nodes"`
	Unreached map[string]string `json:"unreached,omitempty"`
}

// repair serves POST /api/v1/cluster/repair.
func (a *API) repair(w http.ResponseWriter, r *http.Request) {
	var req RepairRequest
	if err := readCommand(r, &req); err != nil {
		a.answerError(w, badData{err})
		return
	}
	mint, maxt := int64(math.MinInt64), int64(math.MaxInt64)
	if req.From != nil {
		mint = req.From.UnixMilli()
	}
	if req.To != nil {
		maxt = req.To.UnixMilli()
	}
	if mint > maxt {
		a.answerError(w, badData{fmt.Errorf("from is %s and to is %s: the range ends before it begins", req.From, req.To)})
		return
	}
	a.logger.Info("An operator has the nodes compare what they hold", "from", req.From, "to", req.To, "client", r.RemoteAddr)
	nodes, unreached := a.opts.Repairer.Repair(r.Context(), mint, maxt)
	a.send(w, http.StatusOK, &v1.Response{Status: "success", Data: RepairResult{nodes, unreached}})
}
