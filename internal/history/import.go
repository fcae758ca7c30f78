package history

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"golang.org/x/time/rate"

	"github.com/starling-tsdb/starling/internal/statefile"
)

const (
	// Window is the time of which all series are sent before the next one. A store takes what is no
	// more than an hour behind its newest sample in order.
	Window = 30 * time.Minute
	// senders is how many requests are under way at a time.
	senders = 4
	// reportEvery is how often the progress is told.
	reportEvery = 5 * time.Second
)

// Options are what an import works with.
type Options struct {
	Source Source
	// URL is that of the node, without a path of the API; Client reaches it.
	URL    string
	Client *http.Client
	// Matchers say which series are read; nil for all.
	Matchers []*labels.Matcher
	// Labels are added to each series, as a sender adds its external labels.
	Labels labels.Labels
	// From and To are the range of time, in milliseconds, both inclusive. Where the source knows
	// how far it reaches, they only narrow that.
	From, To int64
	// Rate bounds the samples a second; 0 for no bound.
	Rate float64
	// Progress is the file that remembers how far the import is.
	Progress string
	// Out is where people read how far it is.
	Out io.Writer
}

// Report is what an import has done, since it was begun first.
type Report struct {
	// Series are those that were sent since this start, Written and Refused samples since the first.
	Series           int
	Written, Refused int64
	// Reasons are examples of why samples were refused.
	Reasons []string
}

// progress is what the file remembers. An import of something else does not go on from it.
type progress struct {
	Source  string `json:"source"`
	Node    string `json:"node"`
	Series  string `json:"series"`
	Labels  string `json:"labels,omitempty"`
	From    int64  `json:"fromMs"`
	To      int64  `json:"toMs"`
	Next    int64  `json:"nextMs"`
	Written int64  `json:"written"`
	Refused int64  `json:"refused"`
}

const progressName = "import"

// importing is an import under way.
type importing struct {
	Options
	sender *sender
	state  progress
	series map[uint64]struct{} // by hash
}

// Run imports until all is sent, or ctx ends. What is answered before an error is remembered:
// another Run goes on from there.
func Run(ctx context.Context, o Options) (Report, error) {
	i, err := begin(o)
	if err != nil {
		return Report{}, err
	}
	err = i.run(ctx)
	written, refused, trouble := i.sender.counts()
	if err != nil && trouble != "" {
		err = fmt.Errorf("%w; last: %s", err, trouble)
	}
	return Report{Series: len(i.series), Written: i.state.Written + written, Refused: i.state.Refused + refused, Reasons: i.sender.reasons}, err
}

// begin finds out what there is, and how far an earlier start came.
func begin(o Options) (*importing, error) {
	if o.Matchers == nil {
		o.Matchers = Everything()
	}
	if mint, maxt, known := o.Source.Span(); known {
		o.From, o.To = max(o.From, mint), min(o.To, maxt)
	}
	if o.From > o.To {
		return nil, fmt.Errorf("%s has nothing between the times that were asked for", o.Source.Name())
	}
	i := &importing{Options: o, series: map[uint64]struct{}{}}
	limit := rate.Inf
	if o.Rate > 0 {
		limit = rate.Limit(o.Rate)
	}
	// A batch may have more samples than a second has at a low rate.
	i.sender = &sender{url: strings.TrimSuffix(o.URL, "/"), client: o.Client, limit: rate.NewLimiter(limit, maxSamples)}
	i.state = progress{
		Source: o.Source.Name(), Node: i.sender.url, Series: fmt.Sprint(o.Matchers), Labels: o.Labels.String(), From: o.From, To: o.To, Next: o.From,
	}
	if o.Labels.IsEmpty() {
		i.state.Labels = ""
	}
	return i, i.resume()
}

// resume reads the file.
func (i *importing) resume() error {
	content, err := os.ReadFile(i.Progress)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	var before progress
	if err == nil {
		err = statefile.Decode(progressName, content, &before)
	}
	if err != nil {
		return fmt.Errorf("--progress %s: %w", i.Progress, err)
	}
	same := i.state
	// Another node of the cluster will do, and the source may have more by now.
	same.Node, same.To, same.Next, same.Written, same.Refused = before.Node, before.To, before.Next, before.Written, before.Refused
	if same != before {
		return fmt.Errorf("--progress %s is of another import, of %q with %s from %s on: name another file, or remove it",
			i.Progress, before.Source, before.Series, text(before.From))
	}
	i.state.Next, i.state.Written, i.state.Refused = before.Next, before.Written, before.Refused
	return nil
}

