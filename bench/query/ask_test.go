//go:build linux

package main

import (
	"math"
	"testing"

	"github.com/prometheus/common/model"
)

// TestCompareSeesDifferences: what is reported as equal is.
func TestCompareSeesDifferences(t *testing.T) {
	answer := func(v float64, more ...model.SamplePair) map[string][]model.SamplePair {
		return map[string][]model.SamplePair{"a": append([]model.SamplePair{{Timestamp: 1, Value: model.SampleValue(v)}}, more...)}
	}
	want := answer(1000)
	for name, got := range map[string]map[string][]model.SamplePair{
		"nothing":          {},
		"another series":   {"b": want["a"]},
		"one series more":  {"a": want["a"], "b": want["a"]},
		"another value":    answer(1000.0001),
		"another time":     {"a": {{Timestamp: 2, Value: 1000}}},
		"one value more":   answer(1000, model.SamplePair{Timestamp: 2, Value: 1}),
		"no value at all":  {"a": nil},
		"the other's sign": answer(-1000),
		"no number":        answer(math.NaN()),
	} {
		if compare(want, got) == nil {
			t.Errorf("%s is taken for the same", name)
		}
	}
	if err := compare(want, answer(1000*(1+1e-12))); err != nil {
		t.Errorf("a sum in another order: %v", err)
	}
	if err := compare(answer(math.NaN()), answer(math.NaN())); err != nil {
		t.Errorf("no number twice: %v", err)
	}
	if compare(nil, nil) == nil {
		t.Error("no answer at all is taken for one")
	}
}
