package receive

import (
	"fmt"
	"unicode/utf8"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/exemplar"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/starling-tsdb/starling/internal/series"
)

// seriesHead is what a first look at a series message finds beside its labels, which
// go to the scratch.
type seriesHead struct {
	count series.Written
	typ   model.MetricType
	// helpRef and unitRef refer to the symbol table.
	helpRef, unitRef uint64
}

// timeSeries decodes one series. An error ends the request, what is invalid does not.
func (r *remoteDecoder) timeSeries(msg []byte) error {
	var name []byte
	values := msg
	if r.remembers && r.dialect.symbols == 0 {
		var done bool
		var err error
		if name, done, err = r.spelledOut(msg); done || err != nil {
			return err
		}
		values = msg[len(name):]
	}
	head, err := r.head(msg)
	if err != nil {
		return err
	}
	var help, unit []byte
	if r.seriesMetadata != 0 {
		if flaw := r.metadataFlaw(&head, &help, &unit); flaw != "" {
			r.rejectSeries(head.count, flaw)
			return nil
		}
	}
	// Labels are charged before they are looked at: through the symbol table, ten bytes
	// of body can ask for the checking of 64 KiB.
	if n := r.labels.size(); n <= r.limits.MaxSeriesLabelBytes {
		if err := r.budget.take(int64(n)); err != nil {
			return err
		}
	}
	var h *series.Handle
	if r.remembers && r.dialect.symbols != 0 && r.labels.flaw == "" {
		name, h = r.resolved()
	}
	if h == nil {
		if flaw := r.labels.seriesFlaw(r.limits); flaw != "" {
			r.rejectSeries(head.count, flaw)
			return nil
		}
	}
	if head.count == (series.Written{}) {
		if r.contentRequired {
			if h != nil { // the scratch is not canonical then
				r.labels.fromLabels(h.Labels, r.limits.MaxLabels)
			}
			r.rejectSeries(head.count, "neither samples nor histograms nor exemplars")
		}
		return nil
	}
	// The name must be read before exemplars make use of the scratch.
	if r.seriesMetadata != 0 {
		family := familyOf(r.labels.metricName(), head.typ, head.count.Histograms > 0)
		if err := r.families.addOnce(family, head.typ, help, unit); err != nil {
			return err
		}
	}
	return r.values(values, head.count, r.named(name, h))
}

// head reads labels and counts the rest.
func (r *remoteDecoder) head(msg []byte) (h seriesHead, err error) {
	r.labels.reset()
	h.typ = model.MetricTypeUnknown
	refs := refPair{r: r}
	for len(msg) > 0 {
		f, rest, err := next(msg)
		if err != nil {
			return h, err
		}
		msg = rest
		want := protowire.BytesType
		switch f.num {
		case 1:
			if r.dialect.symbols != 0 {
				err, want = refs.field(&f), f.typ
			} else {
				err = r.label(f.data)
			}
		case 2:
			h.count.Samples++
		case r.histograms:
			h.count.Histograms++
		case r.exemplars:
			h.count.Exemplars++
		case r.seriesMetadata:
			err = h.metadata(f.data)
		default:
			continue
		}
		if err == nil {
			err = f.want(want)
		}
		if err != nil {
			return h, err
		}
	}
	refs.end()
	return h, nil
}

// label reads a spelled-out label.
func (r *remoteDecoder) label(msg []byte) error {
	if name, value, ok := plainLabel(msg); ok {
		r.labels.add(name, value, r.limits.MaxLabels)
		return nil
	}
	var name, value []byte
	for len(msg) > 0 {
		f, rest, err := next(msg)
		if err != nil {
			return err
		}
		msg = rest
		switch f.num {
		case 1:
			name = f.data
		case 2:
			value = f.data
		default:
			continue
		}
		if err := f.want(protowire.BytesType); err != nil {
			return err
		}
	}
	r.labels.add(name, value, r.limits.MaxLabels)
	return nil
}

// refPair turns a stream of symbol references into labels.
type refPair struct {
	r    *remoteDecoder
	name []byte
	half bool
	// lost is set if the name of the present pair is outside the table.
	lost bool
}

