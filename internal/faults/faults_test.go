//go:build linux

package faults

import (
	"strings"
	"testing"
)

// The changes are texts of other packages: whoever changes those learns it here.
func TestChangesApply(t *testing.T) {
	b := &Builder{Repository: "../..", Dir: t.TempDir()}
	if _, err := b.overlay(t.Context(), "injected", Injected()); err != nil {
		t.Error(err)
	}
	for _, m := range Mistakes() {
		if _, err := b.overlay(t.Context(), m.Name, m.changes); err != nil {
			t.Error(err)
		}
	}
}

func TestNames(t *testing.T) {
	rows, short := map[string]bool{}, 0
	for _, r := range Rows() {
		if rows[r.Name] {
			t.Errorf("two rows are called %q", r.Name)
		}
		rows[r.Name] = true
		if r.Short {
			short++
		}
	}
	if short == 0 || short > len(rows)/2 {
		t.Errorf("%d of %d rows are the short selection", short, len(rows))
	}
	seen := map[string]bool{}
	for _, m := range Mistakes() {
		if seen[m.Name] {
			t.Errorf("two mistakes are called %q", m.Name)
		}
		seen[m.Name] = true
		if (m.tests == "") == (m.row == "") || (m.row == "") != (m.finds == "") || m.row != "" && !rows[m.row] {
			t.Errorf("mistake %q is looked for by tests %q and row %q", m.Name, m.tests, m.row)
		}
	}
}

func TestResultNamesWhatFailed(t *testing.T) {
	var out strings.Builder
	Result{Row: "none", Failures: []string{"2 samples are lost"}}.Write(&out)
	if got := out.String(); !strings.Contains(got, "FAILED") || !strings.Contains(got, "2 samples are lost") {
		t.Errorf("the line says %q", got)
	}
}
