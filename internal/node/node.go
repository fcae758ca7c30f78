// Package node builds a node from its parts and runs it.
//
//	HTTP ─ api ─┬─ ingest ──┬─ this node's owner ─ storage
//	            │           └─ transport ─▶ other nodes' owners
//	            └─ promql ─ query ─┬─ storage
//	                               └─ transport ─▶ other nodes' stores
//	gossip, Raft ─ cluster ─▶ table ─▶ owner, placement, query
//
// A test can run several nodes with different settings in one process.
package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"path/filepath"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	versioncollector "github.com/prometheus/client_golang/prometheus/collectors/version"
	"github.com/prometheus/exporter-toolkit/web"
	"github.com/prometheus/prometheus/util/netconnlimit"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/starling-tsdb/starling/internal/api"
	"github.com/starling-tsdb/starling/internal/border"
	"github.com/starling-tsdb/starling/internal/cluster"
	"github.com/starling-tsdb/starling/internal/config"
	"github.com/starling-tsdb/starling/internal/events"
	"github.com/starling-tsdb/starling/internal/gaps"
	"github.com/starling-tsdb/starling/internal/handoff"
	"github.com/starling-tsdb/starling/internal/ingest"
	"github.com/starling-tsdb/starling/internal/keyring"
	"github.com/starling-tsdb/starling/internal/pushdown"
	"github.com/starling-tsdb/starling/internal/query"
	"github.com/starling-tsdb/starling/internal/repair"
	"github.com/starling-tsdb/starling/internal/series"
	"github.com/starling-tsdb/starling/internal/storage"
	"github.com/starling-tsdb/starling/internal/table"
	"github.com/starling-tsdb/starling/internal/tracing/otlp"
	"github.com/starling-tsdb/starling/internal/transport"
)

const (
	// writeTimeout is below the 30 s for which Prometheus waits by default.
	writeTimeout = 10 * time.Second
	// writeGrace is how long the last owners are waited for when a write is certain.
	writeGrace = 50 * time.Millisecond
	// drainTimeout bounds how long a stopping node finishes what it was asked.
	drainTimeout = 10 * time.Second
	// peerInFlightBytes bounds what is on its way to one peer.
	peerInFlightBytes = 64 << 20
	// readBytesPerSample turns --query.max-samples into the bytes that the reads of one query may
	// buffer: incompressible samples take 9 bytes, of up to three copies, and labels.
	readBytesPerSample = 32
)

// Options say what to build. Config is checked by New.
type Options struct {
	Config config.Config
	// Flags are shown by /api/v1/status/flags.
	Flags  map[string]string
	Logger *slog.Logger
	// Network is nil for the machine's own.
	Network Network
	// Tune, if set, may change how the store is opened. Tests use it for samples of 1970.
	Tune func(*storage.Options)
	// Registry takes and shows the metrics; nil for one of the node's own. Tests hand in one that
	// tells what was registered.
	Registry Registry
	// Spans, if set, takes the spans of traces in place of a collector. Tests use it.
	Spans sdktrace.SpanProcessor
	// HandleBytes bounds the memory of the series that are remembered by the bytes of their
	// labels. 0 stands for what fits GOMEMLIMIT.
	HandleBytes int64
	// NearbyWork is query.Options.NearbyWork. Tests of what is divided among nodes set it.
	NearbyWork int
}

// Registry is where metrics are registered and shown.
type Registry interface {
	prometheus.Registerer
	prometheus.Gatherer
}

// Node is one member of a cluster: the whole program but for flags and signals.
type Node struct {
	opts     Options
	logger   *slog.Logger
	registry Registry
	stopping atomic.Bool
	// session tells this run of the node from others, in proofs.
	session uint64
	// outdating has one peer at a time say that the data directory is an old copy.
	outdating sync.Mutex
	placed    atomic.Pointer[placed]
	// copying times how fast this node copies, shares says who owns how much, heard what
	// peers say of their horizons, and load how busy this node is.
	copying stopwatch
	shares  shares
	heard   heard
	load    load
	// events are what this node logged lately.
	events events.Log
	// disagreed is where queries found owners to disagree.
	disagreed disagreements
	// deletion ends when a newer table is adopted.
	deletion deletion

	http        net.Listener
	traces      *otlp.Provider
	border      *border.Guard
	keyring     *keyring.Ring // nil if gossip is not encrypted
	rpc         *transport.Listener
	store       *storage.Store
	cluster     *cluster.Cluster
	gaps        *gaps.Book
	owner       *ingest.Owner
	peers       *transport.Peers
	server      *transport.Server
	giver       *handoff.Giver
	taker       *handoff.Taker
	mover       *handoff.Mover
	rebuilder   *repair.Rebuilder
	comparer    *repair.Comparer
	replication *replication
	writes      *ingest.Coordinator
	promql      pushdown.Parser
	evaluations *turns
	labelLists  *turns
	reads       *query.Fanout
	engine      *api.Engine
	frontend    *api.API
	door        http.Handler // before the frontend
}

