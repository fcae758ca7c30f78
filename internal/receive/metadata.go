package receive

import (
	"bytes"
	"strconv"
	"unicode/utf8"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/metadata"

	"github.com/starling-tsdb/starling/internal/series"
)

// metricType translates the enumeration that both versions of Remote Write share.
func metricType(n uint64) model.MetricType {
	switch n {
	case 1:
		return model.MetricTypeCounter
	case 2:
		return model.MetricTypeGauge
	case 3:
		return model.MetricTypeHistogram
	case 4:
		return model.MetricTypeGaugeHistogram
	case 5:
		return model.MetricTypeSummary
	case 6:
		return model.MetricTypeInfo
	case 7:
		return model.MetricTypeStateset
	default:
		return model.MetricTypeUnknown
	}
}

// familyOf returns the metric family of a series, of which 2.0 tells the type only. It
// takes off what the exposition formats put behind the family's name. Counters keep
// their _total: users look metadata up under the name they query.
func familyOf(name []byte, typ model.MetricType, native bool) []byte {
	if native {
		return name
	}
	var suffixes []string
	switch typ {
	case model.MetricTypeHistogram:
		suffixes = []string{"_bucket", "_count", "_sum", "_created"}
	case model.MetricTypeGaugeHistogram:
		suffixes = []string{"_bucket", "_gcount", "_gsum", "_count", "_sum"}
	case model.MetricTypeSummary:
		suffixes = []string{"_count", "_sum", "_created"}
	default:
		return name
	}
	for _, suffix := range suffixes {
		if family, ok := bytes.CutSuffix(name, []byte(suffix)); ok && len(family) > 0 {
			return family
		}
	}
	return name
}

// families collects the metadata of a request.
type families struct {
	limits *Limits
	out    *Decoded
	budget *budget
	seen   map[string]struct{}
}

// addOnce is for metadata that every series of a family repeats: the first counts, and
// what says nothing is left out.
func (f *families) addOnce(family []byte, typ model.MetricType, help, unit []byte) error {
	if typ == model.MetricTypeUnknown && len(help) == 0 && len(unit) == 0 {
		return nil
	}
	if _, ok := f.seen[string(family)]; ok {
		return nil
	}
	if f.seen == nil {
		f.seen = make(map[string]struct{})
	}
	if err := f.budget.take(int64(len(family)) + metadataBytes); err != nil {
		return err
	}
	f.seen[string(family)] = struct{}{}
	return f.add(family, typ, help, unit)
}

// add keeps a copy of what describes a family. Metadata that cannot be kept is no
// reason to refuse samples, so it is counted apart.
func (f *families) add(family []byte, typ model.MetricType, help, unit []byte) error {
	var flaw string
	switch limit := f.limits.MaxLabelValueLength; {
	case len(family) == 0:
		flaw = "no name"
	case !utf8.Valid(family) || !utf8.Valid(help) || !utf8.Valid(unit):
		flaw = "not valid UTF-8"
	case len(family) > limit || len(help) > limit || len(unit) > limit:
		flaw = "longer than " + strconv.Itoa(limit) + " bytes"
	}
	if flaw != "" {
		f.out.reject(f.limits.MaxInvalid, MetadataItem, series.Written{}, func() string {
			return "metadata of family " + quoted(family) + ": " + flaw
		})
		return nil
	}
	if err := f.budget.take(metadataBytes + int64(len(family)+len(help)+len(unit))); err != nil {
		return err
	}
	f.out.Batch.Metadata = append(f.out.Batch.Metadata, series.Metadata{
		Family:   string(family),
		Metadata: metadata.Metadata{Type: typ, Help: string(help), Unit: string(unit)},
	})
	return nil
}
