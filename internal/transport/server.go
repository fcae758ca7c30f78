package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"runtime/debug"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/util/annotations"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/starling-tsdb/starling/internal/proof"
	"github.com/starling-tsdb/starling/internal/pushdown"
	"github.com/starling-tsdb/starling/internal/series"
	"github.com/starling-tsdb/starling/internal/spent"
	"github.com/starling-tsdb/starling/internal/table"
	"github.com/starling-tsdb/starling/internal/tracing"
	"github.com/starling-tsdb/starling/internal/transport/peerpb"
)

const (
	// maxMessageBytes bounds one message: an append is at most one client request.
	maxMessageBytes = 128 << 20
	// frameBytes is about how much of a Select travels in one message.
	frameBytes = 256 << 10
	// streamWindow and connWindow are how much may be on its way before it was read, of one
	// stream and of a connection: they hold the throughput over distance, and bound what one
	// that nobody reads from takes.
	streamWindow, connWindow = 4 << 20, 16 << 20
)

// Appender stores what peers send, and notes what others miss of it. An epoch other than
// the node's own is answered with a *table.MismatchError. It must never forward, and when an
// append has succeeded it reads the batch no more.
type Appender interface {
	Append(ctx context.Context, epoch uint64, b *series.Batch) (proof.Confirmation, error)
	Note(ctx context.Context, epoch uint64, peer table.NodeID, since int64) error
	// NoteLate is Note with a ticket to withdraw it by, or 0 if it cannot be withdrawn.
	NoteLate(ctx context.Context, epoch uint64, peer table.NodeID, since int64) (ticket uint64, err error)
	Withdraw(peer table.NodeID, ticket uint64)
}

// Selection asks a node for its own series.
type Selection struct {
	// Epoch is that of the table which the query is planned by.
	Epoch uint64
	// Proof says which of its series the node serves; nil stands for all.
	Proof *proof.Proof
	// Mint and Maxt bound the data to look at, in milliseconds, inclusive.
	Mint, Maxt int64
	Hints      *storage.SelectHints
	Matchers   []*labels.Matcher
	// Part, if set, leaves only what a node copies.
	Part *proof.Part
	// Encoded is set if not samples are to be summed up, but chunks as they are encoded.
	Encoded bool
	// Spent, if set, is where who reads notes what it measures, before its answer is complete, and
	// who asks a peer what comes.
	Spent *spent.Node
}

// SeriesSet is what a node answers. It is closed when nobody reads from it any more.
type SeriesSet interface {
	storage.ChunkSeriesSet
	io.Closer
}

// Reader reads what lies on this node.
type Reader interface {
	// State is what the node says of itself before it is asked for data.
	State() proof.State
	// Select fails with a *table.MismatchError at another epoch than the node's, and with
	// another error in another session than the proof's, also if either changes before the
	// end of the set.
	Select(ctx context.Context, s Selection) (SeriesSet, error)
	// Evaluate returns what the node makes of a fragment, given as its text, of the series that
	// Select returns. Beside those of Select it fails with an *pushdown.UnprovenError or a
	// promql.ErrTooManySamples.
	Evaluate(ctx context.Context, s Selection, fragment string, g pushdown.Grid) (*pushdown.Partial, error)
	// Sum sums up the series that Select returns, by ranges of keys.
	Sum(ctx context.Context, s Selection) (*proof.Sums, error)
	// Labels calls yield with which labels there are, in order and each once. Strings are valid
	// until yield returns. It fails with yield's error, or a *series.TooManyLabelsError.
	Labels(ctx context.Context, q series.LabelQuery, yield func(string) error) error
	ExemplarQuerier(ctx context.Context) (storage.ExemplarQuerier, error)
	Metadata(family string, limit, limitPerMetric int) map[string][]metadata.Metadata
	Stats(statsByLabelName string, limit int) (*tsdb.Stats, error)
}

// Tables is where a node keeps its table.
type Tables interface {
	// Table returns nil before the cluster is formed.
	Table() *table.Table
	// Learn takes over a table that a peer handed over, if it is newer.
	Learn(t *table.Table) error
}

// Membership answers messages of the membership protocol.
type Membership interface {
	Handle(ctx context.Context, request []byte) ([]byte, error)
}

