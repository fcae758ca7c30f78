// Package page is what a browser shows at a node's address: how the flock is, and a box for
// queries with a table and a chart.
//
// It is a reader as any other: the state is what `starling cluster status` shows, and queries go
// through the HTTP API with its turns, limits and deadlines. It changes nothing. All of it is
// rendered here and can be read without JavaScript, which only refreshes what is seen.
package page

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"html/template"
	"log/slog"
	"mime"
	"net/http"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/starling-tsdb/starling/internal/api"
)

const (
	// fresh is for how long a state is shown to others who look: however many they are, the
	// nodes are asked no more often.
	fresh = time.Second
	// queriesAtOnce bounds the pages with queries that are made at the same time, beside what
	// the API bounds: the answer of each is in memory twice.
	queriesAtOnce = 4
	// policy lets a page load what this node serves, and nothing be written into it.
	policy = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; " +
		"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

var (
	//go:embed templates
	templates embed.FS
	//go:embed assets
	assets embed.FS
)

// Options say what a page shows. All fields but Now and Logger have to be set.
type Options struct {
	// Cluster is what `starling cluster status` shows.
	Cluster api.Cluster
	// API answers queries, below /api/v1.
	API http.Handler
	// Version is that of this node.
	Version string
	// Now is the clock: time.Now if it is nil.
	Now func() time.Time
	// Logger takes what goes wrong; nil for none.
	Logger *slog.Logger
}

// Page serves /, /graph, /favicon.ico and what is below /assets/. It may be used concurrently.
type Page struct {
	opts    Options
	mux     *http.ServeMux
	pages   *template.Template
	files   map[string]file // by the name that has a hash in it
	state   shared
	queries chan struct{}
}

// file is one that never changes under its name.
type file struct {
	content     []byte
	contentType string
}

// New prepares a page.
func New(o Options) *Page {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	p := &Page{opts: o, mux: http.NewServeMux(), files: map[string]file{}, queries: make(chan struct{}, queriesAtOnce)}
	names := map[string]string{}
	entries, err := assets.ReadDir("assets")
	if err != nil {
		panic(err) // embedded: it is there
	}
	for _, e := range entries {
		content, err := assets.ReadFile("assets/" + e.Name())
		if err != nil {
			panic(err) // as above
		}
		sum, ext := sha256.Sum256(content), path.Ext(e.Name())
		name := strings.TrimSuffix(e.Name(), ext) + "." + hex.EncodeToString(sum[:6]) + ext
		names[e.Name()], p.files[name] = name, file{content, mime.TypeByExtension(ext)}
	}
	p.pages = template.Must(template.New("").Funcs(template.FuncMap{
		"asset": func(name string) string { return "assets/" + names[name] },
	}).ParseFS(templates, "templates/*.html"))
	p.mux.HandleFunc("/{$}", p.flock)
	p.mux.HandleFunc("/graph", p.graph)
	p.mux.HandleFunc("/assets/{name}", func(w http.ResponseWriter, r *http.Request) { p.file(w, r, r.PathValue("name")) })
	p.mux.HandleFunc("/favicon.ico", func(w http.ResponseWriter, r *http.Request) { p.file(w, r, names["icon.png"]) })
	return p
}

// ServeHTTP implements http.Handler.
func (p *Page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
	p.mux.ServeHTTP(w, r)
}

// file serves an asset. /favicon.ico has a name without a hash, so it is asked for again each day.
func (p *Page) file(w http.ResponseWriter, r *http.Request, name string) {
	f, ok := p.files[name]
	if !ok {
		http.NotFound(w, r)
		return
	}
	age := "public, max-age=31536000, immutable"
	if path.Base(r.URL.Path) != name {
		age = "public, max-age=86400"
	}
	w.Header().Set("Cache-Control", age)
	w.Header().Set("Content-Type", f.contentType)
	p.write(w, f.content)
}

// shell is what all pages have around them.
type shell struct {
	Title, Version string
	// Self is what this node is called, where that is known.
	Self  string
	Form  form
	Flock *flockView
	Graph *graphView
}

// render writes a page once it is complete.
func (p *Page) render(w http.ResponseWriter, status int, s shell) {
	s.Version = p.opts.Version
	var b bytes.Buffer
	if err := p.pages.ExecuteTemplate(&b, "page.html", s); err != nil {
		p.opts.Logger.Error("The page cannot be rendered", "err", err)
		http.Error(w, "The page cannot be rendered, see the log of the node.", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	p.write(w, b.Bytes())
}

func (p *Page) write(w http.ResponseWriter, b []byte) {
	if _, err := w.Write(b); err != nil {
		p.opts.Logger.Debug("A browser went away during an answer", "err", err)
	}
}

// flock serves /.
func (p *Page) flock(w http.ResponseWriter, r *http.Request) {
	s, at, err := p.state.get(r.Context(), p.opts)
	if err != nil {
		return // nobody is there any more
	}
	v := newFlockView(&s, at)
	p.render(w, http.StatusOK, shell{Title: v.Title, Self: v.Self, Form: form{Range: defaultRange}, Flock: v})
}

// shared is a state that is shown to all who look at about the same time.
type shared struct {
	mu     sync.Mutex
	asking chan struct{} // closed when the answer is there; nil if nobody asks
	status api.ClusterStatus
	at     time.Time
}

// get returns a state that is not older than fresh, and when it was. It fails only if ctx ends.
func (s *shared) get(ctx context.Context, o Options) (api.ClusterStatus, time.Time, error) {
	for {
		s.mu.Lock()
		if !s.at.IsZero() && o.Now().Sub(s.at) < fresh {
			defer s.mu.Unlock()
			return s.status, s.at, nil
		}
		asking := s.asking
		if asking == nil {
			s.asking = make(chan struct{})
			s.mu.Unlock()
			s.ask(ctx, o)
			continue
		}
		s.mu.Unlock()
		select {
		case <-asking:
		case <-ctx.Done():
			return api.ClusterStatus{}, time.Time{}, ctx.Err()
		}
	}
}

// ask asks for others, too: it goes on when who asks has gone.
func (s *shared) ask(ctx context.Context, o Options) {
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		close(s.asking)
		s.asking = nil
	}()
	status := o.Cluster.Status(context.WithoutCancel(ctx))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status, s.at = status, o.Now()
}
