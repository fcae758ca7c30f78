package node

import (
	"context"
	"strings"

	"github.com/starling-tsdb/starling/internal/series"
	"github.com/starling-tsdb/starling/internal/transport"
)

// Labels implements transport.Reader. What it holds is bounded as what a query holds is. Whether the
// node is still at the epoch of the request is for others to check, before and after.
func (r reader) Labels(ctx context.Context, q series.LabelQuery, yield func(string) error) error {
	end, err := r.node.labelLists.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	check := func() error {
		if q.Session != 0 && q.Session != r.State().Session {
			return errSession
		}
		return nil
	}
	if err := check(); err != nil {
		return err
	}
	if err := r.Store.Labels(ctx, q, int64(r.node.opts.Config.Query.MaxSamples)*readBytesPerSample, yield); err != nil {
		return err
	}
	return check()
}

// Labels implements query.Source.
func (s localSource) Labels(ctx context.Context, q series.LabelQuery, take func(bytes int64) error) ([]string, error) {
	sel := transport.Selection{Epoch: s.table.Epoch}
	if _, err := s.at(sel); err != nil {
		return nil, err
	}
	l := labelList{take: take}
	if err := s.reader.Labels(ctx, q, l.add); err != nil {
		return nil, err
	}
	_, err := s.at(sel)
	return l.all, err
}

// Labels implements query.Source.
func (s peerSource) Labels(ctx context.Context, q series.LabelQuery, take func(bytes int64) error) ([]string, error) {
	return s.peer.Labels(ctx, s.table, q, take)
}

// labelList copies strings, which may lie in a mapped block, into memory of which it counts the bytes.
type labelList struct {
	take func(bytes int64) error
	all  []string
	slab strings.Builder
}

// slabBytes is how much memory is taken at once: strings are short and many.
const slabBytes = 4 << 10

func (l *labelList) add(s string) error {
	if err := l.take(int64(len(s)) + series.StringOverhead); err != nil {
		return err
	}
	if l.slab.Cap()-l.slab.Len() < len(s) {
		l.slab = strings.Builder{}
		l.slab.Grow(max(slabBytes, len(s)))
	}
	at := l.slab.Len()
	l.slab.WriteString(s)
	l.all = append(l.all, l.slab.String()[at:])
	return nil
}