// ServerOptions are the parts that a Server answers from. All are required but Interner, Tracer
// and Registerer.
type ServerOptions struct {
	// Self is this node: requests that are meant for another are refused.
	Self       table.NodeID
	Appender   Appender
	Reader     Reader
	Giver      Giver
	Comparer   Comparer
	Tables     Tables
	Starts     Starts
	Horizons   Horizons
	Reporter   Reporter
	Keyring    Keyring
	Membership Membership
	// Interner is asked for the labels to keep of series that a peer goes on to send by
	// number. It is called by several goroutines.
	Interner func() series.Interner
	// Tracer begins the spans of requests that come with one; nil for none.
	Tracer     *tracing.Tracer
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Server answers the requests of peers.
type Server struct {
	peerpb.UnimplementedPeerServer
	opts     ServerOptions
	grpc     *grpc.Server
	requests *prometheus.CounterVec
	// draining is closed when the server is about to stop.
	draining chan struct{}
}

// NewServer prepares a server; Serve starts it.
func NewServer(opts ServerOptions) *Server {
	s := &Server{
		opts:     opts,
		draining: make(chan struct{}),
		requests: promauto.With(opts.Registerer).NewCounterVec(prometheus.CounterOpts{
			Name: "starling_peer_served_requests_total",
			Help: "Requests of peers that this node answered, by method and gRPC code.",
		}, []string{"method", "code"}),
	}
	s.grpc = grpc.NewServer(
		grpc.MaxRecvMsgSize(maxMessageBytes),
		grpc.MaxSendMsgSize(maxMessageBytes),
		grpc.InitialWindowSize(streamWindow),
		grpc.InitialConnWindowSize(connWindow),
		// A connection that begins to speak gRPC has as long as one that says nothing.
		grpc.ConnectionTimeout(prefaceTimeout),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 15 * time.Second, Timeout: 5 * time.Second}),
		grpc.UnaryInterceptor(s.interceptUnary),
		grpc.StreamInterceptor(s.interceptStream),
	)
	peerpb.RegisterPeerServer(s.grpc, s)
	return s
}

// Serve answers on l until Stop.
func (s *Server) Serve(l net.Listener) error { return s.grpc.Serve(l) }

// Stop lets running requests finish within grace, then breaks them. It is called once. Peers
// are asked to end their streams of appends, which would go on for ever.
func (s *Server) Stop(grace time.Duration) {
	close(s.draining)
	timer := time.AfterFunc(grace, s.grpc.Stop)
	defer timer.Stop()
	s.grpc.GracefulStop()
}

func (s *Server) interceptUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
	// A mapped file that lost its end raises a fault: a panic of this request, not the
	// end of the process.
	debug.SetPanicOnFault(true)
	ctx, span := s.traced(ctx, info.FullMethod)
	defer func() {
		err = s.finish(info.FullMethod, recover(), err)
		span.End(err)
	}()
	return handler(ctx, req)
}

func (s *Server) interceptStream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	debug.SetPanicOnFault(true)
	ctx, span := s.traced(ss.Context(), info.FullMethod)
	if span != nil {
		ss = tracedStream{ss, ctx}
	}
	defer func() {
		err = s.finish(info.FullMethod, recover(), err)
		span.End(err)
	}()
	return handler(srv, ss)
}

// finish turns a panic (a corrupt mapped chunk panics when it is read) and every other
// error into a status that the client side understands.
func (s *Server) finish(method string, panicked any, err error) error {
	if panicked != nil {
		s.opts.Logger.Error("Request of a peer panicked", "method", method, "panic", panicked, "stack", string(debug.Stack()))
		err = status.Errorf(codes.Internal, "panic: %v", panicked)
	}
	err = toStatus(err)
	s.requests.WithLabelValues(method, status.Code(err).String()).Inc()
	return err
}

func toStatus(err error) error {
	var mismatch *table.MismatchError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &mismatch):
		return mismatchStatus(mismatch)
	case errors.Is(err, context.Canceled):
		return status.FromContextError(context.Canceled).Err()
	case errors.Is(err, context.DeadlineExceeded):
		return status.FromContextError(context.DeadlineExceeded).Err()
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	return status.Error(codes.Unavailable, err.Error())
}

func mismatchStatus(m *table.MismatchError) error {
	detail := &peerpb.EpochMismatch{}
	if m.Have != nil {
		var err error
		if detail.Table, err = table.Encode(m.Have); err != nil {
			return status.Error(codes.Internal, err.Error())
		}
	}
	st, err := status.New(codes.FailedPrecondition, m.Error()).WithDetails(detail)
	if err != nil {
		return status.Error(codes.Internal, err.Error())
	}
	return st.Err()
}

// check refuses what is meant for another node, cluster or epoch.
func (s *Server) check(h *peerpb.Header) error {
	if err := s.checkAddressee(h); err != nil {
		return err
	}
	t := s.opts.Tables.Table()
	if t == nil || t.Epoch != h.GetEpoch() {
		return &table.MismatchError{Have: t, Want: h.GetEpoch()}
	}
	if t.Lineage() != h.GetClusterId() {
		return status.Errorf(codes.PermissionDenied, "this node goes by the history %q, the request by %q: two recoveries were made apart from each other", t.Lineage(), h.GetClusterId())
	}
	return nil
}

