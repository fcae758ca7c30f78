//go:build linux

package wire

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"
)

var a, b, c = netip.MustParseAddr("198.18.0.1"), netip.MustParseAddr("198.18.0.2"), netip.MustParseAddr("198.18.0.3")

func TestParse(t *testing.T) {
	udp := []byte{0x46, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0, 198, 18, 0, 1, 198, 18, 0, 2, 1, 1, 1, 1, 0x1f, 0x0a, 0x00, 0x35, 0, 8, 0, 0}
	want := Packet{From: a, To: b, UDP: true, FromPort: 7946, ToPort: 53}
	if got, ok := parse(udp); !ok || got != want {
		t.Errorf("parse = %+v, %t, want %+v", got, ok, want)
	}
	icmp := append(slices.Clone(udp[:9]), append([]byte{1}, udp[10:]...)...)
	if got, ok := parse(icmp); !ok || got != (Packet{From: a, To: b}) {
		t.Errorf("parse = %+v, %t, want no ports", got, ok)
	}
	for n := range udp {
		parse(udp[:n]) // must not panic
	}
	if _, ok := parse([]byte{0x60, 31: 0}); ok {
		t.Error("IPv6 is taken for IPv4")
	}
}

func TestRules(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	ab, ba, ac := Packet{From: a, To: b, ToPort: 1}, Packet{From: b, To: a, FromPort: 1}, Packet{From: a, To: c, ToPort: 2}
	oneWay := Cut([]netip.Addr{a}, []netip.Addr{b})
	twoWay := Both(oneWay, Cut([]netip.Addr{b}, []netip.Addr{a}))
	for _, tc := range []struct {
		name       string
		rule       Rule
		ab, ba, ac bool // dropped
	}{
		{"one way", oneWay, true, false, false},
		{"both ways", twoWay, true, true, false},
		{"a port", Lose(1, 1), true, true, false},
		{"nothing lost", Lose(0, 1), false, false, false},
	} {
		got := []bool{tc.rule(ab, rnd).Drop, tc.rule(ba, rnd).Drop, tc.rule(ac, rnd).Drop}
		if want := []bool{tc.ab, tc.ba, tc.ac}; !slices.Equal(got, want) {
			t.Errorf("%s drops %v, want %v", tc.name, got, want)
		}
	}
}

func TestLoseAndJumbleAreRandom(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	lose, jumble := Lose(0.3, 1), Jumble([]netip.Addr{a, b}, time.Millisecond)
	const n = 10000
	dropped, reordered, again := 0, 0, 0
	for range n {
		if lose(Packet{From: a, To: b, ToPort: 1}, rnd).Drop {
			dropped++
		}
		f := jumble(Packet{From: a, To: b}, rnd)
		if f.Delay > time.Millisecond {
			reordered++
		}
		if f.Again > 0 {
			again++
		}
		if f.Drop || f.Delay < time.Millisecond {
			t.Fatalf("%+v", f)
		}
	}
	for what, got := range map[string]struct{ n, want int }{"dropped": {dropped, 3000}, "reordered": {reordered, 500}, "duplicated": {again, 500}} {
		if got.n < got.want*8/10 || got.n > got.want*12/10 {
			t.Errorf("%d of %d packets are %s, want about %d", got.n, n, what, got.want)
		}
	}
	if f := jumble(Packet{From: a, To: c}, rnd); f != (Fate{}) {
		t.Errorf("a packet to somebody else: %+v", f)
	}
}

func TestFateAfter(t *testing.T) {
	for _, tc := range []struct {
		fate Fate
		want []time.Duration
	}{
		{Fate{}, nil},
		{Fate{Drop: true, Delay: 1, Again: 1}, nil},
		{Fate{Delay: 2}, []time.Duration{2}},
		{Fate{Again: 3}, []time.Duration{3}},
		{Fate{Delay: 2, Again: 3}, []time.Duration{2, 5}},
	} {
		if got := tc.fate.after(); !slices.Equal(got, tc.want) {
			t.Errorf("after of %+v = %v, want %v", tc.fate, got, tc.want)
		}
	}
}
