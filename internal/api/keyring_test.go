package api

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// fakeKeyrings remembers what it was asked.
type fakeKeyrings struct {
	asked []KeyringChange
	err   error
}

func (f *fakeKeyrings) Keyring(_ context.Context, c KeyringChange) (*KeyringStatus, error) {
	f.asked = append(f.asked, c)
	return &KeyringStatus{Keys: []KeyStatus{{Fingerprint: "0a1b2c3d", Nodes: 3, Uses: 3}}}, f.err
}

func TestKeyring(t *testing.T) {
	key := bytes.Repeat([]byte{7}, 32)
	body := fmt.Sprintf(`{"key":%q}`, base64.StdEncoding.EncodeToString(key))
	const print = `{"fingerprint":"0a1b2c3d"}`
	for _, c := range []struct {
		method, op, body string
		err              error
		want             int
	}{
		{"GET", "", "", nil, 200},
		{"POST", "/add", body, nil, 200},
		{"POST", "/add", print, nil, 400},
		{"POST", "/add", `{"key":"no base64"}`, nil, 400},
		{"POST", "/add", "", nil, 400},
		{"POST", "/use", print, nil, 200},
		{"POST", "/use", body, nil, 400},
		{"POST", "/remove", print, nil, 200},
		{"POST", "/remove", print, fmt.Errorf("%w: no", ErrRefused), 409},
		{"POST", "/use", print, notReady{fmt.Errorf("no table")}, 503},
	} {
		keyrings := &fakeKeyrings{err: c.err}
		f := newFixture(t, func(o *Options) { o.Keyrings = keyrings })
		req, err := http.NewRequestWithContext(t.Context(), c.method, f.url+"/api/v1/cluster/keyring"+c.op, strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != c.want || (len(keyrings.asked) > 0) != (c.want != 400) {
			t.Errorf("%s %s %s: %d, asked %v, want %d", c.method, c.op, c.body, resp.StatusCode, keyrings.asked, c.want)
		}
		if strings.Contains(f.log.String(), base64.StdEncoding.EncodeToString(key)) {
			t.Errorf("%s: the key is in the log", c.op)
		}
	}
}

// A key that others could read on its way is refused.
func TestKeysTravelUnseen(t *testing.T) {
	for _, c := range []struct {
		from, at string
		tls      bool
		want     bool
	}{
		{"127.0.0.1:5", "127.0.0.1:9080", false, true},
		{"[::1]:5", "[::1]:9080", false, true},
		{"10.0.0.1:5", "10.0.0.1:9080", false, true},
		{"10.0.0.2:5", "10.0.0.1:9080", false, false},
		{"10.0.0.2:5", "10.0.0.1:9080", true, true},
		{"@", "10.0.0.1:9080", false, false},
	} {
		at, err := net.ResolveTCPAddr("tcp", c.at)
		if err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequestWithContext(context.WithValue(t.Context(), http.LocalAddrContextKey, net.Addr(at)), http.MethodPost, "/", nil)
		r.RemoteAddr = c.from
		if c.tls {
			r.TLS = &tls.ConnectionState{}
		}
		if got := confidential(r); got != c.want {
			t.Errorf("from %s at %s, TLS %v: %v, want %v", c.from, c.at, c.tls, got, c.want)
		}
	}
}
