package node

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/model/labels"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"

	"github.com/starling-tsdb/starling/internal/config"
	"github.com/starling-tsdb/starling/internal/series"
)

// A caller that allows a partial answer gets one, also when gossip knows of the outage.
func TestPartialAnswerFromANodeThatIsNotReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		m := f.fresh("a", "b", "c")
		m[0].write("before", 1)
		m[2].crash()
		m[1].crash()
		f.eventually(time.Minute, "not ready", func() error {
			if m[0].ready() == nil {
				return errors.New("ready")
			}
			return nil
		})
		if got := m[0].query("sum(before)", "partial_response", "true"); got.values[""] != "1" || len(got.warnings) == 0 {
			t.Errorf("partial query: %+v", got)
		}
	})
}

// A node that restarts at the address of another one, which is down, must not be counted
// for both: neither twice in a write quorum, nor as the other's answer to a query.
func TestAddressPassedOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		m := f.fresh("a", "b", "c", "d")
		m[0].write("warm", 1)
		metric := metricOwnedBy(m[0], m[1:])
		join := func(c *config.Cluster) { c.Join = seeds(4) }
		m[1].halt()
		m[2].halt()
		c := f.start("c", m[1].ip, join)
		f.ready(c)
		<-time.After(20 * time.Second)
		m[3].crash() // which gossip does not know yet
		if code := m[0].write(metric, 42); code != http.StatusServiceUnavailable {
			t.Errorf("write with one of three owners up: %d, want 503", code)
		}
		if got := m[0].query(metric); got.code != http.StatusServiceUnavailable {
			t.Errorf("query with two of four nodes up: %+v, want 503", got)
		}
	})
}

// metricOwnedBy finds a metric whose first series these nodes own, as one of them sees it.
func metricOwnedBy(seen *member, owners []*member) string {
	p := seen.placed.Load()
	for i := 0; ; i++ {
		metric := fmt.Sprintf("m%d", i)
		slots := p.reading.SeriesOwners(&series.Series{Labels: labels.FromStrings("__name__", metric, "i", "0")}, nil)
		found := 0
		for _, s := range slots {
			for _, o := range owners {
				if p.reading.Slots[s].Node == o.cluster.Self() {
					found++
				}
			}
		}
		if found == len(owners) {
			return metric
		}
	}
}

// Texts that many series share make a small body a large batch.
func TestSmallBodyWithSharedTexts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		m := f.fresh("a", "b", "c")
		req := writev2.Request{Symbols: []string{"", "__name__", strings.Repeat("h", 30<<10)}}
		for i := range 2500 {
			req.Symbols = append(req.Symbols, fmt.Sprintf("metric_%d", i))
			req.Timeseries = append(req.Timeseries, writev2.TimeSeries{
				LabelsRefs: []uint32{1, uint32(i + 3)},
				Samples:    []writev2.Sample{{Timestamp: time.Now().UnixMilli(), Value: 1}},
				Metadata:   writev2.Metadata{Type: writev2.Metadata_METRIC_TYPE_GAUGE, HelpRef: 2},
			})
		}
		body, err := req.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		resp, err := m[0].http.Post("http://"+m[0].ip+":9080/api/v1/write", "application/x-protobuf;proto=io.prometheus.write.v2.Request", bytes.NewReader(snappy.Encode(nil, body)))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if text, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusNoContent {
			t.Errorf("status %d: %.300s", resp.StatusCode, text)
		}
	})
}

// PromQL takes matchers that no label value can match.
func TestMatcherThatIsNoUTF8(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		m := f.fresh("a", "b", "c")
		m[0].write("m", 1)
		for expr, want := range map[string]string{`count(m{i!="\xff"})`: "1", `count(m{i="\xff"}) or vector(0)`: "0"} {
			if got := m[1].query(expr); got.values[""] != want {
				t.Errorf("%s: %+v, want %s", expr, got, want)
			}
		}
	})
}
