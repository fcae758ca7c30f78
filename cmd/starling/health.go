package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"

	"github.com/prometheus/exporter-toolkit/web"
	"go.yaml.in/yaml/v2"

	"github.com/starling-tsdb/starling/internal/admin"
	"github.com/starling-tsdb/starling/internal/config"
)

// checkHealth asks a node whether it is ready.
func (cl *commandLine) checkHealth(ctx context.Context) error {
	url := cl.healthURL
	if url == "" {
		own, err := cl.ownURL()
		if err != nil {
			return err
		}
		url = own + "/-/ready"
	}
	ctx, cancel := context.WithTimeout(ctx, cl.healthTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fmt.Errorf("--url: %w", err)
	}
	// The node's certificate names its host as others know it, and this asks the loopback
	// address; the answer decides about nothing but this command's exit status.
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	if cl.healthHTTPConfig != "" {
		if client, err = admin.NewHTTPClient(cl.healthHTTPConfig); err != nil {
			return err
		}
	}
	defer client.CloseIdleConnections()
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	if resp.StatusCode == http.StatusUnauthorized {
		return admin.Unknown(url)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answered %s: %s", url, resp.Status, strings.TrimSpace(string(body)))
	}
	return nil
}

// ownURL is where a node with these flags answers, on this host.
func (cl *commandLine) ownURL() (string, error) {
	host, port, err := net.SplitHostPort(cl.config.Web.ListenAddress)
	if err != nil {
		return "", config.Flagged("web.listen-address", err)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	scheme, err := webScheme(cl.config.Web.ConfigFile)
	if err != nil {
		return "", config.Flagged("web.config.file", err)
	}
	return scheme + "://" + net.JoinHostPort(host, port), nil
}

// webScheme tells whether a --web.config.file, if there is one, turns TLS on.
func webScheme(file string) (string, error) {
	if file == "" {
		return "http", nil
	}
	content, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	var c web.Config
	if err := yaml.Unmarshal(content, &c); err != nil {
		return "", err
	}
	if c.TLSConfig.IsEnabled() {
		return "https", nil
	}
	return "http", nil
}