// text is a time for people.
func text(ms int64) string { return time.UnixMilli(ms).UTC().Format("2006-01-02 15:04:05 UTC") }

func (i *importing) run(ctx context.Context) error {
	defer i.tell()()
	for i.state.Next <= i.To {
		next := windowEnd(i.state.Next)
		if err := i.window(ctx, i.state.Next, min(next-1, i.To)); err != nil {
			return err
		}
		if err := i.remember(next); err != nil {
			return err
		}
	}
	return nil
}

// windowEnd is where the window with a time ends, exclusive.
func windowEnd(t int64) int64 {
	w := Window.Milliseconds()
	return t - (t%w+w)%w + w
}

// remember writes down that all before a time has been answered.
func (i *importing) remember(next int64) error {
	i.sender.mu.Lock()
	defer i.sender.mu.Unlock()
	state := i.state
	state.Next, state.Written, state.Refused = next, state.Written+i.sender.written, state.Refused+i.sender.refused
	content, err := statefile.Encode(progressName, state)
	if err == nil {
		err = statefile.Replace(filepath.Clean(i.Progress), content)
	}
	if err != nil {
		return fmt.Errorf("--progress %s: %w", i.Progress, err)
	}
	i.state.Next = next
	return nil
}

// window sends all of a range of time, and returns when all of it is answered.
func (i *importing) window(ctx context.Context, mint, maxt int64) (err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	queue := make(chan *batch)
	var sending sync.WaitGroup
	for range senders {
		sending.Go(func() {
			for b := range queue {
				if err := i.sender.send(ctx, b); err != nil {
					cancel(err)
				}
			}
		})
	}
	err = i.read(ctx, mint, maxt, func(b *batch) error {
		select {
		case queue <- b:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})
	close(queue)
	sending.Wait()
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// read cuts all series of a range of time into batches.
func (i *importing) read(ctx context.Context, mint, maxt int64, send func(*batch) error) (err error) {
	set, err := i.Source.Select(ctx, mint, maxt, i.Matchers)
	if err != nil {
		return fmt.Errorf("reading %s at %s: %w", i.Source.Name(), text(mint), err)
	}
	defer func() { err = errors.Join(err, set.Close()) }()
	cut := batches{mint: mint, maxt: maxt, extra: i.Labels, send: send, seen: func(ls labels.Labels) { i.series[ls.Hash()] = struct{}{} }}
	var it chunkenc.Iterator
	for set.Next() {
		if it, err = cut.add(set.At(), it); err != nil {
			return err
		}
	}
	if err := set.Err(); err != nil {
		return fmt.Errorf("reading %s at %s: %w", i.Source.Name(), text(mint), err)
	}
	return cut.flush()
}

// tell writes how far the import is until the function that it returns is called.
func (i *importing) tell() (stop func()) {
	quit := make(chan struct{})
	var telling sync.WaitGroup
	began := time.Now()
	if i.state.Next > i.From {
		fmt.Fprintf(i.Out, "Going on from %s.\n", text(i.state.Next))
	}
	telling.Go(func() {
		ticks := time.NewTicker(reportEvery)
		defer ticks.Stop()
		for {
			select {
			case <-ticks.C:
				i.line(time.Since(began))
			case <-quit:
				return
			}
		}
	})
	return func() {
		close(quit)
		telling.Wait()
	}
}

// line is one line about the progress.
func (i *importing) line(since time.Duration) {
	i.sender.mu.Lock()
	next, written, refused, trouble := i.state.Next, i.sender.written, i.sender.refused, i.sender.trouble
	i.sender.mu.Unlock()
	share := float64(next-i.From) / float64(i.To-i.From+1)
	fmt.Fprintf(i.Out, "%3.0f%%  %s  %d samples, %.0f a second, %d refused", 100*share, text(next), written, float64(written)/since.Seconds(), refused)
	if trouble != "" {
		fmt.Fprintf(i.Out, "  waiting: %s", trouble)
	}
	fmt.Fprintln(i.Out)
}