// New binds the node's addresses, opens its store and builds its parts. Errors name the
// flag at fault. The caller runs the node, which closes it.
func New(opts Options) (*Node, error) {
	if err := opts.Config.Check(); err != nil {
		return nil, err
	}
	if opts.Network == nil {
		opts.Network = machine{}
	}
	if opts.Registry == nil {
		opts.Registry = prometheus.NewRegistry()
	}
	n := &Node{opts: opts, registry: opts.Registry, session: rand.Uint64()}
	n.logger = slog.New(n.events.Handler(opts.Logger.Handler()))
	n.registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		versioncollector.NewCollector("starling"),
	)
	n.promql = pushdown.Parser{Parser: api.NewParser(api.ParsePromQLFeatures(opts.Config.Features).Parser)}
	n.evaluations = newEvaluations(readsAtOnce(), n.registry)
	n.labelLists = newLabelLists(readsAtOnce(), n.registry)
	var built teardown
	for _, step := range []func(*teardown) error{n.listen, n.openStore, n.joinParts, n.openFrontend, n.openDoor} {
		if err := step(&built); err != nil {
			return nil, errors.Join(err, built.run(n.logger))
		}
	}
	return n, nil
}

// listen binds the HTTP and the RPC address.
func (n *Node) listen(built *teardown) error {
	c := &n.opts.Config
	if c.Web.ConfigFile != "" {
		if err := web.Validate(c.Web.ConfigFile); err != nil {
			return config.Flagged("web.config.file", err)
		}
	}
	l, err := n.opts.Network.Listen(c.Web.ListenAddress)
	if err != nil {
		return config.Flagged("web.listen-address", err)
	}
	n.http = netconnlimit.SharedLimitListener(l, netconnlimit.NewSharedSemaphore(c.Web.MaxConnections))
	built.add("HTTP listener", n.http.Close)
	if n.border, err = n.newBorder(); err != nil {
		return err
	}
	if err := n.openKeyring(); err != nil {
		return err
	}
	if l, err = n.opts.Network.Listen(c.Cluster.RPCAddress); err != nil {
		return config.Flagged("cluster.rpc-address", err)
	}
	n.rpc = transport.Split(n.border.Listener(l))
	built.add("RPC listener", n.rpc.Close)
	return nil
}

func (n *Node) openStore(built *teardown) error {
	c := &n.opts.Config.Storage
	o := storage.Options{
		Dir:              c.Path,
		Key:              keyOf,
		RetentionTime:    time.Duration(c.RetentionTime),
		RetentionSize:    int64(c.RetentionSize),
		OutOfOrderWindow: time.Duration(c.OutOfOrderWindow),
		CompactionDelay:  c.CompactionDelay,
		WALSync:          storage.SyncMode(c.WALSync),
		WALCompression:   c.WALCompression,
		MaxSeries:        maxSeries(c.MaxSeries, debug.SetMemoryLimit(-1)),
		Logger:           n.logger,
		Registerer:       n.registry,
	}
	for _, f := range n.opts.Config.Features {
		if storage.SupportsFeature(f) {
			o.Features = append(o.Features, f)
		}
	}
	if n.opts.Tune != nil {
		n.opts.Tune(&o)
	}
	var err error
	if n.store, err = storage.Open(o); err != nil {
		return err
	}
	built.add("store", n.store.Close)
	n.gaps, err = gaps.Open(gaps.Options{Dir: filepath.Join(c.Path, "gaps"), Logger: n.logger, Registerer: n.registry})
	if err != nil {
		return config.Flagged("storage.tsdb.path", err)
	}
	built.add("gaps", func() error { n.gaps.Close(); return nil })
	return nil
}

func (n *Node) interner() series.Interner { return n.store.Interner() }

func (n *Node) reader() reader { return reader{n.store, n} }

// bytesPerSeries is what a series in memory takes with what hangs on it: about 3 KiB, and
// room for queries and for garbage.
const bytesPerSeries = 4 << 10

// maxSeries is the limit of series of a node that was told flag and may use memory bytes,
// math.MaxInt64 if nobody knows.
func maxSeries(flag int, memory int64) int {
	switch {
	case flag != config.AutoSeries:
		return flag
	case memory == math.MaxInt64:
		return 0
	}
	return int(max(1, memory/bytesPerSeries))
}

