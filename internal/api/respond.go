package api

import (
	"errors"
	"net/http"

	"github.com/grafana/regexp"
	"github.com/prometheus/prometheus/util/annotations"
	"github.com/prometheus/prometheus/util/httputil"
	v1 "github.com/prometheus/prometheus/web/api/v1"

	"github.com/starling-tsdb/starling/internal/partial"
)

// anyOrigin allows every web page to read, as Prometheus does by default. httputil
// knows this very expression.
func anyOrigin() *regexp.Regexp { return regexp.MustCompile("^(?:.*)$") }

// maxWarnings is how many warnings of one kind an answer lists, as Prometheus does.
const maxWarnings = 10

// answer writes data in the envelope of Prometheus's API. What the request's context
// notes as missing joins the warnings.
func (a *API) answer(w http.ResponseWriter, r *http.Request, data any, warnings annotations.Annotations) {
	httputil.SetCORS(w, anyOrigin(), r)
	for _, missing := range partial.Missing(r.Context()) {
		warnings.Add(errors.New(missing))
	}
	warns, infos := warnings.AsStrings("", maxWarnings, maxWarnings)
	a.send(w, http.StatusOK, &v1.Response{Status: "success", Data: data, Warnings: warns, Infos: infos})
}

// answerError writes err in the envelope of Prometheus's API, with the status it
// deserves.
func (a *API) answerError(w http.ResponseWriter, err error) {
	status, errorType := errorStatus(err)
	a.send(w, status, &v1.Response{Status: "error", ErrorType: errorType, Error: err.Error()})
}

// answerTextError is answerError for paths on which Prometheus answers plain text.
func (*API) answerTextError(w http.ResponseWriter, err error) {
	status, _ := errorStatus(err)
	http.Error(w, err.Error(), status)
}

func errorStatus(err error) (status int, errorType string) {
	if errors.As(err, new(badData)) {
		return http.StatusBadRequest, "bad_data"
	}
	if status, errorType, ok := retryable(err); ok {
		return status, errorType
	}
	return http.StatusInternalServerError, "internal"
}

func (a *API) send(w http.ResponseWriter, status int, response *v1.Response) {
	body, err := v1.JSONCodec{}.Encode(response)
	if err != nil {
		a.logger.Error("encoding an answer", "err", err)
		http.Error(w, "encoding the answer: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if _, err := w.Write(body); err != nil {
		a.logger.Debug("client went away during an answer", "err", err)
	}
}
