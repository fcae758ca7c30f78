package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"golang.org/x/term"

	"github.com/starling-tsdb/starling/internal/admin"
	"github.com/starling-tsdb/starling/internal/api"
	"github.com/starling-tsdb/starling/internal/keyring"
)

// clusterCommand is `starling cluster`, as its flags and arguments said.
type clusterCommand struct {
	url        string
	httpConfig string

	// run has what each subcommand does, by its full name.
	run map[string]func(context.Context, *admin.Console) error

	watch  bool
	output string
	yes    bool
	wait   bool

	op      string
	args    []string
	nodes   []string
	old     string
	new     string
	lost    bool
	setLost bool
	accept  bool
	copies  int
	from    string
	to      string
	key     string
}

// errUsage marks a wrong command line that only shows when it is put together.
var errUsage = errors.New("wrong arguments")

func (cl *commandLine) clusterCommands() {
	c := &cl.cluster
	c.run = map[string]func(context.Context, *admin.Console) error{}
	top := cl.app.Command("cluster", "See how the cluster is, and change it. Exit status 0: done, 1: refused or failed, 2: wrong command line.")
	top.Flag("url", "A node to ask. Default: --web.listen-address on this host, by TLS if --web.config.file turns it on.").
		Envar("STARLING_CLUSTER_URL").StringVar(&c.url)
	top.Flag("http.config.file", "HTTP client configuration file for TLS and passwords, in Prometheus's format, as promtool takes it.").
		Envar("STARLING_CLUSTER_HTTP_CONFIG_FILE").StringVar(&c.httpConfig)
	add := func(name, help string, run func(context.Context, *admin.Console) error) *kingpin.CmdClause {
		cmd := top.Command(name, help)
		c.run[cmd.FullCommand()] = run
		return cmd
	}

	status := add("status", "Show nodes, copies, and how far a transition is.", c.status)
	status.Flag("watch", "Show it again and again, with a bar for each node that copies, until Ctrl-C.").NoEnvar().BoolVar(&c.watch)
	c.outputFlag(status)

	plan := add("plan", "Show what a command would do: slots that change, series and bytes that move, and about how long that takes. Changes nothing.",
		func(ctx context.Context, con *admin.Console) error {
			r, err := c.planned()
			if err != nil {
				return err
			}
			return con.Plan(ctx, r)
		})
	plan.Arg("command", "leave, remove, replace or replication.").Required().EnumVar(&c.op, "leave", "remove", "replace", "replication")
	plan.Arg("arguments", "The arguments of that command.").Required().StringsVar(&c.args)
	c.lostFlag(plan)
	c.acceptFlag(plan)
	c.outputFlag(plan)

	leave := add("leave", "Have nodes that are alive give their copies to others. They serve until that is done, and can then be stopped.",
		c.change("leave", func() api.CommandRequest { return api.CommandRequest{Nodes: c.nodes} }))
	remove := add("remove", "Give up nodes that will not come back: their copies are made anew from the other owners.",
		c.change("remove", func() api.CommandRequest { return api.CommandRequest{Nodes: c.nodes, AcceptLoss: c.accept} }))
	c.acceptFlag(remove)
	for _, cmd := range []*kingpin.CmdClause{leave, remove} {
		cmd.Arg("node", "ID or name of a node, or the beginning of either.").Required().StringsVar(&c.nodes)
	}
	replace := add("replace", "Have a new node, which is started and has joined, take the slot of another. Moves least.",
		c.change("replace", func() api.CommandRequest { return c.replacement() }))
	replace.Arg("old", "ID or name of the node that goes.").Required().StringVar(&c.old)
	replace.Arg("new", "ID or name of the node that takes its slot.").Required().StringVar(&c.new)
	c.lostFlag(replace)
	replication := add("replication", "Change how many copies of each series there are.",
		c.change("replication", func() api.CommandRequest { return api.CommandRequest{ReplicationFactor: c.copies} }))
	replication.Arg("copies", "Copies of each series, 1 to 16.").Required().IntVar(&c.copies)
	for _, cmd := range []*kingpin.CmdClause{leave, remove, replace, replication} {
		cmd.Flag("yes", "Do not ask.").Short('y').NoEnvar().BoolVar(&c.yes)
		cmd.Flag("wait", "Stay until it is done, and show how far it is.").NoEnvar().BoolVar(&c.wait)
	}

	recovery := add("recover", "Go on without a majority of the first five nodes, which is gone for good: ask a node that is left. Shows first what it would do, and what may be lost.",
		func(ctx context.Context, con *admin.Console) error { return con.Recover(ctx, c.yes) })
	recovery.Flag("yes", "Do not ask.").Short('y').NoEnvar().BoolVar(&c.yes)
	c.outputFlag(recovery)

	c.repairCommand(add)
	c.keyringCommands(top)
	add("pause", "Hold back the copying of this transition and of later ones. Writes and queries go on.",
		c.change("pause", func() api.CommandRequest { return api.CommandRequest{} }))
	add("resume", "Let the copying go on.", c.change("resume", func() api.CommandRequest { return api.CommandRequest{} }))
}