// joinParts builds everything between the store and the API.
func (n *Node) joinParts(built *teardown) error {
	flow := new(handoff.Flow)
	n.owner = ingest.NewOwner(measuredStore{n.store, flow, &n.load}, n.gaps)
	if n.isOldCopy() {
		n.owner.RefuseUntil(math.MaxUint64)
	}
	n.peers = transport.NewPeers(transport.PeersOptions{
		Address:          func(id table.NodeID) (string, bool) { return n.cluster.Address(id) },
		Dial:             n.dialPeer,
		Tables:           tables{n},
		Starts:           starts{n},
		Horizons:         horizons{n},
		MaxInFlightBytes: peerInFlightBytes,
		Registerer:       n.registry,
	})
	built.add("peers", func() error { n.peers.Close(); return nil })
	var err error
	if n.cluster, err = n.newCluster(); err != nil {
		return err
	}
	built.add("cluster", func() error { n.cluster.Close(); return nil })
	if t := n.cluster.Table(); t != nil {
		n.adopt(t)
	}
	if err := n.openTraces(built); err != nil {
		return err
	}
	n.giver = handoff.NewGiver(handoff.GiverOptions{
		Book: n.gaps, Source: n.store, Owns: n.owns, Flow: flow, Fraction: n.sharedFraction,
		BytesPerSecond: int64(n.opts.Config.Cluster.TransferRate), Registerer: n.registry,
	})
	n.taker = handoff.NewTaker(handoff.TakerOptions{
		Self: n.cluster.Self(), Store: n.store, Damaged: storage.ErrDamaged, Table: tables{n}.Table, Peers: n.givers,
		Logger: n.logger, Registerer: n.registry,
	})
	copying := handoff.CopierOptions{Self: n.cluster.Self(), Store: n.store, Damaged: storage.ErrDamaged}
	n.rebuilder = repair.NewRebuilder(repair.RebuilderOptions{
		Store: n.store, Copier: handoff.NewCopier(copying), Owners: n.rebuildFrom, Newest: n.newest, Renew: n.renew, TakeOver: n.takeOver,
		Logger: n.logger, Registerer: n.registry,
	})
	n.comparer = repair.NewComparer(repair.ComparerOptions{
		Store: n.store, Oldest: n.oldest, Shared: n.shared, Logger: n.logger, Registerer: n.registry,
	})
	n.mover, err = handoff.OpenMover(handoff.MoverOptions{
		CopierOptions: copying, Dir: n.opts.Config.Storage.Path,
		Move: n.move, Ready: n.cluster.Announce, Logger: n.logger, Registerer: n.registry,
	})
	if err != nil {
		return config.Flagged("storage.tsdb.path", err)
	}
	n.registry.MustRegister(transitionCollector{n})
	n.replication = newReplication(n)
	n.server = n.newServer()
	n.writes = ingest.New(ingest.Options{
		Table:      n.placement,
		Replica:    n.replica,
		Timeout:    writeTimeout,
		Grace:      writeGrace,
		Logger:     n.logger,
		Registerer: n.registry,
	})
	n.reads = query.New(query.Options{
		View:       n.view,
		Horizon:    func() int64 { return n.store.Horizon().At() },
		Disagree:   n.disagreed.add,
		MaxBytes:   int64(n.opts.Config.Query.MaxSamples) * readBytesPerSample,
		NearbyWork: n.opts.NearbyWork,
		Logger:     n.logger,
		Registerer: n.registry,
	})
	return nil
}

func (n *Node) newServer() *transport.Server {
	return transport.NewServer(transport.ServerOptions{
		Self: n.cluster.Self(), Appender: n.owner, Reader: n.reader(), Interner: n.interner, Giver: peerGiver{n.giver}, Comparer: n.comparer,
		Tables: tables{n}, Starts: starts{n}, Horizons: horizons{n}, Reporter: reporter{n}, Keyring: keyrings{n}, Membership: n.cluster,
		Tracer: n.traces.Tracer(), Logger: n.logger, Registerer: n.registry,
	})
}

func (n *Node) newCluster() (*cluster.Cluster, error) {
	c := &n.opts.Config.Cluster
	gossip, err := n.opts.Network.GossipTransport(c.GossipAddress)
	if err != nil {
		return nil, config.Flagged("cluster.gossip-address", err)
	}
	var keys *memberlist.Keyring
	if n.keyring != nil {
		keys = n.keyring.Memberlist()
	}
	return cluster.New(cluster.Config{
		Dir:               filepath.Join(n.opts.Config.Storage.Path, "cluster"),
		ClusterName:       c.Name,
		ReplicationFactor: c.ReplicationFactor,
		Find:              cluster.Find{Join: c.Join, BootstrapExpect: c.BootstrapExpect, LookupHost: n.opts.Network.LookupHost},
		Advertise: cluster.Advertise{
			Host:    c.AdvertiseHost,
			RPCPort: portOf(n.rpc.GRPC().Addr()), HTTPPort: portOf(n.http.Addr()),
			Zone: c.Zone, Name: n.opts.Network.Hostname(), Version: buildVersion(),
		},
		GossipBind:      c.GossipAddress,
		GossipTransport: gossip,
		GossipKeys:      keys,
		RaftListener:    n.rpc.Raft(),
		Dial: func(ctx context.Context, address string) (net.Conn, error) {
			return transport.DialRaft(ctx, n.dialPeer, address)
		},
		Caller:     n.peers,
		Advertised: n.advertised,
		Allowed:    n.allowed(),
		Adopt:      func(_, next *table.Table) { n.adopt(next) },
		Ready:      n.readyFor,
		Logger:     n.logger,
		Registerer: n.registry,
	})
}

