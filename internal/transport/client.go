package transport

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/tsdb"
	"golang.org/x/sync/semaphore"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/starling-tsdb/starling/internal/table"
	"github.com/starling-tsdb/starling/internal/transport/peerpb"
)

var errNoAddress = errors.New("no address is known; has the node ever been seen by gossip?")

// PeersOptions are what Peers works with. All are required but Registerer.
type PeersOptions struct {
	// Address finds a peer's RPC address, anew at each dial.
	Address  func(id table.NodeID) (string, bool)
	Dial     DialFunc
	Tables   Tables
	Starts   Starts
	Horizons Horizons
	// MaxInFlightBytes bounds the batches that are on their way to one peer, by estimate;
	// more is refused at once. A peer that hangs must not fill this node's memory.
	MaxInFlightBytes int64
	Registerer       prometheus.Registerer
}

// Peers keeps one connection to each peer.
type Peers struct {
	opts     PeersOptions
	duration *prometheus.HistogramVec
	samples  *prometheus.CounterVec
	inFlight *prometheus.GaugeVec
	sent     *prometheus.CounterVec
	received *prometheus.CounterVec

	mu    sync.Mutex
	peers map[table.NodeID]*Peer
}

// NewPeers opens no connection yet.
func NewPeers(opts PeersOptions) *Peers {
	factory := promauto.With(opts.Registerer)
	return &Peers{
		opts: opts,
		duration: factory.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "starling_peer_request_duration_seconds",
			Help:    "Time that requests to peers took, by peer, method and gRPC code.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 4, 9),
		}, []string{"peer", "method", "code"}),
		samples: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "starling_replication_samples_total",
			Help: "Samples sent to a peer, by whether the peer confirmed the request.",
		}, []string{"peer", "confirmed"}),
		inFlight: factory.NewGaugeVec(prometheus.GaugeOpts{
			Name: "starling_peer_inflight_bytes",
			Help: "Memory of samples that are on their way to a peer; more than 64 MiB are refused.",
		}, []string{"peer"}),
		sent: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "starling_peer_sent_bytes_total",
			Help: "Bytes sent to a peer's RPC port over the connections that this node opened for requests.",
		}, []string{"peer"}),
		received: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "starling_peer_received_bytes_total",
			Help: "Bytes received from a peer's RPC port over the connections that this node opened for requests.",
		}, []string{"peer"}),
		peers: map[table.NodeID]*Peer{},
	}
}

// Peer returns the peer with that ID; connections are made when they are needed.
func (p *Peers) Peer(id table.NodeID) *Peer {
	p.mu.Lock()
	defer p.mu.Unlock()
	if peer, ok := p.peers[id]; ok {
		return peer
	}
	sent, received := p.sent.WithLabelValues(string(id)), p.received.WithLabelValues(string(id))
	conn := p.connect(string(id), func(ctx context.Context, _ string) (net.Conn, error) {
		address, ok := p.opts.Address(id)
		if !ok {
			return nil, errNoAddress
		}
		conn, err := p.opts.Dial(ctx, address)
		if err != nil {
			return nil, err
		}
		return &countedConn{Conn: conn, sent: sent, received: received}, nil
	})
	peer := &Peer{
		id: id, owner: p, conn: conn, client: peerpb.NewPeerClient(conn),
		inFlight: semaphore.NewWeighted(p.opts.MaxInFlightBytes),
	}
	p.peers[id] = peer
	return peer
}

// Call sends one membership message to whoever listens at an RPC address. It may be
// called before the cluster is formed, when no node's ID is known. Messages are rare, so
// each has a connection of its own and no address is kept.
func (p *Peers) Call(ctx context.Context, address string, request []byte) ([]byte, error) {
	conn := p.connect("membership", func(ctx context.Context, _ string) (net.Conn, error) {
		return p.opts.Dial(ctx, address)
	})
	defer conn.Close()
	resp, err := peerpb.NewPeerClient(conn).Membership(ctx, &peerpb.MembershipMessage{Payload: request}, grpc.WaitForReady(true))
	if err != nil {
		return nil, fmt.Errorf("calling %s: %w", address, err)
	}
	return resp.Payload, nil
}

// Close breaks all connections.
func (p *Peers) Close() {
	p.mu.Lock()
	peers := slices.Collect(maps.Values(p.peers))
	p.mu.Unlock()
	for _, peer := range peers {
		peer.close()
	}
}

func (p *Peers) connect(label string, dial func(context.Context, string) (net.Conn, error)) *grpc.ClientConn {
	// The target is only a name: the dialer finds the address.
	conn, err := grpc.NewClient("passthrough:///"+label,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(dial),
		grpc.WithDisableServiceConfig(),
		grpc.WithIdleTimeout(0),
		grpc.WithInitialWindowSize(streamWindow),
		grpc.WithInitialConnWindowSize(connWindow),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 500 * time.Millisecond},
			MinConnectTimeout: 2 * time.Second,
		}),
		// A peer that vanished without a word is noticed after Time + Timeout.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 3 * time.Second, PermitWithoutStream: true}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessageBytes), grpc.MaxCallSendMsgSize(maxMessageBytes)),
		grpc.WithUnaryInterceptor(p.measureUnary(label)),
		grpc.WithStreamInterceptor(carryStream),
	)
	if err != nil {
		// NewClient only checks its constant options.
		panic(fmt.Sprintf("transport: grpc options: %v", err))
	}
	return conn
}

