package drive

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/starling-tsdb/starling/bench/ingest/workload"
	"github.com/starling-tsdb/starling/bench/kit"
)

const (
	// What Prometheus does by default, but for patience: its queues never give up.
	minBackoff = 30 * time.Millisecond
	maxBackoff = 5 * time.Second
	timeout    = 30 * time.Second
	patience   = 3 * time.Minute
)

// sender sends some batches of every scrape, in order, over one connection.
type sender struct {
	load     *Load
	number   int
	url      string
	client   *http.Client
	header   http.Header
	batches  []int
	encoders map[int]*workload.Encoder
	// free are buffers of bodies that were sent. There are as many as batches, so that
	// one scrape at most is made ahead.
	free chan []byte
	// share of all series that this sender has, for the rate.
	share float64
}

// body is a request that is ready to be sent.
type body struct {
	request
	bytes   []byte
	samples int
}

func newSender(l *Load, number, all int) *sender {
	o := l.opts
	s := &sender{
		load: l, number: number, url: o.Targets[number%len(o.Targets)] + "/api/v1/write", header: workload.Header(o.Version),
		client:   &http.Client{Timeout: timeout, Transport: &http.Transport{MaxConnsPerHost: 1, MaxIdleConnsPerHost: 1}},
		encoders: map[int]*workload.Encoder{},
	}
	series := 0
	for b := number; b < o.Shape.Batches(); b += all {
		s.batches = append(s.batches, b)
		s.encoders[b] = workload.NewEncoder(o.Shape, b, o.Version)
		series += min(o.Shape.Batch, o.Shape.Series-b*o.Shape.Batch)
	}
	s.share = float64(series) / float64(o.Shape.Series)
	s.free = make(chan []byte, len(s.batches))
	for range s.batches {
		s.free <- nil
	}
	return s
}

// run makes bodies in one goroutine and sends them in another, which is the caller's.
func (s *sender) run(ctx context.Context, from, to int) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	ready := make(chan body, len(s.batches))
	made := make(chan struct{})
	go func() {
		defer close(made)
		defer close(ready)
		if err := s.encode(ctx, from, to, ready); err != nil {
			stop(err)
		}
	}()
	err := s.send(ctx, ready)
	if err != nil {
		stop(err)
	}
	<-made
	return context.Cause(ctx)
}

// encode makes all bodies, as far ahead as there are buffers.
func (s *sender) encode(ctx context.Context, from, to int, ready chan<- body) error {
	for scrape := from; scrape < to; scrape++ {
		for _, batch := range s.batches {
			var buf []byte
			select {
			case buf = <-s.free:
			case <-ctx.Done():
				return ctx.Err()
			}
			b, samples, err := s.encoders[batch].Body(buf, scrape)
			if err != nil {
				return err
			}
			ready <- body{request{batch, scrape}, b, samples} // it has room for all buffers
		}
	}
	return nil
}

// send sends what is ready.
func (s *sender) send(ctx context.Context, ready <-chan body) error {
	start, sent, left := time.Now(), 0, 0
	for b := range ready {
		if left == 0 {
			if err := s.load.steps.begin(ctx, b.scrape); err != nil {
				return err
			}
			left = len(s.batches)
		}
		if s.load.opts.Rate > 0 {
			due := time.Duration(float64(sent) / (s.load.opts.Rate * s.share) * float64(time.Second))
			if err := kit.Pause(ctx, due-time.Since(start)); err != nil {
				return err
			}
		}
		if err := s.insist(ctx, b); err != nil {
			return err
		}
		sent += b.samples
		s.free <- b.bytes
		if left--; left == 0 {
			s.load.steps.finish(s.number, b.scrape)
		}
	}
	return nil
}

// insist sends a body until it is taken or given up for good.
func (s *sender) insist(ctx context.Context, b body) error {
	if b.samples == 0 {
		return nil
	}
	backoff := minBackoff
	for begun := time.Now(); ; {
		start := time.Now()
		a, err := s.post(ctx, b.bytes)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil && a.status/100 == 2:
			s.load.took(b.samples, time.Since(start))
			return nil
		case err == nil && a.status/100 != 5:
			s.load.drop(b.request, b.samples, s.why(a, nil))
			return nil
		case time.Since(begun) > patience:
			return fmt.Errorf("not within %s: %s", patience, s.why(a, err))
		}
		s.load.again(a.status == http.StatusServiceUnavailable, s.why(a, err))
		wait := backoff
		if a.retryAfter > 0 {
			wait = a.retryAfter
		}
		if err := kit.Pause(ctx, wait); err != nil {
			return err
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

// answer is what a server said of a request.
type answer struct {
	status     int
	text       string
	retryAfter time.Duration
}

// why describes an attempt that was no success.
func (s *sender) why(a answer, err error) string {
	if err != nil {
		return fmt.Sprintf("%s: %v", s.url, err)
	}
	return fmt.Sprintf("%s answered %d: %s", s.url, a.status, a.text)
}

func (s *sender) post(ctx context.Context, b []byte) (a answer, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url, bytes.NewReader(b))
	if err != nil {
		return a, err
	}
	req.Header = s.header
	resp, err := s.client.Do(req)
	if err != nil {
		return a, err
	}
	defer resp.Body.Close()
	const excerpt = 200
	text, err := io.ReadAll(io.LimitReader(resp.Body, excerpt))
	if err == nil {
		_, err = io.Copy(io.Discard, resp.Body)
	}
	if seconds, bad := strconv.Atoi(resp.Header.Get("Retry-After")); bad == nil {
		a.retryAfter = time.Duration(seconds) * time.Second
	}
	a.status, a.text = resp.StatusCode, string(bytes.TrimSpace(text))
	return a, err
}
