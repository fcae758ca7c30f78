package api

import (
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"testing"
)

func TestRecover(t *testing.T) {
	f, admin := administered(t)
	const path = "/api/v1/cluster/recover"
	if got := f.get(path); got.status != http.StatusOK || !strings.Contains(got.body, `"next":1000000000`) || admin.recovered != nil {
		t.Errorf("the plan: %d %s, recovered %v", got.status, got.body, admin.recovered)
	}
	for _, c := range []struct {
		body   string
		header http.Header
		err    error
		status int
		done   bool
	}{
		{`{"epoch":7,"survivors":["01AA"]}`, nil, nil, http.StatusOK, true},
		{`{"epoch":7,"survivors":["01AA"]}`, nil, fmt.Errorf("%w: a majority is there", ErrRefused), http.StatusConflict, true},
		{`{"epoch":7}`, nil, nil, http.StatusBadRequest, false},
		{``, nil, nil, http.StatusBadRequest, false},
		{`{"epoch":7,"survivors":["01AA"],"force":true}`, nil, nil, http.StatusBadRequest, false},
		{`{"epoch":7,"survivors":["01AA"]}`, http.Header{"Content-Type": {"text/plain"}}, nil, http.StatusUnsupportedMediaType, false},
		{`{"epoch":7,"survivors":["01AA"]}`, http.Header{"Sec-Fetch-Site": {"cross-site"}}, nil, http.StatusForbidden, false},
	} {
		admin.recovered, admin.err = nil, c.err
		got := f.post(path, c.body, c.header)
		if got.status != c.status || (admin.recovered != nil) != c.done {
			t.Errorf("%s: %d %s, recovered %+v", c.body, got.status, got.body, admin.recovered)
		}
		if want := (&RecoveryRequest{Epoch: 7, Survivors: []string{"01AA"}}); c.done && !reflect.DeepEqual(admin.recovered, want) {
			t.Errorf("%s: %+v", c.body, admin.recovered)
		}
	}
}
