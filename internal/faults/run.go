//go:build linux

package faults

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/starling-tsdb/starling/internal/faults/ledger"
	"github.com/starling-tsdb/starling/internal/faults/load"
)

const (
	// warmUp and coolDown are how long the load runs before the fault and after the
	// cluster has healed.
	warmUp, coolDown = 4 * time.Second, 3 * time.Second
	// convergeTimeout bounds how long a healed cluster may take to agree again.
	convergeTimeout = 2 * time.Minute
	// replicas are the copies by default.
	replicas = 3
)

// Row is one fault.
type Row struct {
	Name string
	// Short rows are part of the short selection.
	Short bool
	// Nodes is the size of the cluster, 3 if 0.
	Nodes int
	// Spares is how many nodes may join later.
	Spares int
	// zones is in how many zones the nodes take turns, 0 for none.
	zones int
	// copies are those of each series, 3 if 0.
	copies int
	// slowCopying bounds the rate at which nodes copy, and gives them something to copy.
	slowCopying bool
	// Injected rows need the build with the settable clock and the failing syncs.
	Injected bool
	// RefusalsAllowed tells that the fault makes valid samples look invalid to a quorum.
	RefusalsAllowed bool
	// secured rows have everything encrypted, whatever the Config says.
	secured bool
	// prepare, if set, is called before the nodes start.
	prepare func(ctx context.Context, r *rig) error
	// harm does the harm, waits and heals it.
	harm func(ctx context.Context, r *rig) error
}

// Result is what came of a row.
type Result struct {
	Row    string
	Counts ledger.Counts
	// Lost, Duplicated and Invented count samples; Thin ones are kept on fewer nodes
	// than the table asks for.
	Lost, Duplicated, Invented, Thin int
	// WritesDown and ReadsDown are the longest times in which no node took a write or
	// answered a query; the Worst ones are those of the node that was worst off.
	WritesDown, ReadsDown, WorstWrites, WorstReads time.Duration
	// Converged is the time from the heal to a cluster that agrees again.
	Converged time.Duration
	Took      time.Duration
	// Failures say what is wrong, with examples. None: the row passed.
	Failures []string
}

// Config says what to run rows with.
type Config struct {
	// Dir is for data, mounts and logs of the rows.
	Dir string
	// Logs is where the nodes' logs of failed rows are kept; empty for nowhere.
	Logs string
	// Secured has everything encrypted in all rows: between nodes, gossip, and the front door,
	// which asks for a certificate and a password.
	Secured bool
	// Program returns the path of a build.
	Program func(ctx context.Context, injected bool) (string, error)
}

// Run runs one row. The error says that it could not be run; what the cluster did wrong is
// in the result.
func Run(ctx context.Context, c Config, row Row) (res Result, err error) {
	if row.Nodes == 0 {
		row.Nodes = 3
	}
	if row.copies == 0 {
		row.copies = replicas
	}
	program, err := c.Program(ctx, row.Injected)
	if err != nil {
		return Result{}, err
	}
	began := time.Now()
	dir, err := os.MkdirTemp(c.Dir, "row-")
	if err != nil {
		return Result{}, err
	}
	r, err := newRig(ctx, dir, program, row.Nodes, row.Spares)
	defer func() {
		err = errors.Join(err, r.close(), c.keepLogs(dir, row.Name, err != nil || len(res.Failures) > 0), removeWork(dir))
	}()
	if err != nil {
		return Result{}, err
	}
	r.flags = append(r.flags, fmt.Sprintf("--cluster.replication-factor=%d", row.copies))
	if row.slowCopying {
		r.flags = append(r.flags, slowRate)
	}
	for i, n := range r.places {
		if row.zones > 0 {
			n.zone = fmt.Sprintf("zone-%d", i%row.zones)
		}
	}
	if c.Secured || row.secured {
		if err := r.secure(); err != nil {
			return Result{}, err
		}
	}
	if row.prepare != nil {
		if err := row.prepare(ctx, r); err != nil {
			return Result{}, err
		}
	}
	if err := r.start(ctx); err != nil {
		return Result{}, fmt.Errorf("founding a cluster: %w", err)
	}
	if r.secrets != nil {
		if err := r.overhear(); err != nil {
			return Result{}, err
		}
	}
	res, err = perform(ctx, r, row)
	res.Row, res.Took = row.Name, time.Since(began)
	return res, err
}

