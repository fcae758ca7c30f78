package storage

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
)

// A sender that gave up waiting sends again what the TSDB has and the disk has not.
func TestDuplicateOfAnUnsyncedAppendWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDisk()
		s := mustOpen(t, testOptions(t.TempDir()), hooks{fsync: d.fsync})
		b := batch(floats(name("a"), float64(at(0)), 1))
		gate := make(chan struct{})
		d.before = func() error { <-gate; return nil }
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := s.Append(ctx, b); !errors.Is(err, context.Canceled) {
				t.Errorf("the first append: %v", err)
			}
		})
		synctest.Wait()
		cancel()
		wg.Wait()

		confirmed := make(chan error, 1)
		go func() {
			_, err := s.Append(t.Context(), b)
			confirmed <- err
		}()
		synctest.Wait()
		select {
		case err := <-confirmed:
			t.Errorf("the duplicate is answered before a sync, with %v", err)
			close(gate)
		default:
			close(gate)
			if err := <-confirmed; err != nil {
				t.Error(err)
			}
		}
	})
}
