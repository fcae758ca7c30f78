package events

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"testing"
	"time"
)

func texts(l *Log) string {
	var all []string
	for _, e := range l.Latest() {
		all = append(all, strings.TrimSpace(fmt.Sprintf("%d×%s %s", e.Count, e.Text, e.Detail)))
	}
	return strings.Join(all, "\n")
}

func TestLatest(t *testing.T) {
	var out bytes.Buffer
	l := &Log{}
	logger := slog.New(l.Handler(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelWarn})))
	logger.Debug("nobody is told")
	logger.Info("a node is there", "node", "a")
	logger.With("part", "x y", "component", "cluster").WithGroup("g").Error("a write failed", "err", errors.New("no\n\t\"disk\""), "stack", "deep")
	logger.Info("a node is there", "node", "b", "hint", "")
	logger.Info("a node is there", "node", "a")
	want := "2×a node is there node=a\n1×a node is there node=b\n" + `1×a write failed part="x y" g.err="no \"disk\""`
	if got := texts(l); got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
	if got := out.String(); strings.Contains(got, "a node is there") || !strings.Contains(got, "a write failed") || !strings.Contains(got, "stack=deep") {
		t.Errorf("logged at level warn: %s", got)
	}
}

// What others say by the same logger is not remembered.
func TestOnlyOwnCodeCounts(t *testing.T) {
	l := &Log{}
	var pcs [1]uintptr
	runtime.Callers(0, pcs[:]) // within package runtime
	if err := l.Handler(slog.DiscardHandler).Handle(context.Background(), slog.NewRecord(time.Now(), slog.LevelError, "m", pcs[0])); err != nil {
		t.Fatal(err)
	}
	if got := texts(l); got != "" {
		t.Errorf("remembered: %s", got)
	}
}

// What is repeated a thousand times leaves the rest alone, and all is bounded.
func TestBounds(t *testing.T) {
	l := &Log{}
	logger := slog.New(l.Handler(slog.DiscardHandler))
	for i := range most {
		l.add(Event{Text: fmt.Sprint("rare ", i)})
	}
	for i := range 1000 {
		logger.Warn("again", "try", i, "why", strings.Repeat("é", maxDetail))
	}
	latest := l.Latest()
	rare := 0
	for _, e := range latest {
		if strings.HasPrefix(e.Text, "rare") {
			rare++
		}
		if len(e.Detail) > maxDetail+8 || strings.ContainsRune(e.Detail, '\uFFFD') {
			t.Errorf("%d bytes of details: %q", len(e.Detail), e.Detail)
		}
	}
	if len(latest) != most || rare != most-mostAlike || !strings.HasPrefix(latest[0].Detail, "try=999 ") {
		t.Errorf("%d events, %d of them rare, the newest %q", len(latest), rare, latest[0].Detail)
	}
}
