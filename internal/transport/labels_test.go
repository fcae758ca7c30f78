package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"google.golang.org/grpc"

	"github.com/starling-tsdb/starling/internal/series"
	"github.com/starling-tsdb/starling/internal/simnet"
	"github.com/starling-tsdb/starling/internal/table"
	"github.com/starling-tsdb/starling/internal/transport/peerpb"
)

// anything takes whatever comes.
func anything(int64) error { return nil }

func names(t *testing.T, p *Peer, at *table.Table) ([]string, error) {
	t.Helper()
	return p.Labels(t.Context(), at, series.LabelQuery{Maxt: 100}, anything)
}

func TestLabels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.fill(t, 30)
		peer := r.peers.Peer("remote")
		if got, err := names(t, peer, epoch(1)); err != nil || !slices.Equal(got, []string{"__name__", "i", "j"}) {
			t.Errorf("names: %q, %v", got, err)
		}
		q := series.LabelQuery{Name: "i", Mint: -3, Maxt: 100, Limit: 7, Session: 1 << 63, Matchers: []*labels.Matcher{labels.MustNewMatcher(labels.MatchEqual, "j", "b")}}
		if got, err := peer.Labels(t.Context(), epoch(1), q, anything); err != nil || !slices.Equal(got, []string{"a", "b", "c", "d"}) {
			t.Errorf("values: %q, %v", got, err)
		}
		if got := r.reader.labelQuery; got.Name != "i" || got.Mint != -3 || got.Maxt != 100 || got.Limit != 7 || got.Session != 1<<63 || got.Matchers[0].String() != `j="b"` {
			t.Errorf("asked for %+v", got)
		}
	})
}

// many yields a million values.
func many(ctx context.Context, yield func(string) error) error {
	buffer := make([]byte, 0, 16)
	for i := range 1_000_000 {
		// The memory of a string is another's as soon as it was taken.
		buffer = fmt.Appendf(buffer[:0], "%016d", i)
		if err := errors.Join(ctx.Err(), yield(string(buffer))); err != nil {
			return err
		}
	}
	return nil
}

// A million values travel in small messages, and no further than they are wanted.
func TestManyLabelsTravelInParts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.reader.labels = many
		q := series.LabelQuery{Name: "i", Maxt: 100}
		var total, most int64
		take := func(n int64) error {
			total, most = total+n, max(most, n)
			return nil
		}
		got, err := r.peers.Peer("remote").Labels(t.Context(), epoch(1), q, take)
		if err != nil || len(got) != 1_000_000 || got[0] != "0000000000000000" || got[999_999] != "0000000000999999" {
			t.Fatalf("%d values, %v", len(got), err)
		}
		if total != 32_000_000 || most > 3*frameBytes {
			t.Errorf("%d bytes were counted, at most %d at once", total, most)
		}
		full := errors.New("full")
		total, most = 0, 0
		if _, err := r.peers.Peer("remote").Labels(t.Context(), epoch(1), q, func(n int64) error {
			if total > 1<<20 {
				t.Error("it goes on")
			}
			if _ = take(n); total > 1<<20 {
				return full
			}
			return nil
		}); !errors.Is(err, full) {
			t.Error(err)
		}
	})
}

// Who lists labels for a peer hears that it waits no more.
func TestLabelsEndWithTheirContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		ended := make(chan time.Time, 1)
		r.reader.labels = func(ctx context.Context, _ func(string) error) error {
			<-ctx.Done()
			ended <- time.Now()
			return ctx.Err()
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		_, err := r.peers.Peer("remote").Labels(ctx, epoch(1), series.LabelQuery{Name: "i"}, anything)
		if took := time.Since(start); !errors.Is(err, context.DeadlineExceeded) || took > time.Second+100*time.Millisecond {
			t.Errorf("the peer that asks hears %v after %v", err, took)
		}
		if took := (<-ended).Sub(start); took > time.Second+100*time.Millisecond {
			t.Errorf("the peer that is asked goes on until %v", took)
		}
	})
}

// That an answer is too large is no failure of the peer. Its epoch is looked at in the end, too.
func TestLabelsThatAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		peer := r.peers.Peer("remote")
		r.reader.labels = func(context.Context, func(string) error) error { return &series.TooManyLabelsError{Limit: 77} }
		_, err := names(t, peer, epoch(1))
		var tooMany *series.TooManyLabelsError
		if !errors.As(err, &tooMany) || !strings.Contains(err.Error(), "77 bytes") {
			t.Errorf("too many: %v", err)
		}
		r.reader.labels = func(_ context.Context, yield func(string) error) error {
			r.remote.mu.Lock()
			defer r.remote.mu.Unlock()
			r.remote.table = epoch(2)
			return yield("x")
		}
		var mismatch *table.MismatchError
		if got, err := names(t, peer, epoch(1)); !errors.As(err, &mismatch) || got != nil {
			t.Errorf("at another epoch: %q, %v", got, err)
		}
		r.local.table = epoch(2)
		r.reader.labels = func(_ context.Context, yield func(string) error) error {
			return errors.Join(yield("x"), yield("x"))
		}
		if got, err := names(t, peer, epoch(2)); err == nil {
			t.Errorf("the same twice: %q", got)
		}
	})
}

// Nodes of the version before ask for one message, and answer by one.
func TestLabelsOfEarlierVersions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.reader.labels = many
		peer := r.peers.Peer("remote")
		resp := &peerpb.LabelsResponse{}
		req := &peerpb.LabelsRequest{Header: peer.header(epoch(1)), MaxTimeMs: 100, Name: []byte("i")}
		if err := peer.conn.Invoke(t.Context(), peerpb.Peer_LabelValues_FullMethodName, req, resp); err != nil || len(resp.Values) != 1_000_000 {
			t.Errorf("%d values, %v", len(resp.Values), err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		n := simnet.New()
		l, err := n.Host("10.0.0.2").Listen(9081)
		if err != nil {
			t.Fatal(err)
		}
		server := grpc.NewServer()
		server.RegisterService(&grpc.ServiceDesc{ServiceName: peerpb.Peer_ServiceDesc.ServiceName, HandlerType: (*any)(nil), Methods: []grpc.MethodDesc{{
			MethodName: "LabelNames",
			Handler: func(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
				return &peerpb.LabelsResponse{Values: []string{"a", "b"}}, decode(&peerpb.LabelsRequest{})
			},
		}}}, nil)
		served := make(chan error, 1)
		go func() { served <- server.Serve(l) }()
		h := &holder{table: epoch(1)}
		peers := NewPeers(PeersOptions{
			Address: func(table.NodeID) (string, bool) { return "10.0.0.2:9081", true },
			Dial: func(ctx context.Context, address string) (net.Conn, error) {
				return n.Host("10.0.0.1").Dial(ctx, address)
			},
			Tables: h, Starts: h, Horizons: h, MaxInFlightBytes: maxInFlight,
		})
		if got, err := names(t, peers.Peer("remote"), epoch(1)); err != nil || !slices.Equal(got, []string{"a", "b"}) {
			t.Errorf("%q, %v", got, err)
		}
		peers.Close()
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
}
