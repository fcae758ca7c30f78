// Package events remembers the last of what a node told operators in its log, for those who look
// at it in another way.
//
// What matters to an operator is logged at level info or above already, by those who know; there
// is no second list of it. Only what Starling's own code says counts: the TSDB, say, logs each of
// its compactions. What is remembered does not depend on --log.level.
package events

import (
	"context"
	"log/slog"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// most is how many events are remembered, and mostAlike how many of them with one text: what
	// is said again and again does not displace the rest.
	most, mostAlike = 100, 10
	// maxDetail bounds an event's details, in bytes.
	maxDetail = 600
	// own begins the names of Starling's functions.
	own = "github.com/starling-tsdb/starling/"
)

// Event is something that a node told.
type Event struct {
	// Time is when it was told last, and Count how often.
	Time  time.Time
	Count int
	Level slog.Level
	Text  string
	// Detail is what belongs to the text, as key=value.
	Detail string
}

// Log remembers events. It may be used concurrently.
type Log struct {
	mu     sync.Mutex
	events []Event // the oldest first
}

// Latest returns what was told last, the newest first.
func (l *Log) Latest() []Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	latest := slices.Clone(l.events)
	slices.Reverse(latest)
	return latest
}

func (l *Log) add(e Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	alike, first := 0, 0
	for i, o := range l.events {
		switch {
		case o.Text != e.Text || o.Level != e.Level:
			continue
		case o.Detail == e.Detail:
			e.Count += o.Count
			l.events = append(slices.Delete(l.events, i, i+1), e)
			return
		case alike == 0:
			first = i
		}
		alike++
	}
	switch {
	case alike >= mostAlike:
		l.events = slices.Delete(l.events, first, first+1)
	case len(l.events) >= most:
		l.events = slices.Delete(l.events, 0, 1)
	}
	l.events = append(l.events, e)
}

// Handler remembers what passes through it on the way to the next handler.
func (l *Log) Handler(next slog.Handler) slog.Handler { return handler{next: next, log: l} }

type handler struct {
	next slog.Handler
	log  *Log
	// with is the detail that belongs to all records, and group begins the keys of others.
	with, group string
}

// Enabled implements slog.Handler.
func (h handler) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelInfo || h.next.Enabled(ctx, level)
}

// Handle implements slog.Handler.
func (h handler) Handle(ctx context.Context, r slog.Record) error {
	if r.Level >= slog.LevelInfo && ours(r.PC) {
		detail := h.with
		r.Attrs(func(a slog.Attr) bool {
			detail = appendAttr(detail, h.group, a)
			return true
		})
		h.log.add(Event{Time: r.Time, Count: 1, Level: r.Level, Text: cut(r.Message), Detail: cut(detail)})
	}
	if !h.next.Enabled(ctx, r.Level) {
		return nil
	}
	return h.next.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	for _, a := range attrs {
		h.with = appendAttr(h.with, h.group, a)
	}
	h.next = h.next.WithAttrs(attrs)
	return h
}

// WithGroup implements slog.Handler.
func (h handler) WithGroup(name string) slog.Handler {
	h.group += name + "."
	h.next = h.next.WithGroup(name)
	return h
}

// ours tells whether Starling's own code is at a program counter.
func ours(pc uintptr) bool {
	frame, _ := runtime.CallersFrames([]uintptr{pc}).Next()
	return strings.HasPrefix(frame.Function, own)
}

// appendAttr adds one attribute. Stacks, and which part of the program it was, are for the log
// alone.
func appendAttr(detail, group string, a slog.Attr) string {
	if a.Key == "stack" || a.Key == "component" || a.Equal(slog.Attr{}) {
		return detail
	}
	value := strings.Join(strings.Fields(a.Value.Resolve().String()), " ")
	if value == "" {
		return detail
	}
	if strings.ContainsAny(value, " =\"") {
		value = strconv.Quote(value)
	}
	if detail != "" {
		detail += " "
	}
	return detail + group + a.Key + "=" + value
}

// cut bounds a text, and makes it valid UTF-8.
func cut(s string) string {
	if len(s) > maxDetail {
		s = s[:maxDetail] + "…"
	}
	return strings.ToValidUTF8(s, "?")
}
