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
	// Open are the gaps that the node notes.
	Open []OpenGap
	Load Load
	// Unready is why the node is no good place to send requests to, empty if it is one.
	Unready string
}

// OpenGap says that a peer may lack samples.
type OpenGap struct {
	Peer table.NodeID
	// Since is the time of the oldest sample that may be missing, in milliseconds, and Opened
	// when the gap was noted.
	Since  int64
	Opened time.Time
	// HandingOff tells whether the peer is taking what it lacks: about so many Samples and Bytes.
	HandingOff     bool
	Samples, Bytes int64
}

// Load is how busy a node is, and what room it has. What is unlimited or unknown is 0.
type Load struct {
	// SamplesPerSecond are those that the node stores.
	SamplesPerSecond float64
	// CPU is how many of its CPUs the node keeps busy.
	CPU  float64
	CPUs int
	// Memory is what the program holds, in bytes, and MemoryLimit what it may hold.
	Memory, MemoryLimit uint64
	// DiskFree and DiskSize are those of the file system of the data, in bytes.
	DiskFree, DiskSize uint64
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
		Windows: int64(r.Windows), Damaged: int64(r.Damaged), Unready: r.Unready,
		Copying: &peerpb.Copying{
			Began: c.Began, UntilMs: c.Until, Ready: c.Ready, Samples: c.Samples, Bytes: c.Bytes, StartedMs: timeToProto(c.Started),
			TimedMs: c.Timed.Ago.Milliseconds(), TimedUntilMs: c.Timed.Until, TimedSamples: c.Timed.Samples, TimedBytes: c.Timed.Bytes,
		},
	}
	if r.Load != (Load{}) {
		l := r.Load
		out.Load = &peerpb.Load{
			SamplesPerSecond: l.SamplesPerSecond, Cpu: l.CPU, Cpus: uint32(l.CPUs), MemoryBytes: l.Memory, MemoryLimitBytes: l.MemoryLimit,
			DiskFreeBytes: l.DiskFree, DiskSizeBytes: l.DiskSize,
		}
	}
	for _, g := range r.Open {
		out.Open = append(out.Open, &peerpb.OpenGap{
			Peer: string(g.Peer), SinceMs: g.Since, OpenedMs: timeToProto(g.Opened), HandingOff: g.HandingOff, Samples: g.Samples, Bytes: g.Bytes,
		})
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
		Windows: int(r.Windows), Damaged: int(r.Damaged), Unready: r.Unready, Load: loadFromProto(r.GetLoad()),
		Copying: Copying{
			Began: c.GetBegan(), Until: c.GetUntilMs(), Ready: c.GetReady(), Samples: c.GetSamples(), Bytes: c.GetBytes(), Started: timeFromProto(c.GetStartedMs()),
			Timed: Mark{Ago: time.Duration(c.GetTimedMs()) * time.Millisecond, Until: c.GetTimedUntilMs(), Samples: c.GetTimedSamples(), Bytes: c.GetTimedBytes()},
		},
	}
	for _, g := range r.Open {
		out.Open = append(out.Open, OpenGap{
			Peer: table.NodeID(g.GetPeer()), Since: g.GetSinceMs(), Opened: timeFromProto(g.GetOpenedMs()), HandingOff: g.GetHandingOff(),
			Samples: g.GetSamples(), Bytes: g.GetBytes(),
		})
	}
	for _, e := range r.Extents {
		out.Extents = append(out.Extents, Extent{Min: e.GetMinMs(), Max: e.GetMaxMs(), Bytes: e.GetBytes()})
	}
	return out
}

// loadFromProto is empty for a node of an earlier version, which tells no load.
func loadFromProto(l *peerpb.Load) Load {
	return Load{
		SamplesPerSecond: l.GetSamplesPerSecond(), CPU: l.GetCpu(), CPUs: int(l.GetCpus()), Memory: l.GetMemoryBytes(), MemoryLimit: l.GetMemoryLimitBytes(),
		DiskFree: l.GetDiskFreeBytes(), DiskSize: l.GetDiskSizeBytes(),
	}
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
