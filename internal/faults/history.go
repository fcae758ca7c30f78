//go:build linux

package faults

import (
	"context"
	"errors"
	"time"

	"github.com/starling-tsdb/starling/internal/faults/ledger"
)

const (
	// historian is the number of the sender of what is there before the load begins: gauges
	// of some MiB in chunks.
	historian = senderCount
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

// writeHistory writes so much that copying it takes a while.
func (l *load) writeHistory(ctx context.Context) error {
	start := l.began.Add(-historyAge)
	for i := 0; i < historySamples; i += historyBatch {
		var batch []ledger.Sample
		for j := range historyBatch {
			t := start.Add(time.Duration(i+j) * historyStep).UnixMilli()
			for _, s := range seriesOf(ledger.Gauge, historian) {
				batch = append(batch, ledger.Sample{Series: s, T: t})
			}
		}
		l.ledger.Send(batch)
		err := errUnavailable
		for errors.Is(err, errUnavailable) && ctx.Err() == nil {
			err = l.rig.client.write(ctx, l.nodes[0].base(), 1, batch)
		}
		if err != nil {
			return err
		}
		l.ledger.Acknowledge(batch)
	}
	return nil
}
