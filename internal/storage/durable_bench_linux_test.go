package storage

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/starling-tsdb/starling/internal/series"
)

// BenchmarkDurable compares --storage.wal-sync=commit with off: eight senders append requests
// of 2000 known series, for short whiles in turn to a store of either kind, so that what
// else the machine does meets both. One operation is a while for each.
//
// Two things would make it a comparison of something else. A sender that repeats the series
// of its last request finds them in the CPU's cache if it was not made to wait meanwhile, so
// each goes through 8000. And all timestamps lie within minutes: a block that is cut has
// syncs of its own, and those of one store would fall into the whiles of the other.
//
// The figures are medians: the ratio of whiles that followed each other, samples per second
// and CPU time per sample with either, how many appends shared a sync of the log, and the
// time of one of those, and of a sync of 64 KiB when there is nothing else to do. Simulated
// syncs hold a thread of the operating system, as those of a disk do.
//
//	go test -run '^$' -bench Durable -benchtime 20x ./internal/storage
func BenchmarkDurable(b *testing.B) {
	for _, tc := range []struct {
		name  string
		fsync func(*os.File) error
	}{
		{"this disk", (*os.File).Sync},
		{"sync=200us", sleepingSync(200 * time.Microsecond)},
		{"sync=1ms", sleepingSync(time.Millisecond)},
		{"sync=2ms", sleepingSync(2 * time.Millisecond)},
	} {
		b.Run(tc.name, func(b *testing.B) {
			off := newPair(b, SyncOff, tc.fsync)
			commit := newPair(b, SyncCommit, tc.fsync)
			for i := range b.N {
				// Who is first is in the state that the other has left the machine in.
				for _, p := range [][]*pair{{off, commit}, {commit, off}}[i%2] {
					p.run(b)
				}
			}
			b.ReportMetric(0, "ns/op")
			var ratios []float64
			for i := range b.N {
				ratios = append(ratios, 100*commit.rates[i]/off.rates[i])
			}
			b.ReportMetric(median(ratios), "commit-%-of-off")
			for name, p := range map[string]*pair{"off": off, "commit": commit} {
				b.ReportMetric(median(p.rates), name+"-samples/s")
				b.ReportMetric(median(p.cpu), name+"-cpu-us/sample")
			}
			b.ReportMetric(float64(b.N*benchRequests)/float64(len(commit.syncs)), "appends/sync")
			b.ReportMetric(median(commit.syncs), "busy-sync-us")
			b.ReportMetric(syncTime(b, tc.fsync), "sync-us")
		})
	}
}

// benchRequests is the number of requests of a while.
const benchRequests = 200

// pair is one of the two stores that are compared, with its eight senders.
type pair struct {
	store   *Store
	senders [8]sender
	step    int       // the newest request: one clock for all senders
	rates   []float64 // of each while, in samples a second
	cpu     []float64 // of each while, in microseconds a sample

	mu    sync.Mutex
	syncs []float64 // in microseconds
}

// sender sends requests for each of its targets in turn.
type sender struct {
	targets [4][]*series.Handle
	next    int
}

func newPair(b *testing.B, mode SyncMode, fsync func(*os.File) error) *pair {
	b.Helper()
	p := &pair{}
	p.store = mustOpen(b, benchOptions(b, mode), hooks{fsync: func(f *os.File) error {
		start := time.Now()
		err := fsync(f)
		p.mu.Lock()
		defer p.mu.Unlock()
		p.syncs = append(p.syncs, float64(time.Since(start).Microseconds()))
		return err
	}})
	for i := range p.senders {
		for j := range p.senders[i].targets {
			p.senders[i].targets[j] = benchHandles(i*len(p.senders[i].targets) + j)
		}
	}
	p.run(b) // creates the series
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rates, p.cpu, p.syncs = nil, nil, nil
	return p
}

// run lets the senders send a number of requests together: to the end, all of them send.
func (p *pair) run(b *testing.B) {
	b.Helper()
	var begun atomic.Int64
	start, cpu := time.Now(), cpuTime(b)
	var wg sync.WaitGroup
	for i := range p.senders {
		s := &p.senders[i]
		wg.Go(func() {
			for n := begun.Add(1); n <= benchRequests; n = begun.Add(1) {
				handles := s.targets[s.next%len(s.targets)]
				s.next++
				out, err := p.store.Append(context.Background(), benchBatch(handles, at(time.Duration(p.step+int(n))*100*time.Millisecond)))
				if err != nil || len(out.Refusals) > 0 {
					b.Errorf("append: %v, %d refusals", err, len(out.Refusals))
				}
			}
		})
	}
	wg.Wait()
	p.step += benchRequests
	p.rates = append(p.rates, benchRequests*benchSeries/time.Since(start).Seconds())
	p.cpu = append(p.cpu, float64((cpuTime(b)-cpu).Nanoseconds())/1e3/(benchRequests*benchSeries))
}

func median(values []float64) float64 {
	values = slices.Sorted(slices.Values(values))
	return values[len(values)/2]
}

// sleepingSync is a sync that takes d.
func sleepingSync(d time.Duration) func(*os.File) error {
	return func(*os.File) error {
		ts := syscall.NsecToTimespec(d.Nanoseconds())
		err := syscall.Nanosleep(&ts, &ts)
		for err == syscall.EINTR {
			err = syscall.Nanosleep(&ts, &ts)
		}
		return err
	}
}

// syncTime is the median time in microseconds that a sync takes after 64 KiB were appended to
// a file.
func syncTime(b *testing.B, fsync func(*os.File) error) float64 {
	b.Helper()
	f, err := os.Create(filepath.Join(b.TempDir(), "file"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	var took []float64
	for range 50 {
		if _, err := f.Write(make([]byte, 64<<10)); err != nil {
			b.Fatal(err)
		}
		start := time.Now()
		if err := fsync(f); err != nil {
			b.Fatal(err)
		}
		took = append(took, float64(time.Since(start).Microseconds()))
	}
	return median(took)
}
