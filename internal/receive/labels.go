package receive

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strconv"
	"unicode/utf8"
	"unsafe"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
)

// maxNamedBytes bounds how much of a label set a message shows.
const maxNamedBytes = 256

// pair is a label whose bytes belong to the body or to labels built before. They are
// only read.
type pair struct{ name, value []byte }

// labelSet collects the labels of one series or exemplar and makes them canonical. It
// is reused from series to series.
type labelSet struct {
	pairs []pair
	// flaw is what was wrong while collecting, "" if nothing.
	flaw    string
	builder labels.ScratchBuilder
}

func (s *labelSet) reset() {
	s.pairs = s.pairs[:0]
	s.flaw = ""
}

// release forgets the bodies that the labels pointed into.
func (s *labelSet) release() {
	clear(s.pairs[:cap(s.pairs)])
	s.pairs = s.pairs[:0]
	s.builder = labels.ScratchBuilder{}
}

// add collects a label. Beyond max labels it keeps nothing, so that the memory of a
// label set is bounded whatever the body says.
func (s *labelSet) add(name, value []byte, max int) {
	if len(s.pairs) >= max {
		if s.flaw == "" {
			s.flaw = fmt.Sprintf("more than %d labels", max)
		}
		return
	}
	s.pairs = append(s.pairs, pair{name, value})
}

// remove drops all labels of a name.
func (s *labelSet) remove(name string) {
	s.pairs = slices.DeleteFunc(s.pairs, func(p pair) bool { return string(p.name) == name })
}

// size is the number of bytes in all names and values.
func (s *labelSet) size() int {
	n := 0
	for i := range s.pairs {
		n += len(s.pairs[i].name) + len(s.pairs[i].value)
	}
	return n
}

// canonicalize sorts the labels, checks them and drops those without a value, in this
// order: Prometheus too refuses a name that is used twice even where one use is empty.
// It returns what is wrong, or "".
func (s *labelSet) canonicalize(l *Limits) string {
	if s.flaw != "" {
		return s.flaw
	}
	if n := s.size(); n > l.MaxSeriesLabelBytes {
		return fmt.Sprintf("labels of %d bytes in all, the limit is %d", n, l.MaxSeriesLabelBytes)
	}
	sorted := true
	for i := range s.pairs {
		if flaw := s.pairs[i].check(l); flaw != "" {
			return flaw
		}
		sorted = sorted && (i == 0 || bytes.Compare(s.pairs[i-1].name, s.pairs[i].name) <= 0)
	}
	if !sorted {
		slices.SortStableFunc(s.pairs, func(a, b pair) int { return bytes.Compare(a.name, b.name) })
	}
	for i := 1; i < len(s.pairs); i++ {
		if bytes.Equal(s.pairs[i-1].name, s.pairs[i].name) {
			return "label name " + quoted(s.pairs[i].name) + " is used more than once"
		}
	}
	s.pairs = slices.DeleteFunc(s.pairs, func(p pair) bool { return len(p.value) == 0 })
	return ""
}

func (p *pair) check(l *Limits) string {
	switch {
	case len(p.name) == 0:
		return "empty label name"
	case !utf8.Valid(p.name):
		return "label name " + quoted(p.name) + " is not valid UTF-8"
	case !utf8.Valid(p.value):
		return "the value " + quoted(p.value) + " of label " + quoted(p.name) + " is not valid UTF-8"
	case len(p.name) > l.MaxLabelNameLength:
		return fmt.Sprintf("label name %s of %d bytes, the limit is %d", quoted(p.name), len(p.name), l.MaxLabelNameLength)
	case len(p.value) > l.MaxLabelValueLength:
		return fmt.Sprintf("the value of label %s has %d bytes, the limit is %d", quoted(p.name), len(p.value), l.MaxLabelValueLength)
	default:
		return ""
	}
}

// seriesFlaw is canonicalize for a series, which must have a metric name.
func (s *labelSet) seriesFlaw(l *Limits) string {
	if flaw := s.canonicalize(l); flaw != "" {
		return flaw
	}
	if s.metricName() == nil {
		return "no metric name"
	}
	return ""
}

func (s *labelSet) metricName() []byte {
	for i := range s.pairs {
		if string(s.pairs[i].name) == model.MetricNameLabel {
			return s.pairs[i].value
		}
	}
	return nil
}

// build returns the labels in memory of their own. They must be canonical.
func (s *labelSet) build() labels.Labels {
	s.builder.Reset()
	s.builder.SetUnsafeAdd(true)
	for i := range s.pairs {
		s.builder.Add(view(s.pairs[i].name), view(s.pairs[i].value))
	}
	return s.builder.Labels()
}

// view is a string over bytes that must not change while it is used.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// bytesOf is a string's bytes, which must not be written to.
func bytesOf(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }

// String shows the labels as a selector, shortened and quoted, so that a message can
// be logged whatever a sender put into them.
func (s *labelSet) String() string {
	b := append(make([]byte, 0, maxNamedBytes), '{')
	for i := range s.pairs {
		if i > 0 {
			b = append(b, ", "...)
		}
		if len(b) >= maxNamedBytes {
			b = append(b, "..."...)
			break
		}
		p := &s.pairs[i]
		if model.LegacyValidation.IsValidLabelName(string(p.name[:min(len(p.name), maxNamedBytes)])) {
			b = append(b, p.name[:min(len(p.name), maxNamedBytes)]...)
		} else {
			b = append(b, quoted(p.name)...)
		}
		b = append(b, '=')
		b = append(b, quoted(p.value)...)
	}
	return string(append(b, '}'))
}

// Name shows labels as messages do: as a selector, shortened and quoted.
func Name(ls labels.Labels) string {
	var s labelSet
	s.fromLabels(ls, math.MaxInt)
	return s.String()
}

// quoted quotes text, shortened to what a message has room for.
func quoted(text []byte) string {
	const room = 80
	if len(text) <= room {
		return strconv.Quote(string(text))
	}
	cut := room
	for cut > room-utf8.UTFMax && !utf8.RuneStart(text[cut]) {
		cut--
	}
	return strconv.Quote(string(text[:cut])) + "..."
}

// fromLabels collects labels that something else built, and refers to their memory.
func (s *labelSet) fromLabels(ls labels.Labels, max int) {
	s.reset()
	ls.Range(func(l labels.Label) { s.add(bytesOf(l.Name), bytesOf(l.Value), max) })
}