func (s *Server) checkAddressee(h *peerpb.Header) error {
	if err := s.checkSelf(h.GetTo()); err != nil {
		return err
	}
	id, _, _ := strings.Cut(h.GetClusterId(), "/")
	if t := s.opts.Tables.Table(); t != nil && t.ClusterID != id {
		return status.Errorf(codes.PermissionDenied, "this node belongs to cluster %q, the request to %q", t.ClusterID, h.GetClusterId())
	}
	return nil
}

// checkSelf refuses what was sent to an address that another node had before: counted as
// that node's, the answer of this one would count twice.
func (s *Server) checkSelf(to string) error {
	if to != string(s.opts.Self) {
		return status.Errorf(codes.Unavailable, "node %s answers at this address, the request is meant for %s", s.opts.Self, to)
	}
	return nil
}

// Exemplars implements peerpb.PeerServer.
func (s *Server) Exemplars(ctx context.Context, req *peerpb.ExemplarsRequest) (*peerpb.ExemplarsResponse, error) {
	if err := s.check(req.Header); err != nil {
		return nil, err
	}
	sets := make([][]*labels.Matcher, len(req.Sets))
	for i, set := range req.Sets {
		var err error
		if sets[i], err = matchersFromProto(set.Matchers); err != nil {
			return nil, status.Error(codes.InvalidArgument, err.Error())
		}
	}
	q, err := s.opts.Reader.ExemplarQuerier(ctx)
	if err != nil {
		return nil, err
	}
	results, err := q.Select(req.StartMs, req.EndMs, sets...)
	if err != nil {
		return nil, err
	}
	resp := &peerpb.ExemplarsResponse{}
	for _, r := range results {
		pr := &peerpb.ExemplarsResponse_Result{SeriesLabels: labelsToPairs(r.SeriesLabels)}
		for _, e := range r.Exemplars {
			pr.Exemplars = append(pr.Exemplars, &peerpb.ExemplarsResponse_Item{
				Labels: labelsToPairs(e.Labels), FloatBits: math.Float64bits(e.Value), TimestampMs: e.Ts, HasTimestamp: e.HasTs,
			})
		}
		resp.Results = append(resp.Results, pr)
	}
	return resp, nil
}

// Metadata implements peerpb.PeerServer.
func (s *Server) Metadata(_ context.Context, req *peerpb.MetadataRequest) (*peerpb.MetadataResponse, error) {
	if err := s.check(req.Header); err != nil {
		return nil, err
	}
	resp := &peerpb.MetadataResponse{}
	for family, ms := range s.opts.Reader.Metadata(string(req.Family), int(req.Limit), int(req.LimitPerMetric)) {
		for _, m := range ms {
			resp.Metadata = append(resp.Metadata, &peerpb.FamilyMetadata{
				Family: family, Type: string(m.Type), Unit: m.Unit, Help: m.Help,
			})
		}
	}
	return resp, nil
}

// Stats implements peerpb.PeerServer.
func (s *Server) Stats(_ context.Context, req *peerpb.StatsRequest) (*peerpb.StatsResponse, error) {
	if err := s.check(req.Header); err != nil {
		return nil, err
	}
	stats, err := s.opts.Reader.Stats(req.LabelName, int(req.Limit))
	if err != nil {
		return nil, err
	}
	return statsToProto(stats), nil
}

// Handover implements peerpb.PeerServer.
func (s *Server) Handover(_ context.Context, req *peerpb.HandoverRequest) (*peerpb.HandoverResponse, error) {
	if err := s.checkSelf(req.To); err != nil {
		return nil, err
	}
	t, err := table.Decode(req.Table)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if err := s.opts.Tables.Learn(t); err != nil {
		return nil, fmt.Errorf("taking over the table of epoch %d: %w", t.Epoch, err)
	}
	return &peerpb.HandoverResponse{}, nil
}

// Membership implements peerpb.PeerServer.
func (s *Server) Membership(ctx context.Context, req *peerpb.MembershipMessage) (*peerpb.MembershipMessage, error) {
	payload, err := s.opts.Membership.Handle(ctx, req.Payload)
	if err != nil {
		return nil, err
	}
	return &peerpb.MembershipMessage{Payload: payload}, nil
}

func warnings(a annotations.Annotations) []string {
	warns, infos := a.AsStrings("", 0, 0)
	return append(warns, infos...)
}
