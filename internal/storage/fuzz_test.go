package storage

import (
	"encoding/binary"
	"reflect"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/metadata"

	"github.com/starling-tsdb/starling/internal/series"
)

// FuzzMetadataFile: bytes are metadata or an error, and what was taken from a file is in
// the next one. With sum, the body gets the frame that it asks for.
func FuzzMetadataFile(f *testing.F) {
	fill := newFamilies(prometheus.NewCounter(prometheus.CounterOpts{}))
	fill.add([]series.Metadata{
		{Family: "up", Metadata: metadata.Metadata{Type: "gauge", Help: "h"}},
		{Family: "up", Metadata: metadata.Metadata{Type: "gauge", Help: "i", Unit: "s"}},
		{Family: "x", Metadata: metadata.Metadata{Type: "counter"}},
	})
	whole, _ := fill.encode()
	f.Add(whole, false)
	f.Add(whole[len(metadataMagic):len(whole)-4], true)
	f.Add(whole[:len(whole)-1], false)
	f.Add([]byte{0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01}, true)
	f.Add([]byte{}, true)
	f.Fuzz(func(t *testing.T, b []byte, sum bool) {
		if sum {
			b = append([]byte(metadataMagic), b...)
			b = binary.BigEndian.AppendUint32(b, checksum(b))
		}
		ms, err := decodeMetadata(b)
		if err != nil {
			return
		}
		loaded := newFamilies(prometheus.NewCounter(prometheus.CounterOpts{}))
		loaded.add(ms)
		file, _ := loaded.encode()
		again, err := decodeMetadata(file)
		if err != nil {
			t.Fatal(err)
		}
		reloaded := newFamilies(prometheus.NewCounter(prometheus.CounterOpts{}))
		reloaded.add(again)
		if !reflect.DeepEqual(loaded.entries, reloaded.entries) {
			t.Fatalf("%v became %v", loaded.entries, reloaded.entries)
		}
	})
}
