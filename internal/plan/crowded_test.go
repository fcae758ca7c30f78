package plan

import (
	"testing"

	"github.com/starling-tsdb/starling/internal/table"
)

func TestCrowded(t *testing.T) {
	for _, tt := range []struct {
		a    *table.Assignment
		want float64
	}{
		{assignment(3, "a b c d"), 0},
		{assignment(3, "a/x b/y c/z"), 0},
		{assignment(3, "a/x - c/y d/z e/x f/y"), 0},
		{assignment(3, "a/x b/x c/x d/y"), 0},
		{assignment(3, "a/x b/x c/x d/x e/y f/y g/y h/y i/z"), 1. / 3},
		{assignment(3, "a/x b/x c/x d/x e/y f/y g/y h/y I/z -"), 1. / 3},
		{assignment(3, "a/x b/x c/x d/x e/x f/x g/x h/x i/x j/x k/y l/z"), 1},
	} {
		if got := Crowded(tt.a); !near(got, tt.want, 0.02) || (got == 0) != (tt.want == 0) {
			t.Errorf("%+v: %g of the series are crowded, want %g", tt.a.Slots, got, tt.want)
		}
	}
}
