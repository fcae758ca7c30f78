package load

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/starling-tsdb/starling/internal/faults/ledger"
)

const (
	// historian is the number of the sender of what is there before the load begins: gauges
	// of some MiB in chunks.
	historian = senders
	// History is older than the oldest late sample: else whoever missed one would be handed
	// all of it, at the slow rate, again and again.
	historyAge  = lateWindow + 90*time.Minute
	historySpan = 80 * time.Minute
	// historySamples is how many each of its series has.
	historySamples = 12_000
	historyStep    = historySpan / historySamples
	// historyBatch is how many of each go into one request.
	historyBatch = 200
)

// WriteHistory writes so much that copying it takes a while.
func (l *Load) WriteHistory(ctx context.Context) error {
	start := l.began.Add(-historyAge)
	for i := 0; i < historySamples; i += historyBatch {
		var batch []ledger.Sample
		for j := range historyBatch {
			t := start.Add(time.Duration(i+j) * historyStep).UnixMilli()
			for _, s := range seriesOf(ledger.Gauge, historian) {
				batch = append(batch, ledger.Sample{Series: s, T: t})
			}
		}
		if err := l.insist(ctx, batch); err != nil {
			return err
		}
	}
	return nil
}

// WriteAhead writes a sample of many series that is so much newer than all others: by then
// nodes keep those in blocks. They have to take samples of that time.
func (l *Load) WriteAhead(ctx context.Context, by time.Duration) error {
	var batch []ledger.Sample
	for _, s := range seriesOf(ledger.Gauge, historian) {
		batch = append(batch, ledger.Sample{Series: s, T: time.Now().Add(by).UnixMilli()})
	}
	return l.insist(ctx, batch)
}

// insist writes to one member until it takes a batch.
func (l *Load) insist(ctx context.Context, batch []ledger.Sample) error {
	l.Ledger.Send(batch)
	member := slices.IndexFunc(l.nodes, Node.Member)
	err := errUnavailable
	for errors.Is(err, errUnavailable) && ctx.Err() == nil {
		err = l.client.write(ctx, l.nodes[member].Base(), 1, batch)
	}
	if err == nil {
		l.Ledger.Acknowledge(batch)
	}
	return err
}
