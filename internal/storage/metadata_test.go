package storage

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/metadata"

	"github.com/starling-tsdb/starling/internal/series"
)

func meta(family, help string) series.Metadata {
	return series.Metadata{Family: family, Metadata: metadata.Metadata{Type: model.MetricTypeCounter, Unit: "s", Help: help}}
}

func testFamilies() *families {
	return newFamilies(prometheus.NewCounter(prometheus.CounterOpts{Name: "dropped"}))
}

func TestMetadataIsSavedAndLoaded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := testOptions(t.TempDir())
		path := filepath.Join(o.Dir, metadataFile)
		s := mustOpen(t, o, hooks{})
		mustAppend(t, s, &series.Batch{Metadata: []series.Metadata{meta("a", "old"), meta("b", "")}})
		mustAppend(t, s, &series.Batch{Metadata: []series.Metadata{meta("a", "new"), meta("a", "old")}})
		want := map[string][]metadata.Metadata{
			"a": {meta("a", "new").Metadata, meta("a", "old").Metadata},
			"b": {meta("b", "").Metadata},
		}
		if got := s.Metadata("", -1, 0); !reflect.DeepEqual(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
		if _, err := os.Stat(path); err == nil {
			t.Error("saved at once")
		}
		time.Sleep(flushInterval + time.Millisecond)
		synctest.Wait()
		saved, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(flushInterval + time.Millisecond)
		synctest.Wait()
		if again, err := os.Stat(path); err != nil || !os.SameFile(saved, again) {
			t.Errorf("saved again without a change (%v)", err)
		}
		mustAppend(t, s, &series.Batch{Metadata: []series.Metadata{meta("c", "")}})
		want["c"] = []metadata.Metadata{meta("c", "").Metadata}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = mustOpen(t, o, hooks{})
		if got := s.Metadata("", -1, 0); !reflect.DeepEqual(got, want) {
			t.Errorf("after reopening: %v, want %v", got, want)
		}
		if got := s.Metadata("", 1, 1); !reflect.DeepEqual(got, map[string][]metadata.Metadata{"a": want["a"][:1]}) {
			t.Errorf("limited: %v", got)
		}
		if got := s.Metadata("b", -1, 0); len(got) != 1 || len(got["b"]) != 1 {
			t.Errorf("one family: %v", got)
		}
		if got := s.Metadata("unknown", -1, 0); len(got) != 0 {
			t.Errorf("an unknown family: %v", got)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestDamagedMetadataIsMovedAside(t *testing.T) {
	f := testFamilies()
	f.add([]series.Metadata{meta("a", "x"), meta("b", "y")})
	good, _ := f.encode()
	if ms, err := decodeMetadata(good); err != nil || len(ms) != 2 {
		t.Fatalf("decode: %v, %v", ms, err)
	}
	for i := range good {
		bad := append([]byte(nil), good...)
		bad[i] ^= 0x10
		if _, err := decodeMetadata(bad); err == nil {
			t.Errorf("byte %d flipped: no error", i)
		}
		if _, err := decodeMetadata(good[:i]); err == nil {
			t.Errorf("cut at %d: no error", i)
		}
	}
	o := testOptions(t.TempDir())
	path := filepath.Join(o.Dir, metadataFile)
	if err := os.WriteFile(path, good[:len(good)-1], 0o666); err != nil {
		t.Fatal(err)
	}
	s := mustOpen(t, o, hooks{})
	if got := s.Metadata("", -1, 0); len(got) != 0 {
		t.Errorf("got %v", got)
	}
	if _, err := os.Stat(path + ".damaged"); err != nil {
		t.Error(err)
	}
}

func TestMetadataIsBounded(t *testing.T) {
	f := testFamilies()
	for i := range maxEntriesPerFamily + 3 {
		f.add([]series.Metadata{meta("a", fmt.Sprint(i))})
	}
	got := f.get("a", -1, 0)["a"]
	if len(got) != maxEntriesPerFamily || got[0].Help != fmt.Sprint(maxEntriesPerFamily+2) {
		t.Errorf("want the newest %d entries, got %v", maxEntriesPerFamily, got)
	}
	want := 0
	for _, m := range got {
		want += len("a") + sizeOf(m)
	}
	if f.bytes != want {
		t.Errorf("counted %d bytes, want %d", f.bytes, want)
	}
	for i := range 40 {
		f.add([]series.Metadata{meta(fmt.Sprint("big", i), strings.Repeat("x", 1<<20))})
	}
	if f.bytes > maxMetadataBytes {
		t.Errorf("%d bytes are kept", f.bytes)
	}
	g := testFamilies()
	for i := range maxFamilies + 5 {
		g.add([]series.Metadata{meta(fmt.Sprint(i), "")})
	}
	if len(g.entries) != maxFamilies {
		t.Errorf("%d families are kept", len(g.entries))
	}
}
