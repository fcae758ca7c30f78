package api

import (
	"bytes"
	"fmt"
	"io"
	"net/http"

	"github.com/prometheus/prometheus/prompb"
	"github.com/prometheus/prometheus/storage/remote"
)

// maxReadBytes bounds the body of a remote read, as Prometheus does.
const maxReadBytes = 32 << 20

// boundedRemoteRead refuses remote reads with regular expressions that are too costly to match,
// before they are compiled, and with such as are none, for which the handler would have the client
// ask again. What is no remote read is left to it.
func (a *API) boundedRemoteRead(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxReadBytes))
		if err != nil {
			a.answerTextError(w, badData{fmt.Errorf("read the body: %w", err)})
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		if req, err := remote.DecodeReadRequest(&http.Request{Body: io.NopCloser(bytes.NewReader(body))}); err == nil {
			if err := checkMatchers(req); err != nil {
				a.answerTextError(w, badData{err})
				return
			}
		}
		next(w, r)
	}
}

// checkMatchers tells what is wrong with the matchers of a remote read.
func checkMatchers(req *prompb.ReadRequest) error {
	for _, q := range req.Queries {
		for _, m := range q.GetMatchers() {
			if t := m.GetType(); t != prompb.LabelMatcher_RE && t != prompb.LabelMatcher_NRE {
				continue
			}
			if err := checkRegexp(m.GetValue()); err != nil {
				return err
			}
		}
		if _, err := remote.FromLabelMatchers(q.GetMatchers()); err != nil {
			return err
		}
	}
	return nil
}