// Run serves until ctx ends or a part fails, then finishes what it was asked and closes
// everything.
func (n *Node) Run(ctx context.Context) error {
	failed := make(chan error, 3)
	run := func(name string, f func() error) {
		go func() { failed <- named(name, f()) }()
	}
	clusterCtx, leave := context.WithCancel(context.WithoutCancel(ctx))
	clusterDone := make(chan struct{})
	httpServer := n.newHTTPServer()
	takerCtx, stopTaking := context.WithCancel(context.WithoutCancel(ctx))
	var takers sync.WaitGroup
	takers.Go(func() { n.border.Run(takerCtx) })
	takers.Go(func() { n.taker.Run(takerCtx) })
	takers.Go(func() { n.mover.Run(takerCtx) })
	takers.Go(func() { n.rebuilder.Run(takerCtx) })
	takers.Go(func() { n.comparer.Run(takerCtx) })
	takers.Go(func() { n.repairRead(takerCtx) })
	takers.Go(func() { n.load.run(takerCtx) })
	takers.Go(func() { n.replication.run(takerCtx) })
	takers.Go(func() { (&pruner{n: n}).run(takerCtx) })

	run("cluster", func() error { defer close(clusterDone); return n.cluster.Run(clusterCtx) })
	run("RPC server", func() error { return n.server.Serve(n.rpc.GRPC()) })
	run("HTTP server", func() error { return n.serveHTTP(httpServer) })
	n.logger.Info("Serving", "http", n.http.Addr(), "rpc", n.rpc.GRPC().Addr(), "path", n.opts.Config.Storage.Path)

	var cause error
	select {
	case <-ctx.Done():
		n.logger.Info("Stopping: finishing requests", "timeout", drainTimeout)
	case cause = <-failed:
		n.logger.Error("Stopping: a part failed", "err", cause)
	case cause = <-n.store.Fatal():
		n.logger.Error("Stopping: the store cannot go on in this process", "err", cause)
	}
	n.stopping.Store(true)

	// In reverse of the order in which requests pass through them.
	var stop teardown
	stop.add("traces", n.traces.Close)
	stop.add("gaps", func() error { n.gaps.Close(); return nil })
	stop.add("store", n.store.Close)
	stop.add("peers", func() error { n.peers.Close(); return nil })
	stop.add("writes", func() error { n.writes.Close(); return nil })
	stop.add("RPC listener", n.rpc.Close)
	stop.add("RPC server", func() error { n.server.Stop(drainTimeout); return nil })
	stop.add("cluster", func() error { leave(); <-clusterDone; return nil })
	stop.add("hand-off", func() error { stopTaking(); takers.Wait(); n.announceAbsence(); return nil })
	stop.add("query engine", func() error { n.engine.Close(); return nil })
	stop.add("HTTP server", func() error { return drain(httpServer) })
	return errors.Join(cause, stop.run(n.logger))
}

// newHTTPServer bounds how long a slow client can hold on to what its request reserved.
func (n *Node) newHTTPServer() *http.Server {
	return &http.Server{
		Handler:           n.door,
		ErrorLog:          slog.NewLogLogger(n.logger.Handler(), slog.LevelWarn),
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       time.Minute,
		WriteTimeout:      time.Duration(n.opts.Config.Query.Timeout) + time.Minute,
		IdleTimeout:       5 * time.Minute,
	}
}

func (n *Node) serveHTTP(server *http.Server) error {
	listen := []string{n.opts.Config.Web.ListenAddress}
	systemd := false
	err := web.Serve(n.http, server, &web.FlagConfig{
		WebListenAddresses: &listen,
		WebSystemdSocket:   &systemd,
		WebConfigFile:      &n.opts.Config.Web.ConfigFile,
	}, n.logger)
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// drain lets requests finish, then breaks those that take too long.
func drain(server *http.Server) error {
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		return server.Close()
	}
	return nil
}

func named(name string, err error) error {
	if err == nil {
		return fmt.Errorf("%s ended", name)
	}
	return fmt.Errorf("%s: %w", name, err)
}

// HTTPAddress returns where the node answers HTTP.
func (n *Node) HTTPAddress() string { return n.http.Addr().String() }
