package kit

import (
	"fmt"
	"os"
	"sync"
	"time"
)

// Progress is one line on standard error that is written again and again.
type Progress struct {
	mu sync.Mutex
	// prefix says which of all measurements runs.
	prefix  string
	written bool
}

// Show writes the line anew.
func (p *Progress) Show(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.written = true
	fmt.Fprintf(os.Stderr, "\r\033[K%s %s%s", time.Now().Format(time.TimeOnly), p.prefix, fmt.Sprintf(format, args...))
}

// Begin says which measurement of how many comes.
func (p *Progress) Begin(n, all int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.prefix = fmt.Sprintf("[%d/%d] ", n, all)
}

// End leaves the line as it is.
func (p *Progress) End() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.written {
		fmt.Fprintln(os.Stderr)
	}
	p.written = false
}
