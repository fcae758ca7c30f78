package receive

import (
	"fmt"
	"unsafe"

	"github.com/prometheus/prometheus/model/exemplar"

	"github.com/starling-tsdb/starling/internal/series"
)

// What the parts of a batch take, without what they point to.
const (
	seriesBytes   = int64(unsafe.Sizeof(series.Series{}))
	sampleBytes   = int64(unsafe.Sizeof(series.Sample{}))
	exemplarBytes = int64(unsafe.Sizeof(exemplar.Exemplar{}))
	metadataBytes = int64(unsafe.Sizeof(series.Metadata{}))
	symbolBytes   = int64(unsafe.Sizeof([]byte{}))
)

// budgetStep is how much a budget reserves at a time, so that the many small takes of
// a request do not contend for what all requests share.
const budgetStep = 1 << 20

// budget is what one request may still allocate. It is not safe for concurrent use.
type budget struct {
	limit, used int64
	reserved    int64
	reserve     Reserve
}

// take is called before n bytes are allocated.
func (b *budget) take(n int64) error {
	b.used += n
	if b.used > b.limit {
		return errorf(TooLarge, "the request needs more than %d bytes of memory; send smaller requests", b.limit)
	}
	if b.used <= b.reserved || b.reserve == nil {
		return nil
	}
	step := max(b.used-b.reserved, budgetStep)
	if err := b.reserve(step); err != nil {
		return fmt.Errorf("reserving memory for a request: %w", err)
	}
	b.reserved += step
	return nil
}
