package receive

import (
	"bytes"
	"context"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang/snappy"
	"google.golang.org/protobuf/encoding/protowire"
)

// nested wraps an empty message depth times, by fields in turn.
func nested(depth int, fields ...protowire.Number) []byte {
	var b []byte
	for i := range depth {
		f := fields[(depth-1-i)%len(fields)]
		b = append(protowire.AppendVarint(protowire.AppendTag(nil, f, protowire.BytesType), uint64(len(b))), b...)
	}
	return b
}

// wrap puts msg into the given fields, the outermost first.
func wrap(msg []byte, fields ...protowire.Number) []byte {
	for i := len(fields) - 1; i >= 0; i-- {
		msg = protowire.AppendBytes(protowire.AppendTag(nil, fields[i], protowire.BytesType), msg)
	}
	return msg
}

// TestBombs sends small bodies that mean much, and measures what they make us allocate.
// A generated decoder would need gigabytes for any of them.
func TestBombs(t *testing.T) {
	if testing.Short() {
		t.Skip("allocates hundreds of megabytes")
	}
	const mib = 1 << 20
	empty := func(tag string) []byte { return bytes.Repeat([]byte(tag+"\x00"), 15*mib) }
	name := "\x0a\x0d\x0a\x08__name__\x12\x01m"
	// 64 symbols of 1000 bytes make a label set of 32 KiB out of 60 bytes.
	symbols := []byte("\x22\x00")
	for i := range 64 {
		symbols = protowire.AppendTag(symbols, 4, protowire.BytesType)
		symbols = protowire.AppendBytes(symbols, []byte(fmt.Sprintf("__name__%0990d", i)[:8+(i&1)*900+i]))
	}
	refs := wrap(wrap([]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30}, 1), 5)

	d := newTestDecoder(t)
	rw := func(decode func([]byte, Reserve) (*Decoded, error)) func([]byte) error {
		return func(body []byte) error {
			_, err := decode(snappy.Encode(nil, body), nil)
			return err
		}
	}
	otlp := func(media, encoding string) func([]byte) error {
		return func(body []byte) error {
			_, err := d.OTLP(context.Background(), body, media, encoding, nil)
			return err
		}
	}
	rw1, rw2, proto, json := rw(d.RemoteWrite1), rw(d.RemoteWrite2), otlp(OTLPProto, ""), otlp(OTLPJSON, "")
	typed := rw(newTestDecoder(t, func(o *Options) { o.TypeAndUnitLabels = true }).RemoteWrite2)
	unit := wrap(bytes.Repeat([]byte("u"), 30<<10), 4)
	for _, s := range []string{"m", "__name__", ""} {
		unit = append(wrap([]byte(s), 4), unit...)
	}
	zeros := gzipped(t, make([]byte, 128*mib))
	for _, tc := range []struct {
		name   string
		decode func([]byte) error
		body   []byte
		want   Kind // 0 if the body is no bomb after all
	}{
		{"1.0 empty series", rw1, empty("\x0a"), TooLarge},
		{"1.0 empty metadata", rw1, empty("\x1a"), 0},
		{"1.0 empty labels", rw1, wrap(empty("\x0a"), 1), 0},
		{"1.0 empty samples", rw1, wrap(append([]byte(name), empty("\x12")...), 1), TooLarge},
		{"1.0 empty exemplars", rw1, wrap(append([]byte(name), empty("\x1a")...), 1), TooLarge},
		{"1.0 empty histograms", rw1, wrap(append([]byte(name), empty("\x22")...), 1), TooLarge},
		{"1.0 empty spans", rw1, wrap(append([]byte(name), wrap(empty("\x42"), 4)...), 1), 0},
		{"2.0 empty symbols", rw2, empty("\x22"), TooLarge},
		{"2.0 large labels", rw2, append(symbols, bytes.Repeat(refs, mib)...), TooLarge},
		{"2.0 large units", typed, append(unit, bytes.Repeat(wrap([]byte("\x0a\x02\x01\x02\x12\x00\x2a\x02\x20\x03"), 5), mib)...), TooLarge},
		{"2.0 large exemplars", rw2, append(unit, bytes.Repeat(wrap([]byte("\x0a\x02\x01\x02\x12\x00\x22\x04\x0a\x02\x02\x03"), 5), mib)...), 0},
		{"OTLP empty resources", proto, empty("\x0a"), TooLarge},
		{"OTLP empty points", proto, wrap(empty("\x0a"), 1, 2, 2, 5), TooLarge},
		{"OTLP empty attributes", proto, wrap(empty("\x3a"), 1, 2, 2, 5, 1), TooLarge},
		{"OTLP nested values", proto, wrap(nested(10_000, 5, 1), 1, 1, 1, 2), Malformed},
		{"OTLP many attributes", proto, wrap(bytes.Repeat(wrap([]byte("\x0a\x01.\x12\x03\x0a\x01x"), 7), mib), 1, 2, 2, 5, 1), 0},
		{"OTLP JSON objects", json, []byte(`{"resourceMetrics":[` + strings.Repeat(`{},`, 10*mib) + `{}]}`), TooLarge},
		{"OTLP JSON nulls", json, []byte(`{"resourceMetrics":[` + strings.Repeat(`null,`, 6*mib) + `{}]}`), TooLarge},
		{"OTLP JSON nesting", json, []byte(`{"x":` + strings.Repeat(`[`, 10*mib)), Malformed},
		{"OTLP gzip", otlp(OTLPProto, "gzip"), zeros, TooLarge},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			began := time.Now()
			err := tc.decode(tc.body)
			took := time.Since(began)
			runtime.ReadMemStats(&after)
			if KindOf(err) != tc.want || (tc.want == 0) != (err == nil) {
				t.Errorf("got %v (kind %d), want kind %d", err, KindOf(err), tc.want)
			}
			allocated := (after.TotalAlloc - before.TotalAlloc) / mib
			t.Logf("%d MiB of body, %d MiB allocated in all, %v: %v", len(tc.body)/mib, allocated, took, err)
			if allocated > 700 {
				t.Errorf("allocated %d MiB for %d MiB", allocated, len(tc.body)/mib)
			}
		})
	}
}

func TestGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGate(100, time.Second)
		a, b := g.Enter(t.Context()), g.Enter(t.Context())
		if err := a.Reserve(60); err != nil {
			t.Fatal(err)
		}
		if err := b.Reserve(101); KindOf(err) != TooLarge {
			t.Errorf("more than there is: got %v, want TooLarge", err)
		}
		began := time.Now()
		if err := b.Reserve(41); KindOf(err) != Overloaded || time.Since(began) != time.Second {
			t.Errorf("more than is free: got %v after %v, want Overloaded after 1s", err, time.Since(began))
		}
		if err := b.Reserve(40); err != nil || g.Held() != 100 {
			t.Errorf("what is free: got %v, %d held", err, g.Held())
		}
		if err := b.Reserve(61); KindOf(err) != TooLarge {
			t.Errorf("more in steps than there is: got %v, want TooLarge", err)
		}
		go func() {
			time.Sleep(time.Second / 2)
			a.Release()
		}()
		if err := b.Reserve(60); err != nil {
			t.Errorf("freed in time: %v", err)
		}
		b.Release()
		if g.Held() != 0 {
			t.Errorf("%d held after all were released", g.Held())
		}
		ctx, cancel := context.WithCancel(t.Context())
		full, c := g.Enter(t.Context()), g.Enter(ctx)
		_ = full.Reserve(100)
		cancel()
		if err := c.Reserve(1); KindOf(err) != Overloaded {
			t.Errorf("cancelled: got %v, want Overloaded", err)
		}
	})
}

func TestBudgetReservesInSteps(t *testing.T) {
	var calls int
	var sum int64
	b := budget{limit: 10 << 20, reserve: func(n int64) error { calls++; sum += n; return nil }}
	for range 5 << 10 {
		if err := b.take(1 << 10); err != nil {
			t.Fatal(err)
		}
	}
	if calls != 5 || sum != 5<<20 {
		t.Errorf("got %d reservations of %d bytes, want 5 of 5 MiB", calls, sum)
	}
	if err := b.take(6 << 20); KindOf(err) != TooLarge {
		t.Errorf("got %v, want TooLarge", err)
	}
}
