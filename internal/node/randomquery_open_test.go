package node

import "testing"

// TestOpenAnswers tells answers that are open from those that are not.
func TestOpenAnswers(t *testing.T) {
	vector := func(points map[string]float64) *queryAnswer {
		a := &queryAnswer{kind: "vector", points: map[string]map[int64]point{}}
		for ls, v := range points {
			a.add(ls, 1, point{v})
		}
		return a
	}
	value := func(text string, count float64) map[string]float64 {
		return map[string]float64{`{value="` + text + `"}`: count}
	}
	panicked := &queryAnswer{errKind: "execution", err: "histograms with custom buckets have no zero bucket"}
	for _, c := range []struct {
		got, want *queryAnswer
		open      bool
	}{
		{vector(value("7.97889515729968", 1)), vector(value("7.978895157299681", 1)), true},
		{vector(value("7.97889515729968", 1)), vector(value("7.97889525729968", 1)), false},
		{vector(value("7.97889515729968", 1)), vector(value("7.978895157299681", 2)), false},
		{vector(value("2.9999999999999996", 1)), vector(value("3", 1)), true},
		{vector(value("999999.9999999999", 1)), vector(value("1000000", 1)), true},
		{vector(value("{count:3, sum:0.30000000000000004, (0.1,0.2]:3}", 1)), vector(value("{count:3, sum:0.3, (0.1,0.2]:3}", 1)), true},
		{vector(map[string]float64{`{value="0.30000000000000004"}`: 1, `{value="0.3"}`: 2}), vector(value("0.3", 3)), true},
		{vector(map[string]float64{`{value="0.30000000000000004"}`: 1, `{value="0.3"}`: 2}), vector(value("0.3", 2)), false},
		{vector(value("+Inf", 1)), panicked, true},
		{vector(value("+Inf", 1)), &queryAnswer{errKind: "execution", err: "no"}, false},
	} {
		difference := c.got.differsFromAll([]*queryAnswer{c.want}, false)
		if open := difference == ""; open != c.open {
			t.Errorf("%v and %v: open is %t, want %t: %s", c.got, c.want, open, c.open, difference)
		}
	}
}
