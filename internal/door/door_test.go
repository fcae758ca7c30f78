package door

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/starling-tsdb/starling/internal/border/bordertest"
)

// What a file has asked for is asked of those whom the toolkit lets in when the file asks for less.
// The front door as a whole is tested where a node is.
func TestWhatWasAskedForIsAskedFor(t *testing.T) {
	const (
		verified  = "tls_server_config:\n  client_auth_type: RequireAndVerifyClientCert\n"
		names     = verified + "  client_allowed_sans: [alice]\n"
		passwords = "basic_auth_users:\n  alice: $2a$04$nNwNAZYuMMiWy3TqeiovjuzC3g8B5cIgHxihnzz3O6/YhBuog7Jd6\n" // "first"
	)
	cert, _ := bordertest.NewAuthority(t, "clients").Issue(bordertest.Leaf{Hosts: []string{"alice"}})
	block, _ := pem.Decode(cert)
	alice, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	shown := &tls.ConnectionState{PeerCertificates: []*x509.Certificate{alice}, VerifiedChains: [][]*x509.Certificate{{alice}}}
	unverified := &tls.ConnectionState{PeerCertificates: []*x509.Certificate{alice}}
	for _, c := range []struct {
		name, first, then string
		tls               *tls.ConnectionState
		password          string
		want              int
	}{
		{"nothing asked for", "{}", "{}", nil, "", http.StatusOK},
		{"a name", names, names, shown, "", http.StatusOK},
		{"no list of names any more", names, verified, shown, "", http.StatusServiceUnavailable},
		{"another list of names", names, verified + "  client_allowed_sans: [bob]\n", shown, "", http.StatusServiceUnavailable},
		{"nobody verifies", names, names, unverified, "", http.StatusServiceUnavailable},
		{"no certificate", names, names, &tls.ConnectionState{}, "", http.StatusServiceUnavailable},
		{"in clear", names, names, nil, "", http.StatusServiceUnavailable},
		{"a password", passwords, passwords, nil, "first", http.StatusOK},
		{"a wrong password", passwords, passwords, nil, "second", http.StatusServiceUnavailable},
		{"no passwords any more", passwords, "{}", nil, "first", http.StatusServiceUnavailable},
		{"passwords from now on", "{}", passwords, nil, "", http.StatusServiceUnavailable},
		{"nonsense", passwords, "{", nil, "first", http.StatusServiceUnavailable},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "web.yml")
			write := func(content string) {
				if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			write(c.first)
			h, err := New(file, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			write(c.then)
			for range 2 { // what is known, too
				r := httptest.NewRequest(http.MethodGet, "/", nil)
				r.TLS = c.tls
				if c.password != "" {
					r.SetBasicAuth("alice", c.password)
				}
				w := httptest.NewRecorder()
				h.ServeHTTP(w, r)
				if w.Code != c.want {
					t.Errorf("answers %d, want %d", w.Code, c.want)
				}
			}
		})
	}
}