// field takes references in either of the two ways of encoding a repeated number.
func (p *refPair) field(f *field) error {
	switch f.typ {
	case protowire.VarintType:
		p.ref(f.bits)
		return nil
	case protowire.BytesType:
		for b := f.data; len(b) > 0; {
			ref, n := protowire.ConsumeVarint(b)
			if n < 0 {
				return malformed(n)
			}
			b = b[n:]
			p.ref(ref)
		}
		return nil
	default:
		return f.want(protowire.BytesType)
	}
}

func (p *refPair) ref(ref uint64) {
	// The field is a uint32; protobuf says to cut off what does not fit.
	text, ok := p.r.symbolAt(uint64(uint32(ref)))
	if !ok {
		if p.r.labels.flaw == "" {
			p.r.labels.flaw = fmt.Sprintf("symbol reference %d is outside the table of %d symbols", uint32(ref), len(p.r.scratch.symbols))
		}
	}
	if p.half = !p.half; p.half {
		p.name, p.lost = text, !ok
		return
	}
	if ok && !p.lost { // what was not sent must not stand in the message
		p.r.labels.add(p.name, text, p.r.limits.MaxLabels)
	}
}

func (p *refPair) end() {
	if p.half && p.r.labels.flaw == "" {
		p.r.labels.flaw = "an odd number of label references"
	}
}

func (r *remoteDecoder) symbolAt(ref uint64) ([]byte, bool) {
	if ref >= uint64(len(r.scratch.symbols)) {
		return nil, false
	}
	return r.scratch.symbols[ref], true
}

// metadata reads the metadata message of a series. Repeated ones are merged.
func (h *seriesHead) metadata(msg []byte) error {
	for len(msg) > 0 {
		f, rest, err := next(msg)
		if err != nil {
			return err
		}
		msg = rest
		switch f.num {
		case 1:
			h.typ = metricType(f.bits)
		case 3:
			h.helpRef = uint64(uint32(f.bits))
		case 4:
			h.unitRef = uint64(uint32(f.bits))
		default:
			continue
		}
		if err := f.want(protowire.VarintType); err != nil {
			return err
		}
	}
	return nil
}

// metadataFlaw resolves the metadata of a series and adds the labels made from it.
func (r *remoteDecoder) metadataFlaw(h *seriesHead, help, unit *[]byte) string {
	var okHelp, okUnit bool
	*help, okHelp = r.symbolAt(h.helpRef)
	*unit, okUnit = r.symbolAt(h.unitRef)
	if !okHelp || !okUnit {
		return fmt.Sprintf("metadata refers to symbols %d and %d of a table of %d", h.helpRef, h.unitRef, len(r.scratch.symbols))
	}
	if !r.typeAndUnitLabels || (h.typ == model.MetricTypeUnknown && len(*unit) == 0) {
		return ""
	}
	r.labels.remove(model.MetricTypeLabel)
	r.labels.remove(model.MetricUnitLabel)
	if h.typ != model.MetricTypeUnknown {
		r.labels.pairs = append(r.labels.pairs, pair{[]byte(model.MetricTypeLabel), []byte(h.typ)})
	}
	if len(*unit) > 0 {
		r.labels.pairs = append(r.labels.pairs, pair{[]byte(model.MetricUnitLabel), *unit})
	}
	return ""
}

// values decodes the samples, histograms and exemplars of a series. Histograms follow all
// floats, as in Prometheus.
func (r *remoteDecoder) values(msg []byte, count series.Written, s series.Series) error {
	n := count.Samples + count.Histograms
	if err := r.budget.take(int64(n)*sampleBytes + int64(count.Exemplars)*exemplarBytes); err != nil {
		return err
	}
	s.Samples = r.samples(n)
	if count.Exemplars > 0 {
		s.Exemplars = make([]exemplar.Exemplar, 0, count.Exemplars)
	}
	passes := 1
	if count.Histograms > 0 {
		passes = 2
	}
	for pass := range passes {
		for b := msg; len(b) > 0; {
			f, rest, err := next(b)
			if err != nil {
				return err
			}
			b = rest
			switch {
			case f.num == 2 && pass == 0:
				err = r.sample(f.data, &s)
			case f.num == r.exemplars && pass == 0:
				err = r.exemplar(f.data, &s)
			case f.num == r.histograms && pass == 1:
				err = r.histogram(f.data, &s)
			}
			if err != nil {
				return err
			}
		}
	}
	if len(s.Samples)+len(s.Exemplars) > 0 {
		r.out.Batch.Series = append(r.out.Batch.Series, s)
	}
	return nil
}

