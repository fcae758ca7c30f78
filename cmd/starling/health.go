package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"

	"github.com/starling-tsdb/starling/internal/config"
)

// checkHealth asks a node whether it is ready.
func (cl *commandLine) checkHealth(ctx context.Context) error {
	url := cl.healthURL
	if url == "" {
		host, port, err := net.SplitHostPort(cl.config.Web.ListenAddress)
		if err != nil {
			return config.Flagged("web.listen-address", err)
		}
		if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
			host = "127.0.0.1"
		}
		url = "http://" + net.JoinHostPort(host, port) + "/-/ready"
	}
	ctx, cancel := context.WithTimeout(ctx, cl.healthTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fmt.Errorf("--url: %w", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answered %s: %s", url, resp.Status, strings.TrimSpace(string(body)))
	}
	return nil
}