// keepLogs moves the nodes' logs to where they outlive the row.
func (c Config) keepLogs(dir, row string, failed bool) error {
	if !failed || c.Logs == "" {
		return nil
	}
	to := filepath.Join(c.Logs, strings.ReplaceAll(row, " ", "-"))
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	logs, err := filepath.Glob(filepath.Join(dir, "*.log"))
	for _, log := range logs {
		content, readErr := os.ReadFile(log)
		err = errors.Join(err, readErr, os.WriteFile(filepath.Join(to, filepath.Base(log)), content, 0o644))
	}
	return err
}

// perform runs the load, the fault and the checks.
func perform(ctx context.Context, r *rig, row Row) (Result, error) {
	l := r.load()
	if row.slowCopying {
		if err := l.WriteHistory(ctx); err != nil {
			return Result{}, err
		}
	}
	u := l.Use(ctx)
	defer u.Abandon()
	if err := sleep(ctx, warmUp); err != nil {
		return Result{}, err
	}
	var res Result
	var failures []string
	fail := func(err error) {
		if err != nil {
			failures = append(failures, err.Error())
		}
	}
	err := row.harm(ctx, r)
	if _, ok := errors.AsType[*load.Violation](err); err != nil && !ok {
		return Result{}, fmt.Errorf("the fault: %w", err)
	}
	fail(err)
	res.Converged, err = r.converge(ctx, convergeTimeout)
	fail(err)
	if err := sleep(ctx, coolDown); err != nil {
		return Result{}, err
	}
	fail(u.Finish())
	writes, reads := l.Down()
	res.WritesDown, res.WorstWrites = writes.Anywhere, writes.Worst
	res.ReadsDown, res.WorstReads = reads.Anywhere, reads.Worst
	if len(failures) == 0 {
		_, err := r.converge(ctx, convergeTimeout)
		fail(err)
	}
	fail(l.ReadAll(ctx))
	if ctx.Err() != nil {
		return Result{}, ctx.Err()
	}
	found, err := r.killAndRead()
	if err != nil {
		return Result{}, err
	}
	owners, err := r.owners()
	if err != nil {
		return Result{}, err
	}
	l.Ledger.CheckCopies(found, owners, row.copies/2+1, row.copies)
	failures = append(failures, slices.Concat(r.crashes(), r.overheard())...)
	res.sum(l, row.RefusalsAllowed)
	res.Failures = append(failures, res.Failures...)
	return res, nil
}

// load is one for all places.
func (r *rig) load() *load.Load {
	var nodes []load.Node
	for _, n := range r.places {
		nodes = append(nodes, n)
	}
	return load.New(r.client, nodes, r.founders)
}

// sum fills in what the ledger found, and the failures.
func (res *Result) sum(l *load.Load, refusalsAllowed bool) {
	res.Counts = l.Ledger.Counts()
	res.Lost, res.Duplicated = l.Ledger.Found(ledger.Lost), l.Ledger.Found(ledger.Duplicated)
	res.Invented, res.Thin = l.Ledger.Found(ledger.Invented), l.Ledger.Found(ledger.Thin)
	res.Failures = append(res.Failures, l.Failures(refusalsAllowed)...)
}

// crashes returns the lines of the nodes' logs that tell of a crash of the program.
func (r *rig) crashes() []string {
	var found []string
	for _, n := range r.places {
		f, err := os.Open(n.log)
		if errors.Is(err, os.ErrNotExist) {
			continue // it was never started
		}
		if err != nil {
			found = append(found, err.Error())
			continue
		}
		lines := bufio.NewScanner(f)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			if strings.HasPrefix(lines.Text(), "panic: ") || strings.HasPrefix(lines.Text(), "fatal error: ") {
				found = append(found, fmt.Sprintf("node %d: %s", n.number, lines.Text()))
			}
		}
		if err := errors.Join(lines.Err(), f.Close()); err != nil {
			found = append(found, err.Error())
		}
	}
	return found
}
