package simnet

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// stream opens one stream between two hosts.
func stream(t *testing.T, n *Net) (near, far net.Conn) {
	t.Helper()
	l, err := n.Host("10.0.0.2").Listen(80)
	if err != nil {
		t.Fatal(err)
	}
	near, err = n.Host("10.0.0.1").Dial(t.Context(), "10.0.0.2:80")
	if err != nil {
		t.Fatal(err)
	}
	far, err = l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return near, far
}

func TestStreamCarriesBytesInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New()
		n.SetLatency(5 * time.Millisecond)
		near, far := stream(t, n)
		sent := bytes.Repeat([]byte("0123456789abcdef"), 3*window/16) // more than fits at once
		go func() {
			if _, err := near.Write(sent); err != nil {
				t.Error(err)
			}
			_ = near.Close()
		}()
		got, err := io.ReadAll(far)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, sent) {
			t.Errorf("read %d bytes that differ from the %d written", len(got), len(sent))
		}
		if _, err := far.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
			t.Errorf("write to a closed peer: %v, want EPIPE", err)
		}
		if _, err := near.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("read after close: %v, want net.ErrClosed", err)
		}
	})
}

func TestLatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New()
		near, far := stream(t, n)
		n.SetLatency(30 * time.Millisecond)
		start := time.Now()
		_, _ = near.Write([]byte("x"))
		if _, err := far.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start); d != 30*time.Millisecond {
			t.Errorf("a byte took %v, want 30ms", d)
		}
	})
}

func TestDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := stream(t, New())
		start := time.Now()
		_ = near.SetReadDeadline(start.Add(time.Second))
		_, err := near.Read(make([]byte, 1))
		if !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("read: %v after %v, want a deadline after 1s", err, time.Since(start))
		}
		var ne net.Error
		if !errors.As(err, &ne) || !ne.Timeout() {
			t.Errorf("%v is not a net.Error with Timeout", err)
		}
		// A deadline that is set while a read waits counts.
		_ = near.SetReadDeadline(time.Time{})
		time.AfterFunc(time.Second, func() { _ = near.SetReadDeadline(time.Now()) })
		if _, err := near.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read with a deadline set meanwhile: %v", err)
		}
		_ = far.SetWriteDeadline(time.Now().Add(time.Second))
		n, err := far.Write(make([]byte, window+1))
		if n != window || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("write to a full window: %d, %v", n, err)
		}
	})
}

func TestPartitionHangsAndHeals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New()
		near, far := stream(t, n)
		n.Partition([]string{"10.0.0.1"}, []string{"10.0.0.2"})
		if _, err := near.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		_ = far.SetReadDeadline(time.Now().Add(time.Minute))
		if _, err := far.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read across a partition: %v, want a deadline", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if _, err := n.Host("10.0.0.1").Dial(ctx, "10.0.0.2:80"); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("dial across a partition: %v, want a deadline", err)
		}
		_ = far.SetReadDeadline(time.Time{})
		time.AfterFunc(time.Second, n.Heal)
		if k, err := far.Read(make([]byte, 9)); k != 1 || err != nil {
			t.Errorf("read after the heal: %d, %v", k, err)
		}
	})
}

func TestDownBreaksStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New()
		near, far := stream(t, n)
		l, _ := n.Host("10.0.0.2").Listen(81)
		time.AfterFunc(time.Second, func() { n.Down("10.0.0.2") })
		if _, err := near.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("read from a crashed host: %v, want a reset", err)
		}
		if _, err := far.Write([]byte("x")); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("write on a crashed host: %v, want a reset", err)
		}
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("accept on a crashed host: %v", err)
		}
		n.Up("10.0.0.2")
		if _, err := n.Host("10.0.0.1").Dial(t.Context(), "10.0.0.2:81"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("dial after the crash: %v, want refused", err)
		}
		if _, err := n.Host("10.0.0.2").Listen(81); err != nil {
			t.Errorf("listen after the crash: %v", err)
		}
	})
}