// samples returns room for n samples. Most series have one, so they share slabs.
func (r *remoteDecoder) samples(n int) []series.Sample {
	const slab = 512
	if n > slab/4 {
		return make([]series.Sample, 0, n)
	}
	if n > len(r.slab) {
		r.slab = make([]series.Sample, min(slab, max(n, cap(r.out.Batch.Series)-len(r.out.Batch.Series))))
	}
	s := r.slab[:0:n]
	r.slab = r.slab[n:]
	return s
}

func (r *remoteDecoder) sample(msg []byte, s *series.Series) error {
	var v series.Sample
	for len(msg) > 0 {
		f, rest, err := next(msg)
		if err != nil {
			return err
		}
		msg = rest
		want := protowire.VarintType
		switch {
		case f.num == 1:
			v.V, want = f.float(), protowire.Fixed64Type
		case f.num == 2:
			v.T = int64(f.bits)
		case f.num == 3 && r.startTimes:
			v.ST = int64(f.bits)
		default:
			continue
		}
		if err := f.want(want); err != nil {
			return err
		}
	}
	s.Samples = append(s.Samples, v)
	return nil
}

func (r *remoteDecoder) exemplar(msg []byte, s *series.Series) error {
	r.labels.reset()
	refs := refPair{r: r}
	var e exemplar.Exemplar
	for len(msg) > 0 {
		f, rest, err := next(msg)
		if err != nil {
			return err
		}
		msg = rest
		want := protowire.BytesType
		switch f.num {
		case 1:
			if r.dialect.symbols != 0 {
				err, want = refs.field(&f), f.typ
			} else {
				err = r.label(f.data)
			}
		case 2:
			e.Value, want = f.float(), protowire.Fixed64Type
		case 3:
			e.Ts, want = int64(f.bits), protowire.VarintType
		default:
			continue
		}
		if err == nil {
			err = f.want(want)
		}
		if err != nil {
			return err
		}
	}
	refs.end()
	e.HasTs = e.Ts != 0
	flaw := r.labels.exemplarFlaw(r.limits)
	if flaw != "" {
		r.out.reject(r.limits.MaxInvalid, ExemplarItem, series.Written{Exemplars: 1}, func() string {
			return "exemplar of series " + r.name(s) + ": " + flaw
		})
		return nil
	}
	if err := r.budget.take(int64(r.labels.size())); err != nil {
		return err
	}
	e.Labels = r.labels.build()
	s.Exemplars = append(s.Exemplars, e)
	return nil
}

// exemplarFlaw is canonicalize for an exemplar. Names and values together may have as
// many characters as the storage takes.
func (s *labelSet) exemplarFlaw(l *Limits) string {
	// Through the symbol table, a few bytes of body can name a lot of text to check.
	if n := s.size(); s.flaw == "" && n > utf8.UTFMax*exemplar.ExemplarMaxLabelSetLength {
		return fmt.Sprintf("labels of %d bytes, the limit is %d characters", n, exemplar.ExemplarMaxLabelSetLength)
	}
	if flaw := s.canonicalize(l); flaw != "" {
		return flaw
	}
	runes := 0
	for i := range s.pairs {
		runes += utf8.RuneCount(s.pairs[i].name) + utf8.RuneCount(s.pairs[i].value)
	}
	if runes > exemplar.ExemplarMaxLabelSetLength {
		return fmt.Sprintf("labels of %d characters, the limit is %d", runes, exemplar.ExemplarMaxLabelSetLength)
	}
	return ""
}

// name shows the labels of a series for a message. It overwrites the scratch, which by
// then may hold the labels of an exemplar.
func (r *remoteDecoder) name(s *series.Series) string {
	r.labels.fromLabels(s.Labels, r.limits.MaxLabels)
	return r.labels.String()
}

func (r *remoteDecoder) rejectSeries(lost series.Written, flaw string) {
	r.out.reject(r.limits.MaxInvalid, SeriesItem, lost, func() string {
		return "series " + r.labels.String() + ": " + flaw
	})
}