// keyringCommands are those of `starling cluster keyring`.
func (c *clusterCommand) keyringCommands(top *kingpin.CmdClause) {
	ring := top.Command("keyring", "See and change the keys that encrypt gossip, on all nodes at once. Needs TLS between nodes.")
	add := func(op, help string) *kingpin.CmdClause {
		cmd := ring.Command(op, help)
		c.outputFlag(cmd)
		c.run[cmd.FullCommand()] = func(ctx context.Context, con *admin.Console) error {
			k, err := c.keyringChange(op, con.In)
			if err != nil {
				return err
			}
			return con.Keyring(ctx, k)
		}
		return cmd
	}
	add("list", "Show the fingerprints of the keys, and which nodes have them.")
	add("add", "Have all nodes open what is encrypted with a key.").
		Arg("key", "A key in base64, as openssl rand -base64 32 makes one. Default: a line of the standard input, so that no list of processes or commands has it.").StringVar(&c.key)
	add("use", "Have all nodes encrypt with a key that all have.").
		Arg("key", "The key or its fingerprint. Default: a line of the standard input.").StringVar(&c.key)
	add("remove", "Have all nodes forget a key that none uses.").
		Arg("key", "The key or its fingerprint. Default: a line of the standard input.").StringVar(&c.key)
}

// keyringChange is what an operation is asked with: only add sends a key.
func (c *clusterCommand) keyringChange(op string, in io.Reader) (api.KeyringChange, error) {
	k := api.KeyringChange{Op: op}
	if op == "list" {
		return k, nil
	}
	text := c.key
	if text == "" {
		line, err := bufio.NewReader(io.LimitReader(in, 1024)).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return k, fmt.Errorf("read the key: %w", err)
		}
		text = line
	}
	var err error
	if op == "add" {
		k.Key, err = keyring.Parse(text)
	} else {
		k.Fingerprint, err = keyring.Named(text)
	}
	if err != nil {
		return k, fmt.Errorf("%w: %w", errUsage, err)
	}
	return k, nil
}

func (c *clusterCommand) repairCommand(add func(name, help string, run func(context.Context, *admin.Console) error) *kingpin.CmdClause) {
	repair := add("repair", "Have all nodes compare the samples that they hold with the other owners soon, and copy what differs. They do so once a day by themselves.",
		func(ctx context.Context, con *admin.Console) error {
			r, err := c.repairRequest()
			if err != nil {
				return err
			}
			return con.Repair(ctx, r)
		})
	repair.Flag("from", "The oldest time to compare, as in RFC 3339: 2026-01-31T12:00:00Z. Default: all.").NoEnvar().StringVar(&c.from)
	repair.Flag("to", "The newest time to compare. Default: all; the last hours follow when they are in blocks.").NoEnvar().StringVar(&c.to)
	c.outputFlag(repair)
}

