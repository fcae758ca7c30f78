//go:build linux

package faults

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"slices"
	"time"

	"github.com/starling-tsdb/starling/internal/border/issue"
	"github.com/starling-tsdb/starling/internal/faults/load"
)

// rereadTimeout bounds how long nodes may take to notice new files.
const rereadTimeout = 30 * time.Second

// rotations are the rows in which secrets are replaced.
func rotations() []Row {
	return []Row{{Name: "keys, certificates replaced", secured: true, harm: replaceSecrets}}
}

// replaceSecrets replaces the key of gossip, the authority of the nodes with all certificates, and those
// of the front door, in the steps that the docs tell operators; then a node is killed and has to come back
// by what is in the files.
func replaceSecrets(ctx context.Context, r *rig) error {
	if err := r.replaceKey(ctx); err != nil {
		return err
	}
	next, err := issue.NewAuthority("next")
	if err != nil {
		return err
	}
	old := r.secrets.peers
	r.secrets.peers = next
	for _, n := range r.nodes {
		if err := n.certifyFront(); err != nil {
			return err
		}
	}
	both := slices.Concat(old.PEM, next.PEM)
	for _, step := range []struct {
		by      *issue.Authority
		trusted []byte
	}{{old, both}, {next, both}} {
		if err := r.reread(ctx, r.nodes, func(n *node) error { return n.certify(step.by, step.trusted) }); err != nil {
			return err
		}
	}
	for _, n := range r.nodes {
		if err := r.reread(ctx, []*node{n}, func(n *node) error { return n.certify(next, next.PEM) }); err != nil {
			return err
		}
	}
	return r.victim().die(ctx, 2*time.Second)
}

// replaceKey has all nodes encrypt gossip with another key, and forget the one before.
func (r *rig) replaceKey(ctx context.Context) error {
	old, key := r.secrets.gossipKey, newGossipKey()
	for _, step := range []struct {
		op   string
		body map[string]string
	}{
		{"add", map[string]string{"key": key}},
		{"use", map[string]string{"fingerprint": fingerprint(key)}},
		{"remove", map[string]string{"fingerprint": fingerprint(old)}},
	} {
		if err := r.keyring(ctx, step.op, step.body); err != nil {
			return err
		}
	}
	r.secrets.gossipKey = key
	return nil
}

// fingerprint is what the program calls a key.
func fingerprint(key string) string {
	raw, err := base64.StdEncoding.DecodeString(key)
	if err != nil {
		panic(err) // it is one that newGossipKey made
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:4])
}

// keyring has all nodes change their keys, which they may refuse honestly while one is not heard.
func (r *rig) keyring(ctx context.Context, op string, body map[string]string) error {
	content, err := json.Marshal(body)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		answer, err := r.client.Do(ctx, http.MethodPost, r.nodes[0].Base()+"/api/v1/cluster/keyring/"+op,
			http.Header{"Content-Type": {"application/json"}}, content)
		if err == nil && answer.Status == http.StatusOK && !bytes.Contains(answer.Body, []byte(`"error":`)) {
			return nil
		}
		if late := sleep(ctx, time.Second/2); late != nil {
			return load.Violationf("keyring %s: %v %d: %s", op, err, answer.Status, load.Excerpt(answer.Body))
		}
	}
}

// reread changes files of nodes and waits until they say that they have read them.
func (r *rig) reread(ctx context.Context, nodes []*node, change func(*node) error) error {
	read := map[*node]int{}
	for _, n := range nodes {
		count, err := n.rereadings()
		if err != nil {
			return err
		}
		read[n] = count
		if err := change(n); err != nil {
			return err
		}
	}
	for start := time.Now(); ; {
		waiting := ""
		for _, n := range nodes {
			count, err := n.rereadings()
			if err != nil {
				return err
			}
			if count == read[n] {
				waiting = fmt.Sprint(n)
			}
		}
		if waiting == "" {
			return nil
		}
		if time.Since(start) > rereadTimeout {
			return load.Violationf("%s did not read its new certificates within %s", waiting, rereadTimeout)
		}
		if err := sleep(ctx, 200*time.Millisecond); err != nil {
			return err
		}
	}
}

// rereadings counts how often the node has read its certificates anew.
func (n *node) rereadings() (int, error) {
	log, err := os.ReadFile(n.log)
	return bytes.Count(log, []byte("Read the files of TLS between nodes anew")), err
}
