package border

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"
)

// Files are those of mutual TLS, in PEM.
type Files struct {
	// Cert is this node's certificate and those that lead to the CA, Key its key, CA the
	// certificates of all authorities whose nodes are peers.
	Cert, Key, CA string
	// ServerName is a name that the certificate of each peer has to carry. If it is empty, a
	// node that is dialled has to carry the address at which it is.
	ServerName string
}

// keys are what the files had when they were read. They do not change.
type keys struct {
	certificate tls.Certificate
	authorities *x509.CertPool
	server      *tls.Config
	// sum tells one content of the files from another.
	sum [sha256.Size]byte
}

// read reads the files and has them be what a peer would accept. Errors name the flag of the
// file at fault.
func (f *Files) read(now time.Time) (*keys, error) {
	var content [3][]byte
	sum := sha256.New()
	for i, file := range []struct{ flag, path string }{
		{"cert", f.Cert}, {"key", f.Key}, {"ca", f.CA},
	} {
		b, err := os.ReadFile(file.path)
		if err != nil {
			return nil, fmt.Errorf("--cluster.tls.%s-file: %w", file.flag, err)
		}
		content[i] = b
		part := sha256.Sum256(b)
		sum.Write(part[:])
	}
	k := &keys{}
	sum.Sum(k.sum[:0])
	var err error
	if k.certificate, err = tls.X509KeyPair(content[0], content[1]); err != nil {
		return nil, fmt.Errorf("--cluster.tls.cert-file %s, --cluster.tls.key-file %s: %w", f.Cert, f.Key, err)
	}
	if k.authorities, err = parseAuthorities(content[2]); err != nil {
		return nil, fmt.Errorf("--cluster.tls.ca-file %s: %w", f.CA, err)
	}
	k.server = f.serverConfig(k)
	return k, f.checkOwn(k, now)
}

// parseAuthorities takes all of a file or nothing: one that is being written must not cost
// some of the authorities.
func parseAuthorities(b []byte) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	found := false
	for {
		block, rest := pem.Decode(b)
		if block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("has a %q, where only certificates are expected", block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		if !c.IsCA {
			return nil, fmt.Errorf("%q is no certificate authority", c.Subject)
		}
		pool.AddCert(c)
		b, found = rest, true
	}
	switch {
	case bytes.Contains(b, []byte("-----BEGIN")):
		return nil, errors.New("ends in the middle of a certificate")
	case !found:
		return nil, errors.New("has no certificate")
	}
	return pool, nil
}

// checkOwn has this node's certificate be one that it would accept of a peer.
func (f *Files) checkOwn(k *keys, now time.Time) error {
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		if err := k.verify(k.chain(), usage, now); err != nil {
			return fmt.Errorf("--cluster.tls.cert-file %s: peers would refuse it, as this node would: %w (it has to be of an authority in --cluster.tls.ca-file, valid now, for both server and client authentication)", f.Cert, err)
		}
	}
	if f.ServerName == "" {
		return nil
	}
	if err := k.certificate.Leaf.VerifyHostname(f.ServerName); err != nil {
		return fmt.Errorf("--cluster.tls.server-name: the certificate in --cluster.tls.cert-file %s: %w", f.Cert, err)
	}
	return nil
}

// checkSelf has the certificate be valid where peers dial this node.
func (f *Files) checkSelf(k *keys, ip netip.Addr) error {
	if f.ServerName != "" || !ip.IsValid() {
		return nil
	}
	if err := k.certificate.Leaf.VerifyHostname(f.nameOf(ip.String())); err != nil {
		return fmt.Errorf("--cluster.tls.cert-file %s: peers dial this node at %s and would refuse its certificate there: %w: put that address into it, or set --cluster.tls.server-name to a name that all nodes' certificates have", f.Cert, ip, err)
	}
	return nil
}

// nameOf is what the certificate of a node has to carry that is dialled at host.
func (f *Files) nameOf(host string) string {
	if f.ServerName != "" {
		return f.ServerName
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.Unmap().WithZone("").String()
	}
	return host
}

// chain is this node's certificate and what leads to the authority.
func (k *keys) chain() []*x509.Certificate {
	chain := []*x509.Certificate{k.certificate.Leaf}
	for _, der := range k.certificate.Certificate[1:] {
		if c, err := x509.ParseCertificate(der); err == nil {
			chain = append(chain, c)
		}
	}
	return chain
}

// verify tells whether a chain leads to an authority.
func (k *keys) verify(chain []*x509.Certificate, usage x509.ExtKeyUsage, at time.Time) error {
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		Roots: k.authorities, Intermediates: between, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{usage},
	})
	return err
}

// serverConfig is for connections that are accepted. Sessions are not resumed: each
// connection is judged by the authorities of its time.
func (f *Files) serverConfig(k *keys) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS12,
		Certificates:           []tls.Certificate{k.certificate},
		ClientAuth:             tls.RequireAndVerifyClientCert,
		ClientCAs:              k.authorities,
		SessionTicketsDisabled: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			if f.ServerName == "" {
				return nil
			}
			return s.PeerCertificates[0].VerifyHostname(f.ServerName)
		},
	}
}

// client is for a connection that is dialled. The certificate is shown whatever authorities
// the other side names, so that it says why it refuses it.
func (k *keys) client(name string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		RootCAs:    k.authorities,
		ServerName: name,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &k.certificate, nil
		},
	}
}

// Run looks after the files until ctx ends.
func (g *Guard) Run(ctx context.Context) {
	if g.opts.TLS == nil {
		return
	}
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	failed := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := g.renew()
		switch {
		case err == nil:
			failed = ""
		case err.Error() != failed:
			failed = err.Error()
			g.metrics.failures.Inc()
			g.opts.Logger.Warn("The changed files of TLS between nodes are of no use: the certificate read before stays in use", "err", err)
		}
	}
}

// renew takes the files over if they have changed, and closes the connections to peers whose
// authority is not among those in them any more.
func (g *Guard) renew() error {
	next, err := g.opts.TLS.read(time.Now())
	if err != nil {
		return err
	}
	g.mu.Lock()
	if next.sum == g.keys.sum {
		g.mu.Unlock()
		return nil
	}
	if err := g.opts.TLS.checkSelf(next, g.self); err != nil {
		g.mu.Unlock()
		return err
	}
	g.keys = next
	var distrusted []*conn
	for c := range g.open {
		if c.judge(next) != nil {
			distrusted = append(distrusted, c)
		}
	}
	g.mu.Unlock()
	for _, c := range distrusted {
		_ = c.Close()
	}
	g.opts.Logger.Info("Read the files of TLS between nodes anew", "expires", next.certificate.Leaf.NotAfter, "serial", next.certificate.Leaf.SerialNumber, "closed", len(distrusted))
	return nil
}
