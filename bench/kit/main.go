//go:build linux

package kit

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"
)

// Main is the main function of a benchmark that starts nodes: run is given the arguments of the
// command, and ends early when the process is asked to end.
func Main(name string, run func(ctx context.Context, args []string) error) {
	// The nodes are to end with the thread that starts them; this one ends with the process.
	runtime.LockOSThread()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, name+":", err)
		os.Exit(1)
	}
}
