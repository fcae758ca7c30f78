package history

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/prometheus/storage/remote"
	"golang.org/x/time/rate"
)

const (
	writePath    = "/api/v1/write"
	maxErrorText = 1 << 10
	// maxReasons bounds the reasons for refusals that are told, each of which is the text of one
	// answer.
	maxReasons = 5
	// sendTimeout is more than a node takes to answer.
	sendTimeout = time.Minute
	minBackoff  = 500 * time.Millisecond
	maxBackoff  = 30 * time.Second
)

// errRefusedForGood is an answer that would be the same the next time, for all that is sent.
var errRefusedForGood = errors.New("the node does not take what is sent")

// sender sends batches to one node, each until it is taken or refused.
type sender struct {
	url    string
	client *http.Client
	limit  *rate.Limiter

	mu sync.Mutex
	// written and refused are samples that were answered.
	written, refused int64
	reasons          []string
	// answered tells that the node has answered anything: whoever cannot be reached before may
	// have a wrong address.
	answered bool
	// trouble is why the last attempt is made again, empty if it is not.
	trouble string
}

// send returns when a batch is taken or refused. An error is the end of the import.
func (s *sender) send(ctx context.Context, b *batch) error {
	if err := s.limit.WaitN(ctx, b.samples); err != nil {
		return err
	}
	body, err := b.encode()
	if err != nil {
		return err
	}
	for backoff := minBackoff; ; backoff = min(2*backoff, maxBackoff) {
		wait, err := s.try(ctx, body, b.samples)
		if err == nil || ctx.Err() != nil || errors.Is(err, errRefusedForGood) || !s.mayRepeat(err) {
			return errors.Join(err, ctx.Err())
		}
		if !pause(ctx, max(wait, backoff)) {
			return ctx.Err()
		}
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// mayRepeat notes why something is sent again; false if nothing was answered so far.
func (s *sender) mayRepeat(err error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trouble = err.Error()
	return s.answered
}

// try sends once. An error that is not errRefusedForGood is worth another attempt, after the time
// that the node asks for.
func (s *sender) try(ctx context.Context, body []byte, samples int) (wait time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url+writePath, bytes.NewReader(body))
	if err != nil {
		return 0, fmt.Errorf("%w: %w", errRefusedForGood, err)
	}
	for name, value := range map[string]string{
		"Content-Type": "application/x-protobuf;proto=io.prometheus.write.v2.Request", "Content-Encoding": "snappy",
		remote.RemoteWriteVersionHeader: remote.RemoteWriteVersion20HeaderValue, "User-Agent": "starling import",
	} {
		req.Header.Set(name, value)
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return 0, err
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorText))
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return 0, err
	}
	return s.judge(resp, strings.TrimSpace(string(text)), samples)
}

// judge counts what an answer says. 400 says that everything valid was written, and how much that
// was.
func (s *sender) judge(resp *http.Response, text string, samples int) (wait time.Duration, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answered = true
	switch {
	case resp.StatusCode/100 == 2:
		s.written, s.trouble = s.written+int64(samples), ""
		return 0, nil
	case resp.StatusCode == http.StatusBadRequest:
		stats, err := remote.ParseWriteResponseStats(resp)
		if err != nil {
			return 0, fmt.Errorf("%w: %w", errRefusedForGood, err)
		}
		taken := int64(stats.Samples + stats.Histograms)
		s.written, s.refused, s.trouble = s.written+taken, s.refused+int64(samples)-taken, ""
		if len(s.reasons) < maxReasons {
			s.reasons = append(s.reasons, text)
		}
		return 0, nil
	case resp.StatusCode/100 == 5 || resp.StatusCode == http.StatusTooManyRequests:
		seconds, _ := strconv.Atoi(resp.Header.Get("Retry-After")) // 0 if there is none
		return time.Duration(seconds) * time.Second, fmt.Errorf("%s: %s", resp.Status, text)
	}
	return 0, fmt.Errorf("%w: %s: %s", errRefusedForGood, resp.Status, text)
}

// counts returns what was answered so far.
func (s *sender) counts() (written, refused int64, trouble string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.written, s.refused, s.trouble
}
