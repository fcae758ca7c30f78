package expiry

import (
	"math/rand/v2"
	"slices"
	"testing"
)

const (
	minute = 60 * 1000
	hour   = 60 * minute
	day    = 24 * hour
	year   = 365 * day
)

// draw makes a random rule, and a present.
func draw(rng *rand.Rand) (r Rule, now int64) {
	r.Head = 4 * hour
	if rng.IntN(4) > 0 {
		r.Limits.Time = 1 + rng.Int64N(30*day)
	}
	if rng.IntN(4) > 0 {
		r.Limits.Size = 1 + rng.Int64N(1000)
	}
	return r, rng.Int64N(100*year) - 20*year
}

// around returns a time about as far from t as some wrong clocks are.
func around(rng *rand.Rand, t int64) int64 {
	return t + []int64{0, 1, -1, minute, -minute, Slack, -Slack, Slack + 1, hour, -hour, day, -day, year, -year}[rng.IntN(14)]
}

func TestTimeFollowsTheNewestSampleAndTheClock(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for range 100_000 {
		r, now := draw(rng)
		newest := around(rng, now)
		got := r.ByTime(now, newest)
		if r.Limits.Time == 0 {
			if got != None {
				t.Fatalf("%+v without a time to keep: %d", r, got)
			}
			continue
		}
		due := min(now, newest) - max(r.Limits.Time, r.Head)
		if got > due || due-got >= Step || got%Step != 0 {
			t.Fatalf("%+v at %d, newest %d: %d, want the step before %d", r, now, newest, got, due)
		}
	}
	if got := (Rule{Limits: Limits{Time: day}}).ByTime(year, None); got != None {
		t.Errorf("an empty store has expired samples: %d", got)
	}
}

func TestSizeCutsAsMuchAsItMust(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 1))
	cut := 0
	for range 100_000 {
		r, now := draw(rng)
		newest := now - rng.Int64N(day)
		other := rng.Int64N(200)
		var blocks []Block
		ends := []int64{None} // horizons that could be
		for range rng.IntN(8) {
			b := Block{End: newest + hour - rng.Int64N(10)*hour, Bytes: rng.Int64N(400)}
			blocks, ends = append(blocks, b), append(ends, b.End)
		}
		left := func(horizon int64) int64 {
			sum := other
			for _, b := range blocks {
				if b.End > horizon {
					sum += b.Bytes
				}
			}
			return sum
		}
		slices.Sort(ends)
		want := int64(None)
		for _, e := range ends {
			if r.Limits.Size == 0 || e > newest-r.Head {
				break
			}
			if want = e; left(e) <= r.Limits.Size {
				break
			}
		}
		if got := r.BySize(now, newest, other, blocks); got != want {
			t.Fatalf("%+v at %d, newest %d, other %d, %+v: %d, want %d", r, now, newest, other, blocks, got, want)
		}
		if want != None {
			cut++
		}
	}
	if cut < 10_000 {
		t.Errorf("only %d of the cases cut something", cut)
	}
}

// Whatever a node is told, it keeps what its own limits and clock have it keep, but for the
// difference that clocks may have, and the last hours; and nothing comes back.
func TestNobodyExpiresWhatAnotherOneKeeps(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 1))
	taken, refused := 0, 0
	for range 200_000 {
		r, now := draw(rng)
		own := Horizon{Time: r.ByTime(now, now-rng.Int64N(day)), Size: None}
		other, _ := draw(rng)
		clock := around(rng, now)
		told := Horizon{Time: other.ByTime(clock, clock), Size: around(rng, now-rng.Int64N(20*day))}
		got := r.Adopt(own, told, now)
		if got.Time < own.Time || got.Size < own.Size {
			t.Fatalf("%+v fell to %+v", own, got)
		}
		if got.Time != own.Time && (r.Limits.Time == 0 || got.Time > now+Slack-r.Limits.Time || got.Time > now+Slack-r.Head) {
			t.Fatalf("%+v at %d, told %+v: %+v expires what is to be kept", r, now, told, got)
		}
		if got.Size > now+Slack-r.Head {
			t.Fatalf("%+v at %d, told %+v: %+v expires the last hours", r, now, told, got)
		}
		if told.Size <= now-r.Head && got.Size < told.Size {
			t.Fatalf("%+v at %d, told %+v: %+v keeps what a disk has no room for", r, now, told, got)
		}
		if got == own {
			refused++
		} else {
			taken++
		}
	}
	if taken < 10_000 || refused < 10_000 {
		t.Errorf("%d taken, %d refused", taken, refused)
	}
}

// Nodes with the same limits, whose clocks differ by less than Slack, agree as soon as each has
// heard what any other one says, in whatever order, and whatever nodes with wrong clocks and
// limits say in between.
func TestConvergence(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 1))
	for range 20_000 {
		r, now := draw(rng)
		n := 2 + rng.IntN(4)
		mad := rng.IntN(2) // the last node
		rules, clocks, horizons := make([]Rule, n), make([]int64, n), make([]Horizon, n)
		for i := range n {
			rules[i], clocks[i] = r, now+rng.Int64N(Slack)
			if i >= n-mad {
				rules[i], clocks[i] = Rule{Limits: Limits{Time: 1 + rng.Int64N(60*day), Size: 1}, Head: r.Head}, now+rng.Int64N(2*year)-year
			}
			newest := clocks[i] - rng.Int64N(minute)
			horizons[i] = Horizon{Time: rules[i].ByTime(clocks[i], newest), Size: None}
			if rng.IntN(2) == 0 {
				horizons[i].Size = rules[i].BySize(clocks[i], newest, 2000, []Block{{End: newest - rng.Int64N(20*day), Bytes: 1}})
			}
		}
		sane := n - mad
		if sane < 2 {
			continue
		}
		// All pairs, twice: what one has heard of the last node the others hear from it.
		for range 2 {
			for _, i := range rng.Perm(n) {
				for _, j := range rng.Perm(n) {
					horizons[i] = rules[i].Adopt(horizons[i], horizons[j], clocks[i])
				}
			}
		}
		for i := range sane {
			a, b := horizons[i], horizons[0]
			// What lies within the difference of the clocks one may refuse a moment longer.
			edge := func(t int64, keep int64) bool { return t > now+Slack-max(keep, r.Head) }
			if a != b && !edge(max(a.Time, b.Time), r.Limits.Time) && !edge(max(a.Size, b.Size), 0) {
				t.Fatalf("%+v: nodes 0 and %d of %d keep %+v and %+v", r, i, n, b, a)
			}
		}
	}
}
