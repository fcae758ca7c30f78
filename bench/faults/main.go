//go:build linux

// Command faults runs the fault suite on the sources of this repository, and prints a
// table of faults and what came of them.
//
//	go run ./bench/faults                      all faults
//	go run ./bench/faults -run 'kill|power'    those whose names match
//	go run ./bench/faults -short               a selection of few minutes
//	go run ./bench/faults -secured             with everything encrypted
//	go run ./bench/faults -list                their names
//	go run ./bench/faults -mistakes            whether the suite finds mistakes
//
// It runs at the top of the repository, on Linux, as root. The exit status is 0 if every
// row passed, 1 if one failed, 2 if the suite could not run.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"syscall"
	"time"

	"github.com/starling-tsdb/starling/internal/faults"
)

var errFailed = errors.New("not every row passed")

func main() {
	pattern := flag.String("run", "", "run only what matches this regular `expression`")
	short := flag.Bool("short", false, "run the short selection")
	secured := flag.Bool("secured", false, "encrypt all traffic of all nodes, and have clients show certificates and passwords")
	mistakes := flag.Bool("mistakes", false, "build the program with one mistake after the other, and tell what finds it")
	list := flag.Bool("list", false, "print the names and run nothing")
	logs := flag.String("logs", "bin/faults", "where the nodes' logs of failed rows are kept")
	work := flag.String("work", os.TempDir(), "where data of the nodes is kept while they run")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	match, err := regexp.Compile(*pattern)
	rows := chosen(faults.Rows(), func(r faults.Row) bool {
		return err == nil && match.MatchString(r.Name) && (r.Short || !*short)
	})
	wrong := chosen(faults.Mistakes(), func(m faults.Mistake) bool { return err == nil && match.MatchString(m.Name) })
	switch {
	case err != nil:
	case *list && *mistakes:
		printNames(wrong, func(m faults.Mistake) string { return m.Name })
	case *list:
		printNames(rows, func(r faults.Row) string { return r.Name })
	case *mistakes:
		err = setUp(*work, *logs, *secured, func(s *suite) error { return s.find(ctx, wrong) })
	default:
		err = setUp(*work, *logs, *secured, func(s *suite) error { return s.run(ctx, rows) })
	}
	switch {
	case errors.Is(err, errFailed):
		os.Exit(1)
	case err != nil:
		fmt.Fprintln(os.Stderr, "faults:", err)
		os.Exit(2)
	}
}

func chosen[T any](all []T, want func(T) bool) []T {
	return slices.DeleteFunc(all, func(t T) bool { return !want(t) })
}

func printNames[T any](all []T, name func(T) string) {
	for _, t := range all {
		fmt.Println(name(t))
	}
}

// suite is what rows and mistakes are run with.
type suite struct {
	config  faults.Config
	builder *faults.Builder
}

// setUp prepares a suite, uses it, and cleans up.
func setUp(work, logs string, secured bool, use func(*suite) error) (err error) {
	if err := faults.Available(); err != nil {
		fmt.Println("skipped: the fault suite", err)
		return nil
	}
	if err := faults.Sweep(work); err != nil {
		return err
	}
	dir, remove, err := faults.WorkDir(work)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remove()) }()
	if logs, err = filepath.Abs(logs); err != nil {
		return err
	}
	s := &suite{builder: &faults.Builder{Repository: ".", Dir: dir}}
	s.config = faults.Config{Dir: dir, Logs: logs, Secured: secured, Program: func(ctx context.Context, injected bool) (string, error) {
		if injected {
			return s.builder.Program(ctx, "injected", faults.Injected())
		}
		return s.builder.Program(ctx, "plain", nil)
	}}
	return use(s)
}

// run runs rows and prints the table.
func (s *suite) run(ctx context.Context, rows []faults.Row) error {
	start, failed := time.Now(), 0
	faults.Header(os.Stdout)
	for _, row := range rows {
		result, err := faults.Run(ctx, s.config, row)
		if ctx.Err() != nil {
			return err
		}
		if err != nil {
			result.Row = row.Name
			result.Failures = append(result.Failures, "the row could not be run: "+err.Error())
		}
		result.Write(os.Stdout)
		if len(result.Failures) > 0 {
			failed++
		}
	}
	fmt.Printf("%d faults, %d failed, after %s\n", len(rows), failed, time.Since(start).Round(time.Second))
	return verdict(failed)
}

// find tells of mistakes what finds them.
func (s *suite) find(ctx context.Context, mistakes []faults.Mistake) error {
	start, missed := time.Now(), 0
	for _, m := range mistakes {
		caught, err := faults.Find(ctx, s.config, s.builder, m)
		if err != nil {
			return err
		}
		caught.Write(os.Stdout)
		if caught.By == "" {
			missed++
		}
	}
	fmt.Printf("%d mistakes, %d not found, after %s\n", len(mistakes), missed, time.Since(start).Round(time.Second))
	return verdict(missed)
}

func verdict(failed int) error {
	if failed > 0 {
		return errFailed
	}
	return nil
}
