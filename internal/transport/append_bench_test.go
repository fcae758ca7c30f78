package transport

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/starling-tsdb/starling/internal/proof"
	"github.com/starling-tsdb/starling/internal/series"
	"github.com/starling-tsdb/starling/internal/table"
)

// sink confirms everything and keeps nothing.
type sink struct{ *holder }

func (sink) Append(context.Context, uint64, *series.Batch) (proof.Confirmation, error) {
	return proof.Confirmation{}, nil
}

// BenchmarkAppend sends batches of known series over TCP, some at one time. Its figures are of
// both ends together.
func BenchmarkAppend(b *testing.B) {
	const n = 2000
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	h := &holder{table: epoch(1)}
	server := NewServer(ServerOptions{Self: "remote", Appender: sink{h}, Tables: h, Logger: slog.New(slog.DiscardHandler)})
	split := Split(l)
	go func() { _ = server.Serve(split.GRPC()) }()
	peers := NewPeers(PeersOptions{
		Address: func(table.NodeID) (string, bool) { return l.Addr().String(), true },
		Dial: func(ctx context.Context, a string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", a)
		},
		Tables: h, MaxInFlightBytes: 64 << 20,
	})
	defer func() {
		peers.Close()
		server.Stop(time.Second)
		split.Close()
	}()
	rng := rand.New(rand.NewPCG(1, 1))
	batch := &series.Batch{Series: make([]series.Series, n)}
	for i := range batch.Series {
		h := &series.Handle{Labels: labels.FromStrings("__name__", "m", "i", fmt.Sprint(i)), Index: uint32(3 * i), Serial: uint64(i)}
		batch.Series[i] = series.Series{Labels: h.Labels, Handle: h, Samples: []series.Sample{{T: 1_700_000_000_000, V: float64(rng.Int64N(1e6)) / 100}}}
	}
	peer, t := peers.Peer("remote"), epoch(1)
	if _, err := peer.Append(b.Context(), t, batch); err != nil {
		b.Fatal(err)
	}
	before := testutil.ToFloat64(peers.sent)
	b.ReportAllocs()
	b.SetParallelism(4)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := peer.Append(b.Context(), t, batch); err != nil {
				b.Error(err)
			}
		}
	})
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/sample")
	b.ReportMetric((testutil.ToFloat64(peers.sent)-before)/float64(b.N)/n, "B/sample")
}
