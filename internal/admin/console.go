package admin

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/starling-tsdb/starling/internal/api"
)

const (
	// lookEvery is how often the state is asked for while somebody watches.
	lookEvery = time.Second
	// tellEvery is how often a line is written where there is no terminal.
	tellEvery = 10 * time.Second
	// patience is for how long a node may not answer while somebody waits for the end.
	patience = 2 * time.Minute
)

// Cluster is what a Console talks to; a Client is one.
type Cluster interface {
	Status(ctx context.Context) (*api.ClusterStatus, error)
	Plan(ctx context.Context, r api.CommandRequest) (*api.ClusterPlan, error)
	Do(ctx context.Context, r api.CommandRequest) (api.CommandResult, error)
	PlanRecovery(ctx context.Context) (*api.RecoveryPlan, error)
	Recover(ctx context.Context, r api.RecoveryRequest) (api.CommandResult, error)
	Repair(ctx context.Context, r api.RepairRequest) (api.RepairResult, error)
	Keyring(ctx context.Context, k api.KeyringChange) (*api.KeyringStatus, error)
}

// Console is where an operator sits. Its methods are not for concurrent use.
type Console struct {
	Cluster Cluster
	In      io.Reader
	Out     io.Writer
	// Asks tells whether somebody is there to be asked, at In.
	Asks bool
	// Width returns the columns of the terminal that Out is, 0 if it is none.
	Width func() int
	// JSON has states and plans written as they came.
	JSON bool

	drawn int // lines that the next frame replaces
}

// Status shows the state once.
func (c *Console) Status(ctx context.Context) error {
	s, err := c.Cluster.Status(ctx)
	if err != nil {
		return err
	}
	if c.JSON {
		return c.json(s)
	}
	return c.write(Status(s, time.Now()))
}

// Plan shows what a command would do.
func (c *Console) Plan(ctx context.Context, r api.CommandRequest) error {
	p, err := c.Cluster.Plan(ctx, r)
	if err != nil {
		return err
	}
	if c.JSON {
		return c.json(p)
	}
	return c.write(Plan(p))
}

// errUnconfirmed ends a command that nobody has said yes to.
var errUnconfirmed = errors.New("nothing was done")

// Change has a command carried out: sure or not, it shows the plan first, and asks if it is
// not sure. With wait it stays until all that the cluster has to do is done.
func (c *Console) Change(ctx context.Context, r api.CommandRequest, sure, wait bool) error {
	if !plain(r.Op) {
		if !sure && !c.Asks {
			return fmt.Errorf("%w: there is nobody to ask, so say --yes; starling cluster plan %s shows what would happen", errUnconfirmed, r.Op)
		}
		if err := c.Plan(ctx, r); err != nil {
			return err
		}
		if !sure {
			if err := c.confirm(ctx); err != nil {
				return err
			}
		}
	}
	done, err := c.Cluster.Do(ctx, r)
	if err != nil {
		return err
	}
	if err := c.write(fmt.Sprintf("Agreed, as of epoch %d\n", done.Epoch)); err != nil {
		return err
	}
	if !wait {
		return nil
	}
	return c.Wait(ctx, done.Epoch)
}

// Repair has all nodes compare what they hold, and says who does not.
func (c *Console) Repair(ctx context.Context, r api.RepairRequest) error {
	result, err := c.Cluster.Repair(ctx, r)
	if err != nil {
		return err
	}
	if c.JSON {
		return c.json(result)
	}
	return c.write(Repair(result))
}

// Keyring lists or changes the keys of gossip. It fails if a node did not do it.
func (c *Console) Keyring(ctx context.Context, k api.KeyringChange) error {
	s, err := c.Cluster.Keyring(ctx, k)
	if err != nil {
		return err
	}
	if c.JSON {
		err = c.json(s)
	} else {
		err = c.write(Keyring(s))
	}
	failed := 0
	for _, n := range s.Nodes {
		if n.Error != "" {
			failed++
		}
	}
	if err == nil && failed > 0 {
		return fmt.Errorf("%d of %d nodes did not do it: repeat the command when they do", failed, len(s.Nodes))
	}
	return err
}

