package acceptance

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// operator looks at the status of a cluster all the time, on one node after the other.
type operator struct {
	stop func() // ends the looking

	mu    sync.Mutex
	steps []*step
}

// step is what an operator saw of one step of a test.
type step struct {
	name  string
	began time.Time
	// wants are patterns each of which some status has to match.
	wants  []string
	sights []sight
	// problems are what the operator was not told.
	problems []string
}

// sight is what one `starling cluster status` said.
type sight struct {
	node       string
	began, end time.Time
	text       string
	err        error
}

// begin ends the step before.
func (o *operator) begin(name string, wants ...string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.steps = append(o.steps, &step{name: name, began: time.Now(), wants: wants})
}

// watch returns an operator who looks at one member after the other until stopped, and remembers
// what each said by steps. At least one is to be asked at any time.
func watch(ctx context.Context, members []*member) *operator {
	o := &operator{}
	ctx, cancel := context.WithCancel(ctx)
	var looking sync.WaitGroup
	looking.Go(func() {
		ticks := time.NewTicker(500 * time.Millisecond)
		defer ticks.Stop()
		for i := 0; ; i++ {
			select {
			case <-ticks.C:
			case <-ctx.Done():
				return
			}
			asked := slices.DeleteFunc(slices.Clone(members), func(m *member) bool { return !m.asked.Load() })
			o.look(ctx, asked[i%len(asked)])
		}
	})
	o.stop = func() {
		cancel()
		looking.Wait()
	}
	return o
}

// look asks one node. What a node says that is being taken away does not count.
func (o *operator) look(ctx context.Context, m *member) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	s := sight{node: m.service, began: time.Now()}
	s.text, s.err = command{args: []string{"docker", "exec", m.at.Load().container, "/bin/starling", "cluster", "status"}}.run(ctx)
	s.end = time.Now()
	if !m.asked.Load() || ctx.Err() == context.Canceled {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	// It belongs to the step in which it began.
	for _, step := range slices.Backward(o.steps) {
		if !step.began.After(s.began) {
			step.sights = append(step.sights, s)
			return
		}
	}
}

// awaitSeen waits until the operator was told what the present step wants: the cluster stays as
// it is until the next one begins.
func (o *operator) awaitSeen(t *testing.T) {
	t.Helper()
	eventually(t, stepTimeout, "the operator is told", func(context.Context) error {
		o.mu.Lock()
		defer o.mu.Unlock()
		if unseen := o.steps[len(o.steps)-1].unseen(); len(unseen) > 0 {
			return fmt.Errorf("no status matches %q", unseen)
		}
		return nil
	})
}

const settledLine = `(?m)^No transition: all copies are where the table says$`

var (
	settledStatus    = regexp.MustCompile(settledLine)
	transitionStatus = regexp.MustCompile(`(?m)^Transition: (copying|switching) since \S+ \S+ UTC, for (\S+) \(epoch (\d+)\)$`)
	progressLine     = regexp.MustCompile(`(?m)^  \S+ +\[[=> ]{24}\] +(\d+)% `)
)

// judge holds what was seen against what an operator has to be told, once nobody looks any
// more.
func (o *operator) judge(t *testing.T) {
	t.Helper()
	phases := map[string]span{}
	for i, s := range o.steps {
		until := time.Now()
		if i+1 < len(o.steps) {
			until = o.steps[i+1].began
		}
		t.Log(s.judge(until, phases))
		for _, problem := range s.problems {
			t.Errorf("%s: %s", s.name, problem)
		}
	}
}

// span is when a phase of a transition, which is known by its epoch, must have begun: in the
// step in which it was first seen, and not after that.
type span struct{ from, to time.Time }

// judge finds the problems of a step, and sums it up.
func (s *step) judge(until time.Time, phases map[string]span) string {
	moving, slowest, longest, last := 0, time.Duration(0), time.Duration(0), s.began
	var percents []string
	for _, see := range s.sights {
		slowest, longest, last = max(slowest, see.end.Sub(see.began)), max(longest, see.end.Sub(last)), see.end
		move := transitionStatus.FindStringSubmatch(see.text)
		switch {
		case see.err != nil:
			s.miss("status of %s: %v", see.node, see.err)
		case move == nil && !settledStatus.MatchString(see.text):
			s.miss("%s does not tell what happens and for how long:\n%s", see.node, see.text)
		case move != nil:
			moving++
			percents = append(percents, s.judgeMove(see, move, phases))
		}
	}
	for _, want := range s.unseen() {
		s.miss("none of %d statuses matches %s", len(s.sights), want)
	}
	return fmt.Sprintf("%-16s %5.1f s; status asked %d times, %d in a transition, each within %s and %s after the one before: %s", s.name, until.Sub(s.began).Seconds(),
		len(s.sights), moving, slowest.Round(100*time.Millisecond), longest.Round(100*time.Millisecond), strings.Join(slices.Compact(percents), " "))
}

