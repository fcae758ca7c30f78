package ingest

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/starling-tsdb/starling/internal/series"
	"github.com/starling-tsdb/starling/internal/table"
)

// latecomers are the owners that had not answered a write when it was noted what they miss.
// Most of them confirm it all the same, a little later: then the notes are withdrawn.
type latecomers struct {
	// nodes are those that have not answered yet.
	nodes   map[table.NodeID]bool
	answers <-chan answer
	// notes are what holders answer that were asked for a note, of which so many are to come.
	notes   chan noted
	pending int
	// withdrawable are the notes that were taken and can be withdrawn.
	withdrawable []noted
}

// noted is what a holder answered that was asked for a note.
type noted struct {
	request
	// ticket withdraws the note; 0 if it cannot be withdrawn.
	ticket uint64
	err    error
}

// noted remembers an answer.
func (l *latecomers) noted(n noted) {
	l.pending--
	if n.ticket != 0 {
		l.withdrawable = append(l.withdrawable, n)
	}
}

// ask sends requests for notes, each with the time since when something is missed.
func (c *Coordinator) ask(ctx context.Context, tb *table.Table, requests map[request]int64, col collected) *latecomers {
	l := &latecomers{nodes: map[table.NodeID]bool{}, answers: col.late, notes: make(chan noted, len(requests)), pending: len(requests)}
	for p, err := range col.missing {
		if errors.Is(err, errNoAnswer) {
			l.nodes[p.node] = true
		}
	}
	for r, since := range requests {
		late := l.nodes[r.node]
		go func() {
			n := noted{request: r}
			ctx, span := askHolder(ctx, "note gap", r)
			n.err = c.guard(r.by.part.node, func() (err error) {
				holder := c.opts.Replica(r.by.part.node)
				if !late {
					return holder.Note(ctx, tb, r.node, since)
				}
				n.ticket, err = holder.NoteLate(ctx, tb, r.node, since)
				return err
			})
			span.End(n.err)
			l.notes <- n
		}()
	}
	return l
}

// withdraw waits for the latecomers, as long as appends may take, and withdraws the notes for
// those that have taken all of their part.
func (c *Coordinator) withdraw(ctx context.Context, tb *table.Table, l *latecomers) {
	var withdrawing sync.WaitGroup
	defer withdrawing.Wait()
	whole := map[table.NodeID]bool{}
	for len(l.nodes) > 0 || l.pending > 0 {
		select {
		case a := <-l.answers:
			delete(l.nodes, a.part.node)
			whole[a.part.node] = a.err == nil && !slices.ContainsFunc(a.confirmation.Refusals, func(r series.Refusal) bool { return !r.Exemplar })
		case n := <-l.notes:
			l.noted(n)
		case <-ctx.Done():
			return
		}
		l.withdrawable = slices.DeleteFunc(l.withdrawable, func(n noted) bool {
			if whole[n.node] {
				withdrawing.Go(func() { c.takeBack(ctx, tb, n) })
			}
			return whole[n.node]
		})
	}
}

// takeBack withdraws one note. If that fails, the holder has the gap handed off.
func (c *Coordinator) takeBack(ctx context.Context, tb *table.Table, n noted) {
	result := "withdrawn"
	ctx, span := askHolder(ctx, "withdraw gap", n.request)
	err := c.guard(n.by.part.node, func() error {
		return c.opts.Replica(n.by.part.node).Withdraw(ctx, tb, n.node, n.ticket)
	})
	span.End(err)
	if err != nil {
		result = "not withdrawn"
		c.opts.Logger.Debug("A note for an owner that was only late was not withdrawn", "by", n.by.part.node, "late", n.node, "err", err)
	}
	c.notes.WithLabelValues(result).Inc()
}