// Recover has the node that is asked go on without those that are gone: sure or not, it shows
// first what that means, and asks if it is not sure.
func (c *Console) Recover(ctx context.Context, sure bool) error {
	p, err := c.Cluster.PlanRecovery(ctx)
	if err != nil {
		return err
	}
	if c.JSON {
		err = c.json(p)
	} else {
		err = c.write(Recovery(p))
	}
	if err != nil {
		return err
	}
	if !sure {
		if !c.Asks {
			return fmt.Errorf("%w: there is nobody to ask, so say --yes", errUnconfirmed)
		}
		if err := c.confirm(ctx); err != nil {
			return err
		}
	}
	r := api.RecoveryRequest{Epoch: p.Epoch}
	for _, n := range p.Survivors {
		r.Survivors = append(r.Survivors, n.ID)
	}
	done, err := c.Cluster.Recover(ctx, r)
	if err != nil {
		return err
	}
	return c.write(fmt.Sprintf("Recovered, as of epoch %d\n", done.Epoch))
}

// plain commands move nothing by themselves.
func plain(op string) bool { return op == "pause" || op == "resume" }

func (c *Console) confirm(ctx context.Context) error {
	if err := c.write("Go on? [y/N] "); err != nil {
		return err
	}
	answer := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(c.In).ReadString('\n') // no line is no answer
		answer <- line
	}()
	select {
	case line := <-answer:
		if said := strings.ToLower(strings.TrimSpace(line)); said == "y" || said == "yes" {
			return nil
		}
		return errUnconfirmed
	case <-ctx.Done():
		return errUnconfirmed
	}
}

// Watch shows the state again and again, until ctx ends.
func (c *Console) Watch(ctx context.Context) error {
	return c.follow(ctx, func(*api.ClusterStatus) bool { return false })
}

// Wait shows the state until there is nothing left to do as of an epoch.
func (c *Console) Wait(ctx context.Context, epoch uint64) error {
	err := c.follow(ctx, func(s *api.ClusterStatus) bool { return s.Epoch >= epoch && s.Transition == nil && s.Waiting == 0 })
	if err == nil && ctx.Err() != nil {
		return errors.New("not waited for the end; it goes on, and starling cluster status --watch shows how far it is")
	}
	return err
}

// follow shows the state until it is over, or ctx ends. A node that does not answer for a
// while, as when it restarts, is asked again.
func (c *Console) follow(ctx context.Context, over func(*api.ClusterStatus) bool) error {
	var answered, told time.Time
	var before *api.ClusterStatus
	for {
		s, err := c.Cluster.Status(ctx)
		now := time.Now()
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			answered = now
			terminal := c.Width() > 0
			if terminal || over(s) || before == nil || now.Sub(told) >= tellEvery || news(before, s) {
				if err := c.show(s, now, terminal); err != nil {
					return err
				}
				told = now
			}
			before = s
			if over(s) {
				return nil
			}
		case answered.IsZero() || now.Sub(answered) > patience:
			return err
		default:
			if err := c.frame(fmt.Sprintf("%v; asking again\n", err)); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(lookEvery):
		}
	}
}

// news tells whether more than figures has changed.
func news(before, now *api.ClusterStatus) bool {
	return before.Epoch != now.Epoch || before.Paused != now.Paused || (before.Transition == nil) != (now.Transition == nil) ||
		now.Transition != nil && len(before.Transition.Awaited) != len(now.Transition.Awaited)
}

func (c *Console) show(s *api.ClusterStatus, now time.Time, terminal bool) error {
	switch {
	case c.JSON:
		return c.json(s)
	case terminal:
		return c.frame(Status(s, now))
	}
	return c.write(now.UTC().Format(time.TimeOnly) + " " + Summary(s) + "\n")
}

// frame writes text in place of the frame before, if Out is a terminal.
func (c *Console) frame(text string) error {
	width := c.Width()
	if width <= 0 {
		return c.write(text)
	}
	var b strings.Builder
	if c.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", c.drawn)
	}
	b.WriteString("\r\x1b[J")
	c.drawn = 0
	for line := range strings.Lines(printable(text)) {
		// A line that the terminal breaks would count as one and be two.
		if runes := []rune(strings.TrimSuffix(line, "\n")); len(runes) >= width {
			line = string(runes[:width-1]) + "\n"
		}
		b.WriteString(line)
		c.drawn++
	}
	_, err := io.WriteString(c.Out, b.String())
	return err
}

func (c *Console) write(text string) error {
	_, err := io.WriteString(c.Out, printable(text))
	return err
}

func (c *Console) json(v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(c.Out, "%s\n", b)
	return err
}

// printable keeps what a node said, as its name, from steering the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r != '\n' && (r < ' ' || r >= 0x7f && r < 0xa0) {
			return '?'
		}
		return r
	}, s)
}
