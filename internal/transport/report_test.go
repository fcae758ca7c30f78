package transport

import (
	"math"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/starling-tsdb/starling/internal/table"
)

// testReport is what the remote node of a rig says of itself.
var testReport = Report{
	Series: math.MaxUint64, Bytes: 7, Oldest: math.MaxInt64, PhaseBegan: 3, PhaseSince: time.UnixMilli(-5),
	Extents: []Extent{{Min: math.MinInt64, Max: -1, Bytes: math.MaxUint64}, {Max: math.MaxInt64}},
	Copying: Copying{
		Began: 3, Until: math.MinInt64, Ready: true, Samples: 8, Bytes: 11, Started: time.UnixMilli(9),
		Timed: Mark{Ago: 10 * time.Millisecond, Until: math.MaxInt64, Samples: 6, Bytes: 12},
	},
	Open:    []OpenGap{{Peer: "a", Since: math.MinInt64, Opened: time.UnixMilli(4), HandingOff: true, Samples: 2, Bytes: 3}, {Peer: "b", Since: 5}},
	Load:    Load{SamplesPerSecond: 0.5, CPU: 1.5, CPUs: 2, Memory: 3, MemoryLimit: 4, DiskFree: 5, DiskSize: 6},
	Unready: "why",
}

func (r *localReader) Report() Report { return testReport }

// Operators look when nodes are not at one epoch, above all.
func TestReportsOfAnyEpoch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		peer := r.peers.Peer("remote")
		for e := uint64(1); e < 3; e++ {
			if got, err := peer.Report(t.Context(), epoch(e)); err != nil || !reflect.DeepEqual(got, testReport) {
				t.Errorf("report at epoch %d: %+v, %v", e, got, err)
			}
		}
		if _, err := peer.Report(t.Context(), &table.Table{ClusterID: "another", Epoch: 1}); err == nil || !strings.Contains(err.Error(), "another") {
			t.Errorf("report to another cluster: %v", err)
		}
		if got := reportFromProto(reportToProto(Report{})); !reflect.DeepEqual(got, Report{}) {
			t.Errorf("an empty report becomes %+v", got)
		}
	})
}
