// Package admin is what `starling cluster` does: it asks a node about the cluster, has it
// plan and carry out commands, and shows people what it answers.
package admin

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"

	promconfig "github.com/prometheus/common/config"

	"github.com/starling-tsdb/starling/internal/api"
)

const (
	// requestTimeout is more than a node takes to answer, or to give up.
	requestTimeout = 30 * time.Second
	// maxAnswerBytes is more than a hundred nodes have to say.
	maxAnswerBytes = 64 << 20
)

// Client talks to one node. It may be used concurrently.
type Client struct {
	url  string
	http *http.Client
}

// NewClient returns a client of the node at a URL, which may have a path that the API is
// below. The file is one of Prometheus's HTTP client configuration, for TLS and passwords;
// empty if there is none.
func NewClient(nodeURL, configFile string) (*Client, error) {
	u, err := url.Parse(nodeURL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("--url: %q is no URL of a node, as http://localhost:9080 is", nodeURL)
	}
	client, err := NewHTTPClient(configFile)
	if err != nil {
		return nil, err
	}
	client.Timeout = requestTimeout
	return &Client{url: strings.TrimSuffix(u.String(), "/"), http: client}, nil
}

// NewHTTPClient returns a client as a file of Prometheus's HTTP client configuration has it, or
// one without TLS settings and passwords if there is none.
func NewHTTPClient(configFile string) (*http.Client, error) {
	c := &promconfig.HTTPClientConfig{FollowRedirects: true, EnableHTTP2: true}
	var err error
	if configFile != "" {
		if c, _, err = promconfig.LoadHTTPConfigFile(configFile); err != nil {
			return nil, fmt.Errorf("--http.config.file: %w", err)
		}
	}
	client, err := promconfig.NewClientFromConfig(*c, "starling")
	if err != nil {
		return nil, fmt.Errorf("--http.config.file: %w", err)
	}
	return client, nil
}

// Unknown is the error of who is answered 401 at a URL.
func Unknown(at string) error {
	return fmt.Errorf("%s asks who you are: name a file with basic_auth by --http.config.file", at)
}

// Status asks for the state of the cluster.
func (c *Client) Status(ctx context.Context) (*api.ClusterStatus, error) {
	s := new(api.ClusterStatus)
	return s, c.call(ctx, http.MethodGet, "", nil, s)
}

// Plan asks what a command would do.
func (c *Client) Plan(ctx context.Context, r api.CommandRequest) (*api.ClusterPlan, error) {
	p := new(api.ClusterPlan)
	return p, c.call(ctx, http.MethodPost, "/plan", r, p)
}

// PlanRecovery asks what a recovery from the node would do.
func (c *Client) PlanRecovery(ctx context.Context) (*api.RecoveryPlan, error) {
	p := new(api.RecoveryPlan)
	return p, c.call(ctx, http.MethodGet, "/recover", nil, p)
}

// Recover has a recovery carried out.
func (c *Client) Recover(ctx context.Context, r api.RecoveryRequest) (api.CommandResult, error) {
	var result api.CommandResult
	return result, c.call(ctx, http.MethodPost, "/recover", r, &result)
}

// Repair has all nodes compare what they hold.
func (c *Client) Repair(ctx context.Context, r api.RepairRequest) (api.RepairResult, error) {
	var result api.RepairResult
	return result, c.call(ctx, http.MethodPost, "/repair", r, &result)
}

// Keyring lists or changes the keys of gossip on all nodes. A key is sent only to where nobody
// on the way can read it.
func (c *Client) Keyring(ctx context.Context, k api.KeyringChange) (*api.KeyringStatus, error) {
	s := new(api.KeyringStatus)
	if k.Op == "list" {
		return s, c.call(ctx, http.MethodGet, "/keyring", nil, s)
	}
	if k.Op == "add" {
		if err := c.checkConfidential(); err != nil {
			return nil, err
		}
	}
	return s, c.call(ctx, http.MethodPost, "/keyring/"+k.Op, k, s)
}

// checkConfidential refuses plain HTTP to another machine.
func (c *Client) checkConfidential() error {
	u, err := url.Parse(c.url)
	if err != nil || u.Scheme == "https" || u.Hostname() == "localhost" {
		return err
	}
	ip := net.ParseIP(u.Hostname())
	if ip != nil && ip.IsLoopback() {
		return nil
	}
	own, err := net.InterfaceAddrs()
	if err != nil {
		return fmt.Errorf("find the addresses of this machine: %w", err)
	}
	for _, a := range own {
		if n, ok := a.(*net.IPNet); ok && ip != nil && n.IP.Equal(ip) {
			return nil
		}
	}
	return fmt.Errorf("%s: a key would travel there in clear: run this on the machine of a node, or name a node by https in --url", c.url)
}

// Do has a command carried out.
func (c *Client) Do(ctx context.Context, r api.CommandRequest) (api.CommandResult, error) {
	var result api.CommandResult
	op := r.Op
	r.Op = ""
	return result, c.call(ctx, http.MethodPost, "/"+op, r, &result)
}

func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.url+"/api/v1/cluster"+path, body)
	if err != nil {
		return err
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return c.explain(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswerBytes))
	if err != nil {
		return fmt.Errorf("%s: the answer broke off: %w", c.url, err)
	}
	var envelope struct {
		Status string          `json:"status"`
		Data   json.RawMessage `json:"data"`
		Error  string          `json:"error"`
	}
	switch err := json.Unmarshal(b, &envelope); {
	case resp.StatusCode == http.StatusUnauthorized:
		return Unknown(c.url)
	case err == nil && envelope.Status == "error":
		return errors.New(envelope.Error)
	case err != nil || resp.StatusCode != http.StatusOK:
		return fmt.Errorf("%s answered %s: is that a Starling of this version?", c.url, resp.Status)
	}
	if err := json.Unmarshal(envelope.Data, out); err != nil {
		return fmt.Errorf("%s: read the answer: %w", c.url, err)
	}
	return nil
}

// explain says what to do about a request that was not answered.
func (c *Client) explain(err error) error {
	var what *url.Error
	if errors.As(err, &what) {
		err = what.Err
	}
	var unknown x509.UnknownAuthorityError
	var host x509.HostnameError
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("no node answers at %s: name another by --url (%w)", c.url, err)
	case errors.As(err, &unknown):
		return fmt.Errorf("%s: %w: name a file with tls_config and its ca_file by --http.config.file", c.url, err)
	case errors.As(err, &host):
		return fmt.Errorf("%s: %w: name the node by --url as its certificate does, or set server_name in the tls_config of --http.config.file", c.url, err)
	case strings.Contains(err.Error(), "HTTP response to HTTPS client"):
		return fmt.Errorf("%s speaks no TLS: name it with http:// by --url", c.url)
	}
	return fmt.Errorf("%s: %w", c.url, err)
}
