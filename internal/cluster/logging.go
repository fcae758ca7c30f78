package cluster

import (
	"bytes"
	"context"
	"io"
	"log"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

// throttle lets a message of one kind through once in a while. Peers that are down or
// misconfigured cause the same lines several times a second.
type throttle struct {
	every time.Duration
	mu    sync.Mutex
	last  map[string]time.Time
}

// throttleKinds bounds the memory of a throttle.
const throttleKinds = 1000

func newThrottle(every time.Duration) *throttle {
	return &throttle{every: every, last: make(map[string]time.Time)}
}

func (t *throttle) allow(kind string) bool {
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	if last, ok := t.last[kind]; ok && now.Sub(last) < t.every {
		return false
	}
	if len(t.last) >= throttleKinds {
		clear(t.last)
	}
	t.last[kind] = now
	return true
}

// kindOf cuts a message down to what repeats: the words before addresses and names.
func kindOf(msg string) string {
	if i := strings.IndexAny(msg, "0123456789'\"("); i > 0 {
		return msg[:i]
	}
	return msg
}

// gossipLog takes memberlist's log lines. refused is told of what came from a cluster
// with another name, sealed of what no key of this node opens.
type gossipLog struct {
	log     *slog.Logger
	quiet   *throttle
	refused func(label, from string)
	sealed  func(msg string)
}

func (g *gossipLog) logger() *log.Logger { return log.New(g, "", 0) }

// Write implements io.Writer for one line.
func (g *gossipLog) Write(b []byte) (int, error) {
	line := string(bytes.TrimSpace(b))
	level, msg := slog.LevelWarn, line
	if tag, rest, ok := strings.Cut(line, "] "); ok && strings.HasPrefix(tag, "[") {
		msg = strings.TrimPrefix(rest, "memberlist: ")
		if tag == "[DEBUG" || tag == "[INFO" { // joins and deaths are logged by our own delegate
			level = slog.LevelDebug
		}
	}
	if _, after, ok := strings.Cut(msg, "with unacceptable label "); ok {
		label, from, _ := strings.Cut(after, ": ")
		g.refused(strings.Trim(label, `"`), strings.TrimPrefix(from, "from="))
		return len(b), nil
	}
	if strings.Contains(msg, "could decrypt the message") || strings.Contains(msg, "remote state is not encrypted") || strings.Contains(msg, "Decrypt packet failed") {
		g.sealed(msg)
		return len(b), nil
	}
	if strings.HasPrefix(msg, "ignoring alive message") { // said by the delegate that refused it
		level = slog.LevelDebug
	}
	if level >= slog.LevelWarn && !g.quiet.allow(kindOf(msg)) {
		level = slog.LevelDebug
	}
	g.log.Log(context.Background(), level, "gossip: "+msg)
	return len(b), nil
}

// raftLog is a hclog.Logger over slog. Raft is chatty: its warnings include elections
// and followers that catch up, which are for debugging, and its errors are mostly peers
// that are down, said again at each attempt.
type raftLog struct {
	log   *slog.Logger
	quiet *throttle
	name  string
	with  []any
}

var _ hclog.Logger = (*raftLog)(nil)

func (r *raftLog) Log(level hclog.Level, msg string, args ...any) {
	to := slog.LevelDebug
	if level >= hclog.Error && r.quiet.allow(kindOf(msg)) {
		to = slog.LevelWarn
	}
	if !r.log.Enabled(context.Background(), to) {
		return
	}
	for i, a := range args {
		if f, ok := a.(hclog.Format); ok && len(f) > 0 {
			args[i] = f[1:]
		}
	}
	r.log.Log(context.Background(), to, r.name+": "+msg, append(r.with[:len(r.with):len(r.with)], args...)...)
}

func (r *raftLog) Trace(string, ...any)           {}
func (r *raftLog) Debug(msg string, args ...any)  { r.Log(hclog.Debug, msg, args...) }
func (r *raftLog) Info(msg string, args ...any)   { r.Log(hclog.Info, msg, args...) }
func (r *raftLog) Warn(msg string, args ...any)   { r.Log(hclog.Warn, msg, args...) }
func (r *raftLog) Error(msg string, args ...any)  { r.Log(hclog.Error, msg, args...) }
func (r *raftLog) IsTrace() bool                  { return false }
func (r *raftLog) IsDebug() bool                  { return r.log.Enabled(context.Background(), slog.LevelDebug) }
func (r *raftLog) IsInfo() bool                   { return r.IsDebug() }
func (r *raftLog) IsWarn() bool                   { return true }
func (r *raftLog) IsError() bool                  { return true }
func (r *raftLog) ImpliedArgs() []any             { return r.with }
func (r *raftLog) Name() string                   { return r.name }
func (r *raftLog) Named(name string) hclog.Logger { return r.ResetNamed(r.name + "." + name) }
func (r *raftLog) SetLevel(hclog.Level)           {}
func (r *raftLog) GetLevel() hclog.Level          { return hclog.Debug }

func (r *raftLog) With(args ...any) hclog.Logger {
	c := *r
	c.with = append(r.with[:len(r.with):len(r.with)], args...)
	return &c
}

func (r *raftLog) ResetNamed(name string) hclog.Logger {
	c := *r
	c.name = name
	return &c
}

func (r *raftLog) StandardLogger(o *hclog.StandardLoggerOptions) *log.Logger {
	return log.New(r.StandardWriter(o), "", 0)
}

func (r *raftLog) StandardWriter(*hclog.StandardLoggerOptions) io.Writer { return raftLogLine{r} }

type raftLogLine struct{ *raftLog }

func (w raftLogLine) Write(b []byte) (int, error) {
	w.Log(hclog.Warn, string(bytes.TrimSpace(b)))
	return len(b), nil
}