func TestNames(t *testing.T) {
	n := New()
	n.SetName("db", "10.0.0.1", "10.0.0.2")
	if ips, err := n.LookupHost(t.Context(), "db"); err != nil || len(ips) != 2 {
		t.Errorf("lookup: %v, %v", ips, err)
	}
	n.SetName("db")
	if _, err := n.LookupHost(t.Context(), "db"); err == nil {
		t.Error("a removed name resolves")
	}
}

// TestHTTPAndGRPC runs the two protocols that nodes speak over the network.
func TestHTTPAndGRPC(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New()
		n.SetLatency(time.Millisecond)
		a, b := n.Host("10.0.0.1"), n.Host("10.0.0.2")
		web, _ := b.Listen(80)
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(w, r.Body)
		})}
		var wg sync.WaitGroup
		wg.Go(func() { _ = server.Serve(web) })
		tr := &http.Transport{DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) { return a.Dial(ctx, addr) }}
		resp, err := (&http.Client{Transport: tr}).Post("http://10.0.0.2/", "text/plain", bytes.NewReader([]byte("hello")))
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "hello" {
			t.Errorf("answer %q, %v", body, err)
		}
		_ = resp.Body.Close()
		tr.CloseIdleConnections()
		_ = server.Close()

		rpc, _ := b.Listen(81)
		gs := grpc.NewServer()
		healthpb.RegisterHealthServer(gs, health.NewServer())
		wg.Go(func() { _ = gs.Serve(rpc) })
		cc, err := grpc.NewClient("passthrough:///10.0.0.2:81", grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(a.Dial))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := healthpb.NewHealthClient(cc).Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
			t.Error(err)
		}
		_ = cc.Close()
		gs.Stop()
		wg.Wait()
	})
}

func TestGossipPackets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New()
		a, b := n.Host("10.0.0.1").GossipTransport(7946), n.Host("10.0.0.2").GossipTransport(7946)
		for range 3000 { // more than the queue holds: must not block
			if _, err := a.WriteTo([]byte("x"), "10.0.0.2:7946"); err != nil {
				t.Fatal(err)
			}
		}
		if len(b.PacketCh()) != cap(b.packets) {
			t.Errorf("%d packets queued, want a full queue", len(b.PacketCh()))
		}
		n.SetLoss(1, 7)
		for len(b.packets) > 0 {
			<-b.packets
		}
		_, _ = a.WriteTo([]byte("x"), "10.0.0.2:7946")
		if len(b.packets) != 0 {
			t.Error("a packet came through a network that loses all")
		}
		_ = a.Shutdown()
		_ = b.Shutdown()
	})
}

func TestGossipTraffic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New()
		a, b := n.Host("10.0.0.1").GossipTransport(7946), n.Host("10.0.0.2").GossipTransport(7946)
		n.SetLoss(1, 7) // what gets lost was sent, too
		for range 3 {
			if _, err := a.WriteTo([]byte("packet"), "10.0.0.2:7946"); err != nil {
				t.Fatal(err)
			}
		}
		near, err := a.DialTimeout("10.0.0.2:7946", time.Second)
		if err != nil {
			t.Fatal(err)
		}
		far := <-b.StreamCh()
		_, _ = near.Write([]byte("question"))
		_, _ = far.Write([]byte("answer"))
		if got, want := a.Sent(), (GossipTraffic{Packets: 3, PacketBytes: 18, StreamBytes: 8}); got != want {
			t.Errorf("the one that dialed sent %+v, want %+v", got, want)
		}
		if got, want := b.Sent(), (GossipTraffic{StreamBytes: 6}); got != want {
			t.Errorf("the one that accepted sent %+v, want %+v", got, want)
		}
		_, _ = near.Close(), far.Close()
		_, _ = a.Shutdown(), b.Shutdown()
	})
}
