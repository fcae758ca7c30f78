//go:build linux

package faults

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/starling-tsdb/starling/internal/border/issue"
	"github.com/starling-tsdb/starling/internal/faults/load"
	"github.com/starling-tsdb/starling/internal/faults/wire"
)

// What the harness says at the front door, and the hash of it that nodes have.
const (
	user, password = "harness", "first"
	passwordHash   = "$2a$04$nNwNAZYuMMiWy3TqeiovjuzC3g8B5cIgHxihnzz3O6/YhBuog7Jd6"
)

// secrets are what everything is encrypted by.
type secrets struct {
	// peers is the authority of the nodes among themselves, clients that of the front door.
	peers, clients *issue.Authority
	gossipKey      string
	ear            *wire.Ear
}

// secure has all nodes that are started from now on encrypt everything: each other's requests
// and Raft by certificates, gossip by a key, and HTTP by certificates on both sides, and a password.
func (r *rig) secure() error {
	s := &secrets{gossipKey: newGossipKey()}
	var err error
	if s.peers, err = issue.NewAuthority("nodes"); err != nil {
		return err
	}
	if s.clients, err = issue.NewAuthority("front door"); err != nil {
		return err
	}
	cert, key, err := s.clients.Issue(issue.Leaf{})
	if err != nil {
		return err
	}
	own, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return err
	}
	r.secrets = s
	for _, n := range r.places {
		if err := n.equip(); err != nil {
			return err
		}
	}
	trusted := x509.NewCertPool()
	trusted.AppendCertsFromPEM(s.clients.PEM)
	r.client = load.NewClient(load.Papers{
		TLS:  &tls.Config{RootCAs: trusted, Certificates: []tls.Certificate{own}},
		User: user, Password: password,
	})
	return nil
}

// overhear has the network listen for what only those can read who have a key: how requests by HTTP
// and gRPC begin, and the IDs of nodes, which are in all that they say to each other.
func (r *rig) overhear() error {
	words := []string{"HTTP/1.1", "PRI * HTTP/2.0", "X-Prometheus-Remote-Write-Version", "Authorization: Basic"}
	ids, err := identities(r.nodes)
	if err != nil {
		return err
	}
	for _, id := range ids {
		words = append(words, string(id))
	}
	r.secrets.ear = wire.NewEar(words)
	r.wire.Overhear(r.secrets.ear)
	return nil
}

// overheard is what was said in clear though all is to be encrypted.
func (r *rig) overheard() []string {
	if r.secrets == nil {
		return nil
	}
	return r.secrets.ear.Heard()
}

func newGossipKey() string {
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails
	return base64.StdEncoding.EncodeToString(key)
}

// secret is the path of one of the node's files of secrets, which outlive its data.
func (n *node) secret(name string) string {
	return filepath.Join(n.rig.dir, fmt.Sprintf("node-%d-secrets", n.number), name)
}

// equip writes the node's files.
func (n *node) equip() error {
	if err := os.MkdirAll(n.secret(""), 0o700); err != nil {
		return err
	}
	keyring, err := json.Marshal([]string{n.rig.secrets.gossipKey})
	if err != nil {
		return err
	}
	if err := n.certifyFront(); err != nil {
		return err
	}
	if err := n.certify(n.rig.secrets.peers, n.rig.secrets.peers.PEM); err != nil {
		return err
	}
	return issue.Write(map[string][]byte{
		n.secret("keyring.json"):   keyring,
		n.secret("clients-ca.pem"): n.rig.secrets.clients.PEM,
		n.secret("web.yml"): fmt.Appendf(nil, `tls_server_config:
  cert_file: web.pem
  key_file: web-key.pem
  client_auth_type: RequireAndVerifyClientCert
  client_ca_file: clients-ca.pem
basic_auth_users:
  %s: %s
`, user, passwordHash),
	})
}

// certify gives the node a certificate for its peers, and the authorities of theirs.
func (n *node) certify(by *issue.Authority, trusted []byte) error {
	cert, key, err := by.Issue(issue.Leaf{Hosts: []string{n.address.String()}})
	if err != nil {
		return err
	}
	return issue.Write(map[string][]byte{n.secret("key.pem"): key, n.secret("cert.pem"): cert, n.secret("ca.pem"): trusted})
}

// certifyFront gives the node a certificate for its clients.
func (n *node) certifyFront() error {
	cert, key, err := n.rig.secrets.clients.Issue(issue.Leaf{Hosts: []string{n.address.String()}})
	if err != nil {
		return err
	}
	return issue.Write(map[string][]byte{n.secret("web-key.pem"): key, n.secret("web.pem"): cert})
}

func (n *node) securedFlags() []string {
	return []string{
		"--web.config.file=" + n.secret("web.yml"),
		"--cluster.tls.cert-file=" + n.secret("cert.pem"),
		"--cluster.tls.key-file=" + n.secret("key.pem"),
		"--cluster.tls.ca-file=" + n.secret("ca.pem"),
		"--cluster.gossip-keyring-file=" + n.secret("keyring.json"),
		"--cluster.allowed-cidrs=" + n.rig.subnet.String(),
	}
}
