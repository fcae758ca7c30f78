package load

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/starling-tsdb/starling/internal/faults/ledger"
)

const (
	readEvery   = 150 * time.Millisecond
	readTimeout = 10 * time.Second
	// recentSpan is what readers mostly ask for.
	recentSpan = 15 * time.Second
)

// read asks one node questions until ctx ends, and has each answer checked.
func (l *Load) read(ctx context.Context, node int) {
	rnd := rand.New(rand.NewPCG(uint64(node), uint64(l.began.UnixNano())))
	ticks := time.NewTicker(readEvery)
	defer ticks.Stop()
	for {
		select {
		case <-ticks.C:
		case <-ctx.Done():
			return
		}
		if !l.nodes[node].Member() {
			l.reads.forget(node)
			continue
		}
		shape := []ledger.Shape{ledger.Gauge, ledger.Counter, ledger.Late, ledger.Native, ledger.Probe}[rnd.IntN(5)]
		group := rnd.IntN(senders)
		if shape == ledger.Probe {
			group = rnd.IntN(len(l.nodes))
		}
		span := recentSpan
		if rnd.IntN(5) == 0 || shape == ledger.Late {
			span = l.span()
		}
		ctx, cancel := context.WithTimeout(ctx, readTimeout)
		err := l.ask(ctx, node, shape, group, span)
		cancel()
		if err == nil {
			l.reads.success(node, time.Now())
		}
	}
}

// span covers everything that was sent so far.
func (l *Load) span() time.Duration { return time.Since(l.began) + historyAge + time.Minute }

// ask asks a node for all series of a shape and a sender, up to now, and checks the answer.
// What is no honest refusal is noted; every error is returned.
func (l *Load) ask(ctx context.Context, node int, shape ledger.Shape, sender int, span time.Duration) error {
	mark, now := l.Ledger.Mark(), time.Now()
	end := now.UnixMilli()
	selector := fmt.Sprintf(`%s{sender="%d"}`, shape, sender)
	answer, err := l.client.query(ctx, l.nodes[node].Base(), selector, span, now)
	if err != nil {
		l.note(err)
		return err
	}
	l.Ledger.Check(fmt.Sprintf("node %d", node+1), mark, ledger.Question{
		Series: seriesOf(shape, sender), Mint: end - span.Milliseconds() + 1, Maxt: end,
	}, answer)
	return nil
}

// seriesOf returns the series of a shape that one sender has.
func seriesOf(shape ledger.Shape, sender int) []ledger.Series {
	count := map[ledger.Shape]int{
		ledger.Gauge: gauges, ledger.Counter: counters, ledger.Late: lates, ledger.Native: natives, ledger.Probe: 1,
	}[shape]
	var all []ledger.Series
	for i := range count {
		all = append(all, ledger.Series{Shape: shape, Sender: sender, Number: i})
	}
	return all
}

// ReadAll reads everything back from every member. No answer is an error here: the faults
// are over.
func (l *Load) ReadAll(ctx context.Context) error {
	for i, n := range l.nodes {
		if !n.Member() {
			continue
		}
		if err := l.patiently(ctx, i, ledger.Gauge, historian); err != nil {
			return err
		}
		for _, shape := range []ledger.Shape{ledger.Gauge, ledger.Counter, ledger.Late, ledger.Native} {
			for s := range senders {
				if err := l.patiently(ctx, i, shape, s); err != nil {
					return err
				}
			}
		}
		for s := range l.nodes {
			if err := l.patiently(ctx, i, ledger.Probe, s); err != nil {
				return err
			}
		}
	}
	return nil
}

// patiently asks again while a node refuses honestly, which a busy one may.
func (l *Load) patiently(ctx context.Context, node int, shape ledger.Shape, sender int) error {
	var err error
	for range 5 {
		one, cancel := context.WithTimeout(ctx, 3*readTimeout)
		err = l.ask(one, node, shape, sender, l.span())
		cancel()
		if !errors.Is(err, errUnavailable) || ctx.Err() != nil {
			break
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err != nil {
		return fmt.Errorf("reading %s of sender %d back from node %d: %w", shape, sender, node+1, err)
	}
	return nil
}
