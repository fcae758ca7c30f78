//go:build linux

package main

import (
	"fmt"
	"os"
	"sync"
	"time"
)

// progress is one line on standard error that is written again and again.
type progress struct {
	mu sync.Mutex
	// prefix says which of all measurements runs.
	prefix  string
	written bool
}

func (p *progress) show(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.written = true
	fmt.Fprintf(os.Stderr, "\r\033[K%s %s%s", time.Now().Format(time.TimeOnly), p.prefix, fmt.Sprintf(format, args...))
}

// begin says which measurement of how many comes.
func (p *progress) begin(n, all int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.prefix = fmt.Sprintf("[%d/%d] ", n, all)
}

// end leaves the line as it is.
func (p *progress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.written {
		fmt.Fprintln(os.Stderr)
	}
	p.written = false
}