func (p *Peers) measureUnary(peer string) grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		start := time.Now()
		err := invoke(carrying(ctx), method, req, reply, cc, opts...)
		p.observe(peer, method, start, err)
		return err
	}
}

func (p *Peers) observe(peer, method string, start time.Time, err error) {
	p.duration.WithLabelValues(peer, method, status.Code(err).String()).Observe(time.Since(start).Seconds())
}

// Peer is one other node of the cluster. Its methods may be called concurrently.
type Peer struct {
	id       table.NodeID
	owner    *Peers
	conn     *grpc.ClientConn
	client   peerpb.PeerClient
	inFlight *semaphore.Weighted
	// streams are those of appends that run.
	streams sync.WaitGroup

	mu     sync.Mutex
	stream *appendStream // the newest one; nil before the first append
	closed bool
}

// Exemplars returns the peer's exemplars of the series that match any of the sets.
func (p *Peer) Exemplars(ctx context.Context, t *table.Table, start, end int64, sets [][]*labels.Matcher) ([]exemplar.QueryResult, error) {
	req := &peerpb.ExemplarsRequest{Header: p.header(t), StartMs: start, EndMs: end}
	for _, set := range sets {
		req.Sets = append(req.Sets, &peerpb.MatcherSet{Matchers: matchersToProto(set)})
	}
	resp, err := p.client.Exemplars(ctx, req)
	if err != nil {
		return nil, p.fail(ctx, t, err)
	}
	builder := labels.NewScratchBuilder(16)
	results := make([]exemplar.QueryResult, len(resp.Results))
	for i, r := range resp.Results {
		if results[i].SeriesLabels, err = labelsFromPairs(&builder, r.SeriesLabels); err != nil {
			return nil, fmt.Errorf("decoding exemplars: %w", err)
		}
		for _, e := range r.Exemplars {
			ls, err := labelsFromPairs(&builder, e.Labels)
			if err != nil {
				return nil, fmt.Errorf("decoding exemplars: %w", err)
			}
			results[i].Exemplars = append(results[i].Exemplars, exemplar.Exemplar{
				Labels: ls, Value: math.Float64frombits(e.FloatBits), Ts: e.TimestampMs, HasTs: e.HasTimestamp,
			})
		}
	}
	return results, nil
}

// Metadata returns the peer's metadata of one family, or of all if family is empty.
func (p *Peer) Metadata(ctx context.Context, t *table.Table, family string, limit, limitPerMetric int) (map[string][]metadata.Metadata, error) {
	resp, err := p.client.Metadata(ctx, &peerpb.MetadataRequest{
		Header: p.header(t), Family: []byte(family), Limit: int64(limit), LimitPerMetric: int64(limitPerMetric),
	})
	if err != nil {
		return nil, p.fail(ctx, t, err)
	}
	out := map[string][]metadata.Metadata{}
	for _, m := range resp.Metadata {
		out[m.Family] = append(out[m.Family], metadataFromProto(m))
	}
	return out, nil
}

// Stats returns the statistics of the peer's head.
func (p *Peer) Stats(ctx context.Context, t *table.Table, label string, limit int) (*tsdb.Stats, error) {
	resp, err := p.client.Stats(ctx, &peerpb.StatsRequest{Header: p.header(t), LabelName: label, Limit: int64(limit)})
	if err != nil {
		return nil, p.fail(ctx, t, err)
	}
	return statsFromProto(resp), nil
}

// fail gives an error its meaning: the caller's own cancellation, another epoch, or a
// peer that cannot answer. Which peer that is the caller knows.
func (p *Peer) fail(ctx context.Context, sent *table.Table, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	for _, detail := range status.Convert(err).Details() {
		m, ok := detail.(*peerpb.EpochMismatch)
		if !ok {
			continue
		}
		mismatch := &table.MismatchError{Want: sent.Epoch}
		if len(m.Table) > 0 {
			have, err := table.Decode(m.Table)
			if err != nil {
				return fmt.Errorf("the peer handed over its table: %w", err)
			}
			mismatch.Have = have
		}
		if err := p.reconcile(ctx, mismatch.Have); err != nil {
			return fmt.Errorf("%w; bringing both to one epoch: %w", mismatch, err)
		}
		return mismatch
	}
	return errors.New(status.Convert(err).Message())
}

// reconcile makes both sides hold the newer of two tables.
func (p *Peer) reconcile(ctx context.Context, theirs *table.Table) error {
	tables := p.owner.opts.Tables
	ours := tables.Table()
	switch {
	case theirs != nil && (ours == nil || theirs.Epoch > ours.Epoch):
		return tables.Learn(theirs)
	case theirs == nil || theirs.Epoch < ours.Epoch:
		encoded, err := table.Encode(ours)
		if err != nil {
			return err
		}
		_, err = p.client.Handover(ctx, &peerpb.HandoverRequest{Table: encoded, To: string(p.id)})
		return err
	}
	return nil
}

func (p *Peer) header(t *table.Table) *peerpb.Header {
	return &peerpb.Header{ClusterId: t.Lineage(), Epoch: t.Epoch, To: string(p.id)}
}