// repairRequest is what the flags of repair say.
func (c *clusterCommand) repairRequest() (api.RepairRequest, error) {
	var r api.RepairRequest
	for _, f := range []struct {
		name, value string
		into        **time.Time
	}{{"from", c.from, &r.From}, {"to", c.to, &r.To}} {
		if f.value == "" {
			continue
		}
		t, err := time.Parse(time.RFC3339, f.value)
		if err != nil {
			return r, fmt.Errorf("%w: --%s=%q is no time as in RFC 3339, like 2026-01-31T12:00:00Z", errUsage, f.name, f.value)
		}
		*f.into = &t
	}
	return r, nil
}

func (c *clusterCommand) outputFlag(cmd *kingpin.CmdClause) {
	cmd.Flag("output", "text or json.").Short('o').NoEnvar().Default("text").EnumVar(&c.output, "text", "json")
}

func (c *clusterCommand) lostFlag(cmd *kingpin.CmdClause) {
	cmd.Flag("lost", "replace: give the old node up, or with --no-lost have it serve until the new one holds its copies. Default: give it up unless it is alive.").
		NoEnvar().IsSetByUser(&c.setLost).BoolVar(&c.lost)
}

func (c *clusterCommand) acceptFlag(cmd *kingpin.CmdClause) {
	cmd.Flag("accept-loss", "remove: give the nodes up even if some series have too few owners left, or none. What only those nodes held is lost for good.").
		NoEnvar().BoolVar(&c.accept)
}

func (c *clusterCommand) status(ctx context.Context, con *admin.Console) error {
	if c.watch {
		return con.Watch(ctx)
	}
	return con.Status(ctx)
}

func (c *clusterCommand) change(op string, request func() api.CommandRequest) func(context.Context, *admin.Console) error {
	return func(ctx context.Context, con *admin.Console) error {
		r := request()
		r.Op = op
		return con.Change(ctx, r, c.yes, c.wait)
	}
}

func (c *clusterCommand) replacement() api.CommandRequest {
	r := api.CommandRequest{Old: c.old, New: c.new}
	if c.setLost {
		r.Lost = &c.lost
	}
	return r
}

// planned is the command that a plan is asked for.
func (c *clusterCommand) planned() (api.CommandRequest, error) {
	r := api.CommandRequest{Nodes: c.args, AcceptLoss: c.accept}
	if c.accept && c.op != "remove" {
		return r, fmt.Errorf("%w: --accept-loss belongs to remove", errUsage)
	}
	switch c.op {
	case "replace":
		if len(c.args) != 2 {
			return r, fmt.Errorf("%w: plan replace takes OLD and NEW", errUsage)
		}
		c.old, c.new = c.args[0], c.args[1]
		r = c.replacement()
	case "replication":
		n, err := strconv.Atoi(c.args[0])
		if err != nil || len(c.args) != 1 {
			return r, fmt.Errorf("%w: plan replication takes a number of copies", errUsage)
		}
		r = api.CommandRequest{ReplicationFactor: n}
	}
	if c.op != "replace" && c.setLost {
		return r, fmt.Errorf("%w: --lost belongs to replace", errUsage)
	}
	r.Op = c.op
	return r, nil
}

// administer runs a subcommand of `starling cluster`.
func (cl *commandLine) administer(ctx context.Context, run func(context.Context, *admin.Console) error) error {
	c := &cl.cluster
	if c.url == "" {
		var err error
		if c.url, err = cl.ownURL(); err != nil {
			return err
		}
	}
	client, err := admin.NewClient(c.url, c.httpConfig)
	if err != nil {
		return err
	}
	return run(ctx, &admin.Console{
		Cluster: client, In: os.Stdin, Out: os.Stdout, JSON: c.output == "json",
		Asks:  term.IsTerminal(int(os.Stdin.Fd())),
		Width: func() int { return terminalWidth(os.Stdout) },
	})
}

// terminalWidth is 0 if a file is no terminal.
func terminalWidth(f *os.File) int {
	if !term.IsTerminal(int(f.Fd())) || os.Getenv("TERM") == "dumb" {
		return 0
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil || width <= 0 {
		return 80
	}
	return width
}
