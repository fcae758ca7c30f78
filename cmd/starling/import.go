package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/alecthomas/kingpin/v2"
	promconfig "github.com/prometheus/common/config"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/starling-tsdb/starling/internal/admin"
	"github.com/starling-tsdb/starling/internal/history"
)

// importCommand is `starling import`, as its flags said.
type importCommand struct {
	cmd *kingpin.CmdClause

	url        string
	httpConfig string

	blocks         string
	remoteRead     string
	export         string
	fromHTTPConfig string

	match    string
	labels   map[string]string
	start    string
	end      string
	rate     float64
	progress string
}

func (cl *commandLine) importCommands() {
	c := &cl.imports
	c.labels = map[string]string{}
	c.cmd = cl.app.Command("import", "Send the samples that another database has kept to a node, the oldest first. "+
		"The nodes take them as far back as --storage.tsdb.out-of-order-time-window and the retention say. Exit status 0: all are written, 1: not all, 2: wrong command line.")
	f := func(name, help string) *kingpin.FlagClause { return c.cmd.Flag(name, help).NoEnvar() }
	f("from.blocks", "Directory with blocks of a Prometheus TSDB: a snapshot, or a data directory, whose log is not read.").StringVar(&c.blocks)
	f("from.remote-read", "URL of Prometheus's remote read, like http://prometheus:9090/api/v1/read.").StringVar(&c.remoteRead)
	f("from.export", "URL of an export in JSON lines, as VictoriaMetrics has it, like http://victoria:8428/api/v1/export.").StringVar(&c.export)
	f("from.http.config.file", "HTTP client configuration file for TLS and passwords of where samples come from, in Prometheus's format.").StringVar(&c.fromHTTPConfig)
	f("url", "The node to send to. Default: --web.listen-address on this host, by TLS if --web.config.file turns it on.").StringVar(&c.url)
	f("http.config.file", "HTTP client configuration file for TLS and passwords of the node, in Prometheus's format.").StringVar(&c.httpConfig)
	f("match", "Selector of the series to send.").Default(`{__name__!=""}`).StringVar(&c.match)
	f("label", "A label to add to each series, name=value, as external_labels of a sender do; repeatable.").StringMapVar(&c.labels)
	f("start", "Time of the oldest samples to send, like 2026-01-31T12:00:00Z. Default: of the oldest in the blocks; else required.").StringVar(&c.start)
	f("end", "Time of the newest. Default: of the newest in the blocks; else now.").StringVar(&c.end)
	f("rate", "Samples a second at most; 0 is no limit.").Default("0").Float64Var(&c.rate)
	f("progress", "File that remembers how far the import is: started again, it goes on from there.").Default("starling-import.progress").StringVar(&c.progress)
}

// importSamples is the command. Ctrl-C ends it; what was sent is remembered.
func (cl *commandLine) importSamples(ctx context.Context, out io.Writer) error {
	c := &cl.imports
	opts, err := c.options()
	if err != nil {
		return err
	}
	if opts.URL = c.url; opts.URL == "" {
		if opts.URL, err = cl.ownURL(); err != nil {
			return err
		}
	}
	if opts.Client, err = admin.NewHTTPClient(c.httpConfig); err != nil {
		return err
	}
	defer opts.Client.CloseIdleConnections()
	source, opened, err := c.open()
	if err != nil {
		return err
	}
	if opened != nil {
		defer opened.Close()
	} else if c.start == "" {
		return fmt.Errorf("%w: --start is required, unless samples come from blocks", errUsage)
	}
	opts.Source, opts.Out = source, out
	report, err := history.Run(ctx, opts)
	fmt.Fprintf(out, "%d series, %d samples written, %d refused\n", report.Series, report.Written, report.Refused)
	for _, reason := range report.Reasons {
		fmt.Fprintf(out, "refused: %s\n", reason)
	}
	switch {
	case err != nil:
		return fmt.Errorf("%w; the same command goes on from what %s remembers", err, c.progress)
	case report.Refused > 0:
		return fmt.Errorf("%d samples were refused", report.Refused)
	}
	return nil
}

// options are those that do not depend on where samples come from.
func (c *importCommand) options() (history.Options, error) {
	opts := history.Options{From: math.MinInt64 / 2, To: time.Now().UnixMilli(), Rate: c.rate, Progress: c.progress, Labels: labels.FromMap(c.labels)}
	var err error
	if opts.Matchers, err = parser.NewParser(parser.Options{}).ParseMetricSelector(c.match); err != nil {
		return opts, fmt.Errorf("%w: --match: %w", errUsage, err)
	}
	for _, at := range []struct {
		flag, text string
		dst        *int64
	}{{"start", c.start, &opts.From}, {"end", c.end, &opts.To}} {
		if at.text == "" {
			continue
		}
		t, err := time.Parse(time.RFC3339, at.text)
		if err != nil {
			return opts, fmt.Errorf("%w: --%s: %w", errUsage, at.flag, err)
		}
		*at.dst = t.UnixMilli()
	}
	return opts, nil
}

// open opens the one source that is named. Blocks are to be closed.
func (c *importCommand) open() (history.Source, io.Closer, error) {
	named := 0
	for _, from := range []string{c.blocks, c.remoteRead, c.export} {
		if from != "" {
			named++
		}
	}
	if named != 1 {
		return nil, nil, fmt.Errorf("%w: name one of --from.blocks, --from.remote-read and --from.export", errUsage)
	}
	if c.blocks != "" {
		blocks, err := history.OpenBlocks(c.blocks)
		if err != nil {
			return nil, nil, fmt.Errorf("--from.blocks: %w", err)
		}
		return blocks, blocks, nil
	}
	client := &promconfig.HTTPClientConfig{FollowRedirects: true, EnableHTTP2: true}
	if c.fromHTTPConfig != "" {
		var err error
		if client, _, err = promconfig.LoadHTTPConfigFile(c.fromHTTPConfig); err != nil {
			return nil, nil, fmt.Errorf("--from.http.config.file: %w", err)
		}
	}
	if c.export != "" {
		export, err := history.NewExport(c.export, *client)
		if err != nil {
			return nil, nil, fmt.Errorf("--from.export: %w", err)
		}
		return export, nil, nil
	}
	read, err := history.NewRemoteRead(c.remoteRead, *client)
	if err != nil {
		return nil, nil, fmt.Errorf("--from.remote-read: %w", err)
	}
	return read, nil, nil
}
