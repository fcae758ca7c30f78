package transport

import (
	"context"
	"math"
	"time"

	"github.com/starling-tsdb/starling/internal/table"
	"github.com/starling-tsdb/starling/internal/transport/peerpb"
)

// Report is what a node tells operators of itself. No decision of the protocol is made by it.
type Report struct {
	// Series are those in memory, Bytes what lies on disk.
	Series, Bytes uint64
	// Oldest is the time of the oldest sample, in milliseconds; math.MaxInt64 if there is none
	// and math.MinInt64 if that is not known now.
	Oldest int64
	// Extents are where in time the bytes are. They may overlap.
	Extents []Extent
	// PhaseBegan is the epoch with which the present phase of a transition began, 0 if there
	// is none, and PhaseSince when the node saw that; zero if it has not seen it.
	PhaseBegan uint64
	PhaseSince time.Time
	Copying    Copying
	// Windows are those that are to be compared with other owners soon, Damaged the ranges of
	// time of which something may be missing.
	Windows, Damaged int
}

// Extent says that samples of a time, in milliseconds, both ends inclusive, take so much on
// disk.
type Extent struct {
	Min, Max int64
	Bytes    uint64
}

// Copying is how far a node is that copies what it is to own.
type Copying struct {
	// Began is the epoch with which the phase began that the copying is for; 0 if the node
	// has never copied.
	Began uint64
	// Until is up to which time all is copied, exclusive, in milliseconds; math.MinInt64 at
	// the beginning and math.MaxInt64 at the end.
	Until int64
	// Ready tells whether the node holds all that it is to own.
	Ready bool
	// Samples counts those that were lacking and are stored.
	Samples int64
	// Bytes are those of the chunks that came from other nodes.
	Bytes   int64
	Started time.Time
	// Timed is how far the copying was when it was last begun, or gone on with after a pause
	// or a restart: speed is measured from there.
	Timed Mark
}

// Mark is a point that the copying was at.
type Mark struct {
	// Ago is for how long the copying has gone on since, 0 if it does not. It is no time of
	// the day, since clocks differ.
	Ago            time.Duration
	Until          int64
	Samples, Bytes int64
}

// Reporter describes this node.
type Reporter interface{ Report() Report }

// Report implements peerpb.PeerServer. It answers at any epoch: a node that is behind is one
// that operators want to see.
func (s *Server) Report(_ context.Context, req *peerpb.ReportRequest) (*peerpb.ReportResponse, error) {
	if err := s.checkAddressee(req.Header); err != nil {
		return nil, err
	}
	return reportToProto(s.opts.Reporter.Report()), nil
}

// Report asks the peer about itself.
func (p *Peer) Report(ctx context.Context, t *table.Table) (Report, error) {
	resp, err := p.client.Report(ctx, &peerpb.ReportRequest{Header: p.header(t)})
	if err != nil {
		return Report{}, p.fail(ctx, t, err)
	}
	return reportFromProto(resp), nil
}

func reportToProto(r Report) *peerpb.ReportResponse {
	c := r.Copying
	out := &peerpb.ReportResponse{
		Series: r.Series, Bytes: r.Bytes, OldestMs: r.Oldest, PhaseBegan: r.PhaseBegan, PhaseSinceMs: timeToProto(r.PhaseSince),
		Windows: int64(r.Windows), Damaged: int64(r.Damaged),
		Copying: &peerpb.Copying{
			Began: c.Began, UntilMs: c.Until, Ready: c.Ready, Samples: c.Samples, Bytes: c.Bytes, StartedMs: timeToProto(c.Started),
			TimedMs: c.Timed.Ago.Milliseconds(), TimedUntilMs: c.Timed.Until, TimedSamples: c.Timed.Samples, TimedBytes: c.Timed.Bytes,
		},
	}
	for _, e := range r.Extents {
		out.Extents = append(out.Extents, &peerpb.Extent{MinMs: e.Min, MaxMs: e.Max, Bytes: e.Bytes})
	}
	return out
}

func reportFromProto(r *peerpb.ReportResponse) Report {
	c := r.GetCopying()
	out := Report{
		Series: r.Series, Bytes: r.Bytes, Oldest: r.OldestMs, PhaseBegan: r.PhaseBegan, PhaseSince: timeFromProto(r.PhaseSinceMs),
		Windows: int(r.Windows), Damaged: int(r.Damaged),
		Copying: Copying{
			Began: c.GetBegan(), Until: c.GetUntilMs(), Ready: c.GetReady(), Samples: c.GetSamples(), Bytes: c.GetBytes(), Started: timeFromProto(c.GetStartedMs()),
			Timed: Mark{Ago: time.Duration(c.GetTimedMs()) * time.Millisecond, Until: c.GetTimedUntilMs(), Samples: c.GetTimedSamples(), Bytes: c.GetTimedBytes()},
		},
	}
	for _, e := range r.Extents {
		out.Extents = append(out.Extents, Extent{Min: e.GetMinMs(), Max: e.GetMaxMs(), Bytes: e.GetBytes()})
	}
	return out
}

// timeToProto renders a time in milliseconds, and the zero time, which no node has seen, as
// the smallest number.
func timeToProto(t time.Time) int64 {
	if t.IsZero() {
		return math.MinInt64
	}
	return t.UnixMilli()
}

func timeFromProto(ms int64) time.Time {
	if ms == math.MinInt64 {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}
