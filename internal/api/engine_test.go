package api

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/prometheus/promql/parser"
)

func engineOptions() EngineOptions {
	return EngineOptions{MaxSamples: 100, Timeout: time.Minute, LookbackDelta: time.Minute, MaxConcurrent: 2}
}

func TestNewEngineNamesTheFlag(t *testing.T) {
	for flag, spoil := range map[string]func(*EngineOptions){
		"--query.max-samples":     func(o *EngineOptions) { o.MaxSamples = 0 },
		"--query.timeout":         func(o *EngineOptions) { o.Timeout = -time.Second },
		"--query.lookback-delta":  func(o *EngineOptions) { o.LookbackDelta = 0 },
		"--query.max-concurrency": func(o *EngineOptions) { o.MaxConcurrent = 0 },
		"--query.verify-pushdown": func(o *EngineOptions) { o.VerifyShare = 1.5 },
	} {
		opts := engineOptions()
		spoil(&opts)
		if _, err := NewEngine(opts); err == nil || !strings.Contains(err.Error(), flag) {
			t.Errorf("got %v, want an error that names %s", err, flag)
		}
	}
	if _, err := NewEngine(engineOptions()); err != nil {
		t.Error(err)
	}
}

func TestFeatures(t *testing.T) {
	got := ParsePromQLFeatures([]string{
		"promql-experimental-functions", "promql-extended-range-selectors", "promql-binop-fill-modifiers", "promql-duration-expr",
		"st-storage", "promql-per-step-stats", "promql-delayed-name-removal", "use-start-timestamps", "type-and-unit-labels",
	})
	want := PromQLFeatures{
		Parser:       parser.Options{EnableExperimentalFunctions: true, ExperimentalDurationExpr: true, EnableExtendedRangeSelectors: true, EnableBinopFillModifiers: true},
		PerStepStats: true, DelayedNameRemoval: true, UseStartTimestamps: true, TypeAndUnitLabels: true,
	}
	if got != want {
		t.Errorf("got %+v", got)
	}
}

// TestFeaturesReachTheEngine checks that a feature is off by default and works when on.
func TestFeaturesReachTheEngine(t *testing.T) {
	const experimental = "limitk(1, up)"
	opts := engineOptions()
	for _, on := range []bool{false, true} {
		opts.Features.Parser.EnableExperimentalFunctions = on
		eng, err := NewEngine(opts)
		if err != nil {
			t.Fatal(err)
		}
		if _, err = eng.NewInstantQuery(t.Context(), nil, nil, experimental, now); (err == nil) != on {
			t.Errorf("experimental functions %v: %v", on, err)
		}
	}
}

// TestQueue checks that queries wait for their turn, and say so when it does not come.
func TestQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(2)
		if got := q.GetMaxConcurrent(); got != 2 {
			t.Errorf("limit %d, want 2", got)
		}
		for range 2 {
			if _, err := q.Insert(t.Context(), "up"); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		start := time.Now()
		_, err := q.Insert(ctx, "up")
		if !isUnavailable(err) || !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Minute {
			t.Errorf("third query: got %v after %v", err, time.Since(start))
		}

		gone, leave := context.WithCancel(t.Context())
		leave()
		if _, err := q.Insert(gone, "up"); isUnavailable(err) || !errors.Is(err, context.Canceled) {
			t.Errorf("client that left: got %v", err)
		}

		let := make(chan error)
		go func() {
			_, err := q.Insert(t.Context(), "up")
			let <- err
		}()
		synctest.Wait()
		q.Delete(0)
		if err := <-let; err != nil {
			t.Errorf("query after a slot became free: %v", err)
		}
	})
}