// unseen returns what is wanted of the statuses of a step and that none of them said so far.
func (s *step) unseen() (wants []string) {
	for _, want := range s.wants {
		pattern := regexp.MustCompile(want)
		if !slices.ContainsFunc(s.sights, func(see sight) bool { return pattern.MatchString(see.text) }) {
			wants = append(wants, want)
		}
	}
	return wants
}

func (s *step) miss(format string, args ...any) {
	s.problems = append(s.problems, fmt.Sprintf(format, args...))
}

// judgeMove checks how far a transition is said to be, and since when. It returns the least
// percentage, or the name of a phase that has none.
func (s *step) judgeMove(see sight, move []string, phases map[string]span) string {
	const tolerance = 3 * time.Second // nodes may learn of a phase one after the other
	phase, epoch := move[1], move[3]
	lasted, err := time.ParseDuration(move[2])
	if err != nil {
		s.miss("%s: %v", see.node, err)
	}
	if _, seen := phases[epoch]; !seen {
		phases[epoch] = span{from: s.began.Add(-time.Second), to: see.end.Add(tolerance)}
	}
	if within := phases[epoch]; see.end.Add(-lasted).Before(within.from) || see.began.Add(-lasted).After(within.to) {
		s.miss("%s says at %s that %s of epoch %s lasts for %s, it began between %s and %s", see.node, see.end,
			phase, epoch, lasted, within.from, within.to)
	}
	if phase != "copying" {
		return phase
	}
	least := -1
	for _, line := range progressLine.FindAllStringSubmatch(see.text, -1) {
		if percent, err := strconv.Atoi(line[1]); err == nil && (least < 0 || percent < least) {
			least = percent
		}
	}
	if least < 0 {
		s.miss("%s does not tell how far the copying is:\n%s", see.node, see.text)
	}
	return strconv.Itoa(least) + "%"
}

// What an operator has to be told is missed where it is not said.
func TestOperatorMisses(t *testing.T) {
	const (
		settled = "No transition: all copies are where the table says\n"
		copying = "Transition: copying since 2026-03-01 11:56:48 UTC, for 3s (epoch 12)\n"
		bars    = "  node-1           [========================]  100%  ready           0 samples, 0 B\n" +
			"  node-2/01M8ZZZZ  [==========>             ]  45%   about 36s left  1.2M samples, 1.6 MiB, about 1.9 MiB to come  57 KiB/s  all before 2026-02-28 06:00\n"
	)
	began := time.Date(2026, 3, 1, 11, 56, 48, 0, time.UTC)
	for _, tc := range []struct {
		name, text string
		wants      []string
		after      time.Duration // from the beginning of the step
		misses     int
	}{
		{name: "settled", text: settled, wants: []string{settledLine}},
		{name: "copying", text: copying + bars, wants: []string{halfway}, after: 3 * time.Second},
		{name: "switching", text: strings.ReplaceAll(copying, "copying", "switching"), after: 3 * time.Second},
		{name: "says nothing", text: "Cluster 01M7YSNEEREZN61J7C0WFMQR6Q at epoch 12\n", misses: 1},
		{name: "no time", text: strings.ReplaceAll(copying, "since 2026-03-01 11:56:48 UTC, for 3s", "for longer than all nodes have run") + bars, misses: 1},
		{name: "no progress", text: copying, after: 3 * time.Second, misses: 1},
		{name: "nobody copies", text: copying + strings.SplitAfter(bars, "\n")[0], wants: []string{halfway}, after: 3 * time.Second, misses: 1},
		{name: "began before the step", text: copying + bars, after: time.Second, misses: 1},
	} {
		at := began.Add(tc.after)
		s := step{began: began, wants: tc.wants, sights: []sight{{began: at, end: at, text: tc.text}}}
		if s.judge(at, map[string]span{}); len(s.problems) != tc.misses {
			t.Errorf("%s: %d problems, want %d: %q", tc.name, len(s.problems), tc.misses, s.problems)
		}
	}
	late := step{began: began, sights: []sight{{began: began.Add(time.Minute), end: began.Add(time.Minute), text: copying + bars}}}
	late.judge(began.Add(time.Minute), map[string]span{"12": {from: began, to: began.Add(10 * time.Second)}})
	if len(late.problems) != 1 {
		t.Errorf("a phase that lasts for 3s a minute after it began: %d problems: %q", len(late.problems), late.problems)
	}
}
