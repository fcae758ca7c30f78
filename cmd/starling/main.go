// Command starling runs one node of a Starling cluster.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/prometheus/common/promslog"

	"github.com/starling-tsdb/starling/internal/config"
	"github.com/starling-tsdb/starling/internal/node"
)

// Exit statuses: a wrong command line is 2, everything else that stops a node is 1.
const (
	exitFailure = 1
	exitUsage   = 2
)

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	cl := newCommandLine()
	command, err := cl.app.Parse(args)
	if err != nil {
		fmt.Fprintf(os.Stderr, "starling: %v\n", err)
		var wrongValue *config.Error
		if errors.As(err, &wrongValue) {
			return exitFailure
		}
		fmt.Fprintln(os.Stderr, "starling --help lists commands and flags")
		return exitUsage
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// A second signal ends the process at once.
	context.AfterFunc(ctx, stop)
	defer stop()
	switch administer := cl.cluster.run[command]; {
	case administer != nil:
		err = cl.administer(ctx, administer)
	case command == cl.imports.cmd.FullCommand():
		err = cl.importSamples(ctx, os.Stdout)
	case command == cl.health.FullCommand():
		err = cl.checkHealth(ctx)
	default:
		err = cl.serve(ctx)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "starling: %v\n", err)
		if errors.Is(err, errUsage) {
			return exitUsage
		}
		return exitFailure
	}
	return 0
}

func (cl *commandLine) serve(ctx context.Context) error {
	cl.config.Tracing.Variables = otelVariables(os.Environ())
	if err := cl.config.Check(); err != nil {
		return err
	}
	logger := promslog.New(&cl.log)
	if err := cl.limitMemory(logger); err != nil {
		logger.Warn("The node runs without a soft limit of memory", "err", err)
	}
	defer leaveRoom()()
	cl.makeUpForSyncs()
	// A Prometheus reads its files anew when it is sent SIGHUP. A node does so by itself, and
	// must not end for an operator who is used to sending it.
	signal.Ignore(syscall.SIGHUP)
	n, err := node.New(node.Options{Config: cl.config, Flags: cl.values(), Logger: logger})
	if err != nil {
		return err
	}
	return n.Run(ctx)
}
