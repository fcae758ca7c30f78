// Package door keeps the front door as shut as --web.config.file has once asked for.
//
// Prometheus's exporter-toolkit stands before it, and reads that file for each connection and request: so
// passwords and certificates are changed without a restart. But a file that is cut short, while somebody
// writes it or because the disk is full, asks for less than it did, and an empty one for nothing: it would
// let everybody in. So what a file has asked for since the node was started, every request has to bring.
package door

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/prometheus/exporter-toolkit/web"
	"go.yaml.in/yaml/v2"
	"golang.org/x/crypto/bcrypt"
	"golang.org/x/time/rate"
)

const (
	// maxKnown bounds the passwords that are known to be right.
	maxKnown = 100
	// complainEvery is how often a refused request is logged.
	complainEvery = 30 * time.Second
)

// asked is what clients have to bring.
type asked struct {
	// passwords, certificates and names: one of the users' passwords, a certificate of an
	// authority that the file names, and one for some name.
	passwords, certificates, names bool
}

// door is a handler behind that of exporter-toolkit.
type door struct {
	file   string
	next   http.Handler
	logger *slog.Logger
	quiet  rate.Sometimes

	mu sync.Mutex
	// content is that of the file when it was last read, and config what it says.
	content []byte
	config  *web.Config
	// ever is what the file has asked for since the start.
	ever asked
	// known are hashes of passwords that are right, with those that the file has of them.
	known map[[sha256.Size]byte]struct{}
}

// New returns next for those who bring what the file asks for and has asked for. It goes behind
// the handler of exporter-toolkit. The file is empty if there is none.
func New(file string, next http.Handler, logger *slog.Logger) (http.Handler, error) {
	if file == "" {
		return next, nil
	}
	d := &door{
		file: file, next: next, logger: logger, quiet: rate.Sometimes{Interval: complainEvery},
		known: map[[sha256.Size]byte]struct{}{},
	}
	_, _, err := d.look()
	return d, err
}

// ServeHTTP implements http.Handler.
func (d *door) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := d.admit(r); err != nil {
		d.quiet.Do(func() {
			d.logger.Error("Refused a request: --web.config.file asks for less than it did. Mend it, or restart the node if that is meant", "file", d.file, "from", r.RemoteAddr, "err", err)
		})
		w.Header().Set("Retry-After", "5")
		http.Error(w, "the configuration of this server asks for less than it did", http.StatusServiceUnavailable)
		return
	}
	d.next.ServeHTTP(w, r)
}

// admit returns why a request that exporter-toolkit has let through must not go on.
func (d *door) admit(r *http.Request) error {
	config, ever, err := d.look()
	if err != nil {
		return err
	}
	if ever.certificates && (r.TLS == nil || len(r.TLS.VerifiedChains) == 0) {
		return errors.New("no certificate was asked for")
	}
	if ever.names {
		if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
			return errors.New("no certificate was asked for")
		}
		if err := config.TLSConfig.VerifyPeerCertificate([][]byte{r.TLS.PeerCertificates[0].Raw}, nil); err != nil {
			return err
		}
	}
	if ever.passwords {
		return d.checkPassword(r, config)
	}
	return nil
}

// look reads the file: what it says, and what it has asked for at any time.
func (d *door) look() (*web.Config, asked, error) {
	content, err := os.ReadFile(d.file)
	if err != nil {
		return nil, asked{}, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.config != nil && bytes.Equal(content, d.content) {
		return d.config, d.ever, nil
	}
	c := &web.Config{}
	if err := yaml.Unmarshal(content, c); err != nil {
		return nil, asked{}, err
	}
	d.content, d.config = content, c
	d.ever.passwords = d.ever.passwords || len(c.Users) > 0
	d.ever.certificates = d.ever.certificates || c.TLSConfig.ClientAuth == "RequireAndVerifyClientCert"
	d.ever.names = d.ever.names || c.TLSConfig.ClientAllowedSans != nil
	return c, d.ever, nil
}

// checkPassword tells whether a request has a password of the file.
func (d *door) checkPassword(r *http.Request, config *web.Config) error {
	user, password, _ := r.BasicAuth()
	hash, ok := config.Users[user]
	if !ok {
		return fmt.Errorf("it has no user %q", user)
	}
	key := sha256.Sum256([]byte(string(hash) + "\x00" + password))
	d.mu.Lock()
	_, known := d.known[key]
	d.mu.Unlock()
	if known {
		return nil
	}
	if err := bcrypt.CompareHashAndPassword([]byte(hash), []byte(password)); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.known) >= maxKnown {
		clear(d.known)
	}
	d.known[key] = struct{}{}
	return nil
}
