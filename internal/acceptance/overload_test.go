package acceptance

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/prometheus/prompb"
)

const (
	// overloadSeries is how many series each sender has; a request has a sample of each.
	overloadSeries  = 500
	overloadSenders = 12
	// overloadMemory is GOMEMLIMIT of each node, and overloadRSS what it may really take.
	overloadMemory = 512 << 20
	overloadRSS    = 640 << 20
)

// overloadTime is how long the overload lasts: 20 s, or what STARLING_OVERLOAD says.
func overloadTime(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("STARLING_OVERLOAD")
	if text == "" {
		return 20 * time.Second
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("STARLING_OVERLOAD: %v", err)
	}
	return d
}

// TestOverload offers three nodes ten times what they take. They stay up, their memory
// stays bounded, whoever is refused may try again, and what was acknowledged is there.
func TestOverload(t *testing.T) {
	requireAcceptance(t)
	program := buildStarling(t)
	t.Setenv("GOMEMLIMIT", strconv.Itoa(overloadMemory))
	processes := newProcesses(t, 3)
	for _, p := range processes {
		p.start(t, program)
	}
	awaitProcesses(t, processes)

	l := &overload{t: t, processes: processes, client: &http.Client{
		Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 400, MaxConnsPerHost: 400},
	}}
	for range overloadSenders {
		l.senders = append(l.senders, newSender(t, len(l.senders)))
	}
	sustained := l.closedLoop(5 * time.Second)
	stop := make(chan struct{})
	var watching sync.WaitGroup
	highest := make([]int64, len(processes))
	watching.Go(func() { watchMemory(t, processes, highest, stop) })
	l.openLoop(10*sustained, overloadTime(t))
	close(stop)
	watching.Wait()

	t.Logf("sustained %.0f requests of %d samples a second; offered ten times that for %s: %d acknowledged, %d refused with 503, %d without an answer, %d not sent for want of connections",
		sustained, overloadSeries, overloadTime(t), l.acknowledged.Load(), l.refused.Load(), l.unanswered.Load(), l.unsent.Load())
	for i, p := range processes {
		t.Logf("%s took at most %d MiB", p.base, highest[i]>>20)
		if highest[i] > overloadRSS {
			t.Errorf("%s took %d bytes of memory, want at most %d", p.base, highest[i], overloadRSS)
		}
	}
	if l.refused.Load() == 0 {
		t.Error("nothing was refused: this was no overload")
	}
	awaitProcesses(t, processes)
	for _, p := range processes {
		for _, s := range l.senders {
			s.check(t, p.base)
		}
	}
	stopCleanly(t, processes)
}

// overload sends requests and judges the answers.
type overload struct {
	t         *testing.T
	processes []*process
	client    *http.Client
	senders   []*sender

	acknowledged, refused, unanswered, unsent atomic.Int64
}

// sender has series of its own. Each request has a timestamp of its own, which tells
// whether what it brought is there.
type sender struct {
	number   int
	start    time.Time
	template []byte // a request, uncompressed
	times    []int  // where in it timestamps are

	mu    sync.Mutex
	sent  int64
	acked []int64 // timestamps
}

const placeholder = int64(1) << 41 // a timestamp of as many bytes as the real ones

func newSender(t *testing.T, number int) *sender {
	t.Helper()
	var req prompb.WriteRequest
	for i := range overloadSeries {
		req.Timeseries = append(req.Timeseries, prompb.TimeSeries{
			Labels: []prompb.Label{
				{Name: "__name__", Value: "overload"}, {Name: "instance", Value: "10.0.0.1:9100"}, {Name: "job", Value: "acceptance"},
				{Name: "sender", Value: strconv.Itoa(number)}, {Name: "series", Value: strconv.Itoa(i)},
			},
			Samples: []prompb.Sample{{Timestamp: placeholder, Value: float64(i)}},
		})
	}
	raw, err := req.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	s := &sender{number: number, start: time.Now(), template: raw}
	mark := binary.AppendUvarint([]byte{0x10}, uint64(placeholder))
	for at := 0; ; {
		next := bytes.Index(raw[at:], mark)
		if next < 0 {
			break
		}
		s.times = append(s.times, at+next+1)
		at += next + len(mark)
	}
	if len(s.times) != overloadSeries {
		t.Fatalf("%d timestamps in a request of %d series", len(s.times), overloadSeries)
	}
	return s
}

