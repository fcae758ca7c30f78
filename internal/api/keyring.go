package api

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"

	v1 "github.com/prometheus/prometheus/web/api/v1"
)

// Keyrings change the keys that encrypt gossip, on all nodes. It is called concurrently.
type Keyrings interface {
	// Keyring returns the keys of all nodes after a change. An error that wraps [ErrRefused] has
	// changed nothing; what a node has not done is said of that node.
	Keyring(ctx context.Context, c KeyringChange) (*KeyringStatus, error)
}

// KeyringChange is a change of the keys.
type KeyringChange struct {
	// Op is "list", "add", "use" or "remove". It is no part of the body.
	Op string `json:"-"`
	// Key belongs to add: 16, 24 or 32 bytes, in base64.
	Key []byte `json:"key,omitempty"`
	// Fingerprint belongs to use and remove.
	Fingerprint string `json:"fingerprint,omitempty"`
}

// KeyringStatus is which keys the nodes have. No key is in it.
type KeyringStatus struct {
	Nodes []KeyringNode `json:"nodes"`
	Keys  []KeyStatus   `json:"keys"`
}

// KeyringNode is what one node has, or why it did not do what it was asked.
type KeyringNode struct {
	ID   string `json:"id"`
	Name string `json:"name,omitempty"`
	// Keys are fingerprints, the one of the key that the node encrypts with first.
	Keys  []string `json:"keys,omitempty"`
	Error string   `json:"error,omitempty"`
}

// KeyStatus says how many nodes have a key, and how many encrypt with it.
type KeyStatus struct {
	Fingerprint string `json:"fingerprint"`
	Nodes       int    `json:"nodes"`
	Uses        int    `json:"uses"`
}

// keyring serves GET /api/v1/cluster/keyring, and POST of the changes below it.
func (a *API) keyring(op string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		c, err := readKeyringChange(r, op)
		if err != nil {
			a.answerError(w, badData{err})
			return
		}
		if op == "add" && !confidential(r) {
			a.refuse(w, http.StatusForbidden, "forbidden",
				errors.New("the key came over a network in clear, and may be known now: make another one, and send it from the machine of the node itself, or turn TLS on by --web.config.file"))
			return
		}
		if op != "list" {
			a.logger.Info("An operator changes the keys of gossip", "command", op, "fingerprint", c.Fingerprint, "client", r.RemoteAddr)
		}
		status, err := a.opts.Keyrings.Keyring(r.Context(), c)
		if errors.Is(err, ErrRefused) {
			a.refuse(w, http.StatusConflict, "conflict", err)
			return
		}
		if err != nil {
			a.answerError(w, err)
			return
		}
		a.send(w, http.StatusOK, &v1.Response{Status: "success", Data: status})
	}
}

func readKeyringChange(r *http.Request, op string) (KeyringChange, error) {
	c := KeyringChange{}
	if op != "list" {
		if err := readCommand(r, &c); err != nil {
			return c, err
		}
	}
	c.Op = op
	switch {
	case (op == "add") != (len(c.Key) > 0):
		return c, fmt.Errorf("key belongs to add, which wants one")
	case (op == "use" || op == "remove") != (c.Fingerprint != ""):
		return c, fmt.Errorf("fingerprint belongs to use and remove, which want one")
	}
	return c, nil
}

// confidential tells whether nobody on a network could read a request.
func confidential(r *http.Request) bool {
	if r.TLS != nil {
		return true
	}
	from, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return false
	}
	ip := net.ParseIP(from)
	if ip == nil || ip.IsLoopback() {
		return ip != nil
	}
	local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok {
		return false
	}
	at, _, err := net.SplitHostPort(local.String())
	return err == nil && ip.Equal(net.ParseIP(at))
}
