package acceptance

import (
	"strings"
	"testing"
)

// A comparison that finds nothing proves nothing, so it is tested itself.
func TestDiff(t *testing.T) {
	vector := func(elements string) string {
		return `{"status":"success","data":{"resultType":"vector","result":[` + elements + `]}}`
	}
	matrix := func(samples string) string {
		return `{"status":"success","data":{"resultType":"matrix","result":[{"metric":{"a":"1"},"values":[` + samples + `]}]}}`
	}
	exemplars := func(trace string) string {
		return `{"status":"success","data":[{"seriesLabels":{"a":"1"},"exemplars":[{"labels":{"trace":"` + trace + `"},"value":"1","timestamp":1}]}]}`
	}
	one := `{"metric":{"a":"1"},"value":[1,"1"]}`
	two := `{"metric":{"a":"2"},"value":[1,"0.3"]}`
	for _, tc := range []struct {
		name      string
		want, got string
		ordered   bool
		tolerance float64
		says      string // Part of the difference, "" for equality.
	}{
		{name: "order of series", want: vector(one + "," + two), got: vector(two + "," + one)},
		{name: "order asked for", want: vector(one + "," + two), got: vector(two + "," + one), ordered: true, says: `"2"`},
		{name: "missing series", want: vector(one + "," + two), got: vector(one), says: "want 1 times, got 0"},
		{name: "series twice", want: vector(one), got: vector(one + "," + one), says: "got 2 times"},
		{name: "invented series", want: vector(one), got: vector(one + "," + two), says: "not expected"},
		{name: "last digit", want: vector(two), got: vector(`{"metric":{"a":"2"},"value":[1,"0.30000000000000004"]}`), says: "0.30000000000000004"},
		{name: "last digit tolerated", want: vector(two), got: vector(`{"metric":{"a":"2"},"value":[1,"0.30000000000000004"]}`), tolerance: 1e-12},
		{name: "beyond tolerance", want: vector(two), got: vector(`{"metric":{"a":"2"},"value":[1,"0.31"]}`), tolerance: 1e-12, says: "0.31"},
		{name: "NaN is no number", want: vector(two), got: vector(`{"metric":{"a":"2"},"value":[1,"NaN"]}`), tolerance: 1e-12, says: "NaN"},
		{name: "timestamp", want: vector(one), got: vector(`{"metric":{"a":"1"},"value":[2,"1"]}`), tolerance: 1, says: "value[0]"},
		{name: "value became histogram", want: vector(one), got: vector(`{"metric":{"a":"1"},"histogram":[1,{"count":"1"}]}`), says: "histogram"},
		{name: "fewer samples", want: matrix(`[1,"1"],[2,"2"]`), got: matrix(`[1,"1"]`), says: `missing from [2,"2"]`},
		{name: "another sample", want: matrix(`[1,"1"],[3,"2"]`), got: matrix(`[1,"1"],[2,"2"],[3,"2"]`), says: `first different at 1`},
		{name: "warning", want: vector(one), got: strings.Replace(vector(one), `"data"`, `"warnings":["partial"],"data"`, 1), says: "partial"},
		{name: "failure", want: vector(one), got: `{"status":"error","errorType":"unavailable","error":"no"}`, says: "unavailable"},
		{name: "label values", want: `{"status":"success","data":["a","b"]}`, got: `{"status":"success","data":["a"]}`, says: `missing: "b"`},
		{name: "doubled label value", want: `{"status":"success","data":["a"]}`, got: `{"status":"success","data":["a","a"]}`, says: "want 1 elements, got 2"},
		{name: "exemplars", want: exemplars("x"), got: exemplars("y"), says: "exemplars[0].labels.trace"},
		{name: "not JSON", want: vector(one), got: "oops", says: "not JSON"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := diff([]byte(tc.want), []byte(tc.got), tc.ordered, tc.tolerance)
			if (got == "") != (tc.says == "") || !strings.Contains(got, tc.says) {
				t.Errorf("diff = %q, want it to say %q", got, tc.says)
			}
		})
	}
}