// next returns another request. It is cheap, so that the load can be more than the nodes
// on the same machine can take: only timestamps change, and snappy gets literals.
func (s *sender) next() (at int64, body []byte) {
	s.mu.Lock()
	s.sent++
	at = s.start.UnixMilli() + s.sent
	s.mu.Unlock()
	raw := bytes.Clone(s.template)
	for _, i := range s.times {
		binary.PutUvarint(raw[i:], uint64(at))
	}
	body = binary.AppendUvarint(make([]byte, 0, len(raw)+64), uint64(len(raw)))
	for len(raw) > 0 {
		n := min(len(raw), 1<<16)
		body = append(body, 61<<2, byte(n-1), byte((n-1)>>8)) // a literal of up to 64 KiB
		body = append(body, raw[:n]...)
		raw = raw[n:]
	}
	return at, body
}

// send sends one request and judges its answer.
func (l *overload) send(s *sender, base string) {
	at, body := s.next()
	req, err := http.NewRequestWithContext(l.t.Context(), http.MethodPost, base+"/api/v1/write", bytes.NewReader(body))
	if err != nil {
		l.t.Error(err)
		return
	}
	req.Header.Set("Content-Type", "application/x-protobuf")
	req.Header.Set("Content-Encoding", "snappy")
	resp, err := l.client.Do(req)
	if err != nil {
		l.unanswered.Add(1)
		return
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	switch {
	case resp.StatusCode/100 == 2:
		l.acknowledged.Add(1)
		s.mu.Lock()
		s.acked = append(s.acked, at)
		s.mu.Unlock()
	case resp.StatusCode == http.StatusServiceUnavailable && resp.Header.Get("Retry-After") != "":
		l.refused.Add(1)
	default:
		l.t.Errorf("a write under load is answered %d, which no sender repeats in time: %.200s", resp.StatusCode, text)
	}
}

// closedLoop has each sender wait for its answers, three requests at a time, and returns
// how many were acknowledged a second.
func (l *overload) closedLoop(d time.Duration) float64 {
	begin, before := time.Now(), l.acknowledged.Load()
	var wg sync.WaitGroup
	for worker := range 3 * len(l.senders) {
		s := l.senders[worker%len(l.senders)]
		wg.Go(func() {
			for i := worker; time.Since(begin) < d; i++ {
				l.send(s, l.processes[i%len(l.processes)].base)
			}
		})
	}
	wg.Wait()
	return float64(l.acknowledged.Load()-before) / time.Since(begin).Seconds()
}

// openLoop sends at a rate, whatever the answers, over a thousand connections at most.
func (l *overload) openLoop(rate float64, d time.Duration) {
	places := make(chan struct{}, 1000)
	var wg sync.WaitGroup
	begin := time.Now()
	for i := 0; time.Since(begin) < d; i++ {
		if ahead := time.Duration(float64(i)/rate*float64(time.Second)) - time.Since(begin); ahead > 0 {
			<-time.After(ahead)
		}
		select {
		case places <- struct{}{}:
		default:
			l.unsent.Add(1)
			continue
		}
		wg.Go(func() {
			l.send(l.senders[i%len(l.senders)], l.processes[i%len(l.processes)].base)
			<-places
		})
	}
	wg.Wait()
}

// watchMemory notes the greatest resident set of each process.
func watchMemory(t *testing.T, processes []*process, highest []int64, stop <-chan struct{}) {
	ticks := time.NewTicker(250 * time.Millisecond)
	defer ticks.Stop()
	for {
		for i, p := range processes {
			rss, err := residentBytes(p.cmd.Process.Pid)
			if err != nil {
				t.Error(err)
				return
			}
			highest[i] = max(highest[i], rss)
		}
		select {
		case <-stop:
			return
		case <-ticks.C:
		}
	}
}

func residentBytes(pid int) (int64, error) {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "statm"))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(b))
	if len(fields) < 2 {
		return 0, fmt.Errorf("statm of process %d is %q", pid, b)
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize()), err
}

// check reads all series of the sender from one node.
func (s *sender) check(t *testing.T, base string) {
	t.Helper()
	there := samplesOf(t, base, fmt.Sprintf(`overload{sender="%d"}[1h]`, s.number), "series")
	lost := 0
	for i := range overloadSeries {
		value := strconv.Itoa(i)
		for _, at := range s.acked {
			if there[value][at] != value {
				lost++
			}
		}
		if len(there[value]) > int(s.sent) {
			t.Errorf("%s has %d samples of a series that %d were sent of", base, len(there[value]), s.sent)
		}
	}
	if lost > 0 {
		t.Errorf("%s lacks %d acknowledged samples of sender %d", base, lost, s.number)
	}
}
