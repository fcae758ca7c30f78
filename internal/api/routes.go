package api

import (
	"fmt"
	"net/http"
	"net/http/pprof"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/prometheus/util/httputil"
)

// altPrefix serves everything a second time, for clients set up for a system that has
// Prometheus's API there.
const altPrefix = "/prometheus"

// routes lays out all paths. A pattern of ours wins over Prometheus's router, which has
// the rest of the API.
func (a *API) routes() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern, route string, h http.HandlerFunc) { mux.HandleFunc(pattern, named(route, h)) }
	get := func(path string, h http.HandlerFunc) { handle("GET "+path, path, h) }
	compressed := func(h http.HandlerFunc) http.HandlerFunc {
		return httputil.CompressionHandler{Handler: h}.ServeHTTP
	}

	prometheus := a.prometheusRouter()
	mux.Handle(apiPrefix+"/", http.StripPrefix(apiPrefix, prometheus))
	get(apiPrefix+"/cluster", a.cluster)
	for op := range commands {
		path := apiPrefix + "/cluster/" + op
		handle("POST "+path, path, a.administered(a.propose(op)))
	}
	handle("POST "+apiPrefix+"/cluster/plan", apiPrefix+"/cluster/plan", a.administered(a.plan))
	handle("POST "+apiPrefix+"/cluster/repair", apiPrefix+"/cluster/repair", a.administered(a.repair))
	get(apiPrefix+"/cluster/keyring", a.keyring("list"))
	for _, op := range []string{"add", "use", "remove"} {
		path := apiPrefix + "/cluster/keyring/" + op
		handle("POST "+path, path, a.administered(a.keyring(op)))
	}
	get(apiPrefix+"/cluster/recover", a.planRecovery)
	handle("POST "+apiPrefix+"/cluster/recover", apiPrefix+"/cluster/recover", a.administered(a.recover))
	explain := a.read(readPath{form: true}, a.explain(prometheus))
	get(apiPrefix+"/query_explain", explain)
	handle("POST "+apiPrefix+"/query_explain", apiPrefix+"/query_explain", explain)
	get(apiPrefix+"/metadata", a.read(readPath{turns: a.readTurns}, a.whenServing(compressed(a.metadata))))
	get(apiPrefix+"/status/tsdb", a.read(readPath{turns: a.readTurns}, a.whenServing(compressed(a.tsdbStatus))))
	get("/federate", a.read(readPath{turns: a.readTurns, text: true}, a.whenServing(compressed(a.federate))))

	for _, path := range []string{"/write", "/push", "/receive"} {
		handle("POST "+apiPrefix+path, apiPrefix+path, a.whenServing(a.opts.Writes.RemoteWrite))
	}
	handle("POST "+apiPrefix+"/otlp/v1/metrics", apiPrefix+"/otlp/v1/metrics", a.whenServing(a.opts.Writes.OTLP))

	get("/-/healthy", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "Starling is healthy.") })
	get("/-/ready", a.ready)
	get("/metrics", promhttp.HandlerFor(a.opts.Gatherer, promhttp.HandlerOpts{EnableOpenMetrics: true}).ServeHTTP)
	page := a.opts.Page(a.observed(mux))
	for pattern, route := range map[string]string{"/{$}": "/", "/graph": "/graph", "/assets/": "/assets/", "/favicon.ico": "/assets/"} {
		handle("GET "+pattern, route, compressed(page.ServeHTTP))
	}

	handle("/debug/pprof/", "/debug/pprof/", pprof.Index)
	handle("/debug/pprof/cmdline", "/debug/pprof/", pprof.Cmdline)
	handle("/debug/pprof/profile", "/debug/pprof/", pprof.Profile)
	handle("/debug/pprof/symbol", "/debug/pprof/", pprof.Symbol)
	handle("/debug/pprof/trace", "/debug/pprof/", pprof.Trace)

	outer := http.NewServeMux()
	outer.Handle(altPrefix+"/", http.StripPrefix(altPrefix, mux))
	outer.Handle("/", mux)
	return outer
}

// ready serves /-/ready for load balancers and supervisors.
func (a *API) ready(w http.ResponseWriter, _ *http.Request) {
	if err := a.opts.Ready(); err != nil {
		http.Error(w, notReady{err}.Error(), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "Starling is ready.")
}
