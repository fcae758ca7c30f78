package history

import (
	"context"
	"fmt"
	"net/url"
	"time"

	promconfig "github.com/prometheus/common/config"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/storage/remote"
)

// readTimeout is how long a window may take to be read.
const readTimeout = 10 * time.Minute

// RemoteRead reads from a server of Prometheus's remote read, by streamed chunks if it has
// them, else by samples: Prometheus, Thanos, Mimir, Cortex, another Starling.
type RemoteRead struct {
	url    string
	client remote.ReadClient
}

// NewRemoteRead returns a source for the URL of a remote read, with TLS and passwords as an HTTP
// client configuration has them.
func NewRemoteRead(at string, client promconfig.HTTPClientConfig) (*RemoteRead, error) {
	u, err := parseURL(at)
	if err != nil {
		return nil, err
	}
	c, err := remote.NewReadClient("import", &remote.ClientConfig{
		URL: &promconfig.URL{URL: u}, Timeout: model.Duration(readTimeout), HTTPClientConfig: client,
		ChunkedReadLimit: config.DefaultChunkedReadLimit,
	})
	if err != nil {
		return nil, err
	}
	return &RemoteRead{url: at, client: c}, nil
}

func parseURL(at string) (*url.URL, error) {
	u, err := url.Parse(at)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("%q is no URL with http or https", at)
	}
	return u, nil
}

// Name implements Source.
func (r *RemoteRead) Name() string { return "remote read " + r.url }

// Span implements Source.
func (r *RemoteRead) Span() (mint, maxt int64, known bool) { return 0, 0, false }

// Select implements Source.
func (r *RemoteRead) Select(ctx context.Context, mint, maxt int64, matchers []*labels.Matcher) (Set, error) {
	query, err := remote.ToQuery(mint, maxt, matchers, &storage.SelectHints{Start: mint, End: maxt})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	set, err := r.client.Read(ctx, query, false)
	if err != nil {
		cancel()
		return nil, err
	}
	return remoteSet{SeriesSet: set, cancel: cancel}, nil
}

type remoteSet struct {
	storage.SeriesSet
	cancel context.CancelFunc
}

// Close implements io.Closer.
func (s remoteSet) Close() error {
	s.cancel()
	return nil
}
