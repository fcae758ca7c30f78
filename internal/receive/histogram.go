package receive

import (
	"fmt"

	"github.com/prometheus/prometheus/model/histogram"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"

	"github.com/starling-tsdb/starling/internal/series"
)

// maxHistogramBytes bounds the message of one histogram. The generated decoder expands
// empty spans twenty-fold, so it must not see everything that a body can hold.
const maxHistogramBytes = 1 << 20

// histogram decodes one native histogram. Both dialects have the same message, but for
// the start timestamp that only 2.0 knows.
func (r *remoteDecoder) histogram(msg []byte, s *series.Series) error {
	reject := func(flaw string) {
		r.out.reject(r.limits.MaxInvalid, SeriesItem, series.Written{Histograms: 1}, func() string {
			return "histogram of series " + r.name(s) + ": " + flaw
		})
	}
	if len(msg) > maxHistogramBytes {
		reject(fmt.Sprintf("message of %d bytes, the limit is %d", len(msg), maxHistogramBytes))
		return nil
	}
	// A bucket takes a byte of body at least and eight of memory.
	if err := r.budget.take(8 * int64(len(msg))); err != nil {
		return err
	}
	var h writev2.Histogram
	if err := h.Unmarshal(msg); err != nil {
		return errorf(Malformed, "decoding a histogram: %w", err)
	}
	if h.ResetHint < 0 || h.ResetHint > writev2.Histogram_RESET_HINT_GAUGE {
		// A hint of the future: the safe answer is to look for resets.
		h.ResetHint = writev2.Histogram_RESET_HINT_UNSPECIFIED
	}
	v := series.Sample{T: h.Timestamp}
	if r.startTimes {
		v.ST = h.StartTimestamp
	}
	if h.IsFloatHistogram() {
		v.FH = h.ToFloatHistogram()
	} else {
		v.H = h.ToIntHistogram()
	}
	if err := normalizeHistogram(&v); err != nil {
		reject(err.Error())
		return nil
	}
	s.Samples = append(s.Samples, v)
	return nil
}

// normalizeHistogram brings a histogram of too fine a schema to the finest that is
// stored, as Prometheus does on receiving, and checks it.
func normalizeHistogram(v *series.Sample) error {
	switch {
	case v.H != nil:
		if tooFine(v.H.Schema) {
			if err := v.H.ReduceResolution(histogram.ExponentialSchemaMax); err != nil {
				return err
			}
		}
		return v.H.Validate()
	case v.FH != nil:
		if tooFine(v.FH.Schema) {
			if err := v.FH.ReduceResolution(histogram.ExponentialSchemaMax); err != nil {
				return err
			}
		}
		return v.FH.Validate()
	default:
		return nil
	}
}

func tooFine(schema int32) bool {
	return histogram.IsExponentialSchemaReserved(schema) && schema > histogram.ExponentialSchemaMax
}
