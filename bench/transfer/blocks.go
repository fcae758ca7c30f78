//go:build linux

package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	randv2 "math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/tsdb/index"
	"golang.org/x/sys/unix"

	"github.com/starling-tsdb/starling/bench/proc"
)

const (
	// chunkSamples is how many samples the TSDB puts into a chunk.
	chunkSamples = 120
	scrape       = 15 * time.Second
	// blockSpan is that of the largest blocks that compaction makes with the default
	// retention, in which most of a node's data lies.
	blockSpan   = 18 * time.Hour
	blockChunks = int(blockSpan / (chunkSamples * scrape))
	// variants is how many different chunks there are for one time.
	variants = 64
	// metrics is how many names the series have.
	metrics  = 100
	mantissa = 52 // bits of a float64
)

// data is a set of blocks. All nodes of a cluster of three hold the same.
type data struct {
	dir     string
	series  int
	blocks  int
	samples int64
	bytes   int64
	// first and last are the times that the blocks lie between.
	first, last time.Time
}

// makeData writes blocks that end before now, and takes them out of the page cache.
func makeData(ctx context.Context, dir string, s settings) (*data, error) {
	perSeries := int64(0)
	for _, c := range blockPool(0, s.bits)[0] {
		perSeries += int64(len(c.Chunk.Bytes()))
	}
	d := &data{dir: dir}
	d.blocks = max(1, int(math.Round(float64(s.size)/float64(perSeries*int64(s.series)))))
	d.series = max(1, int(s.size/(perSeries*int64(d.blocks))))
	d.samples = int64(d.series) * int64(d.blocks) * int64(blockChunks) * chunkSamples
	d.last = time.Now().Truncate(blockSpan)
	d.first = d.last.Add(-time.Duration(d.blocks) * blockSpan)
	all := make([]labels.Labels, d.series)
	for i := range all {
		all[i] = seriesLabels(i)
	}
	slices.SortFunc(all, labels.Compare)
	for b := range d.blocks {
		progress("block %d of %d: %d series", b+1, d.blocks, d.series)
		if err := writeBlock(ctx, dir, d.first.Add(time.Duration(b)*blockSpan).UnixMilli(), s.bits, all); err != nil {
			return nil, err
		}
	}
	var err error
	d.bytes, err = d.forget()
	return d, err
}

// seriesLabels has eleven labels and about 250 bytes a series.
func seriesLabels(i int) labels.Labels {
	return labels.FromStrings(
		labels.MetricName, metricName(i),
		"cluster", "production-europe", "namespace", "payments", "job", fmt.Sprintf("service-%03d", i/metrics%50),
		"instance", fmt.Sprintf("10.4.%d.%d:9100", i/250%250, i%250), "pod", fmt.Sprintf("service-7f9c6d5b8-%06d", i),
		"method", "GET", "handler", "/api/v1/orders", "code", "200", "replica", strconv.Itoa(i%3), "zone", strconv.Itoa(i%5),
	)
}

func metricName(i int) string { return fmt.Sprintf("transfer_duration_seconds_%03d", i%metrics) }

// blockPool returns, for each variant, the chunks of one series for the block that begins at
// a time.
func blockPool(start int64, bits int) [variants][]chunks.Meta {
	var pool [variants][]chunks.Meta
	rnd := randv2.New(randv2.NewPCG(uint64(start), uint64(bits)))
	mask := uint64(1)<<bits - 1
	for v := range pool {
		for n := range blockChunks {
			c := chunkenc.NewXORChunk()
			app, err := c.Appender()
			if err != nil {
				panic(err) // a new chunk takes samples
			}
			first := start + int64(n*chunkSamples)*scrape.Milliseconds()
			last := first
			for i := range chunkSamples {
				last = first + int64(i)*scrape.Milliseconds()
				// From 1 to 2, with random bits where a float64 has its first digits.
				app.Append(0, last, math.Float64frombits(math.Float64bits(1)|rnd.Uint64()&mask<<(mantissa-bits)))
			}
			pool[v] = append(pool[v], chunks.Meta{Chunk: c, MinTime: first, MaxTime: last})
		}
	}
	return pool
}

// writeBlock writes one block as a compaction would have left it.
func writeBlock(ctx context.Context, dir string, start int64, bits int, all []labels.Labels) (err error) {
	meta := tsdb.BlockMeta{
		ULID: ulid.MustNew(ulid.Now(), rand.Reader), Version: 1,
		MinTime: start, MaxTime: start + blockSpan.Milliseconds(),
	}
	meta.Compaction.Level = 3
	meta.Compaction.Sources = []ulid.ULID{meta.ULID}
	meta.Stats.NumSeries = uint64(len(all))
	meta.Stats.NumChunks = uint64(len(all) * blockChunks)
	meta.Stats.NumSamples = meta.Stats.NumChunks * chunkSamples
	meta.Stats.NumFloatSamples = meta.Stats.NumSamples
	path := filepath.Join(dir, meta.ULID.String())
	if err := os.MkdirAll(path, 0o777); err != nil {
		return err
	}
	cw, err := chunks.NewWriter(filepath.Join(path, "chunks"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cw.Close()) }()
	iw, err := index.NewWriter(ctx, filepath.Join(path, "index"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, iw.Close()) }()
	for _, symbol := range symbols(all) {
		if err := iw.AddSymbol(symbol); err != nil {
			return err
		}
	}
	pool := blockPool(start, bits)
	own := make([]chunks.Meta, blockChunks)
	for i, ls := range all {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		copy(own, pool[i%variants]) // WriteChunks sets the references
		if err := cw.WriteChunks(own...); err != nil {
			return err
		}
		if err := iw.AddSeries(storage.SeriesRef(i), ls, own...); err != nil {
			return err
		}
	}
	text, err := json.MarshalIndent(&meta, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(path, "meta.json"), text, 0o666)
}

// symbols are all names and values of labels, in order.
func symbols(all []labels.Labels) []string {
	seen := map[string]struct{}{}
	for _, ls := range all {
		ls.Range(func(l labels.Label) { seen[l.Name], seen[l.Value] = struct{}{}, struct{}{} })
	}
	var list []string
	for s := range seen {
		list = append(list, s)
	}
	slices.Sort(list)
	return list
}

// files calls f for each file, with its path below the directory.
func (d *data) files(f func(path, name string) error) error {
	return filepath.WalkDir(d.dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		name, err := filepath.Rel(d.dir, path)
		if err != nil {
			return err
		}
		return f(path, name)
	})
}

// forget syncs the files and takes them out of the page cache, and returns their bytes.
func (d *data) forget() (bytes int64, err error) {
	err = d.files(func(path, _ string) error {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return err
		}
		bytes += info.Size()
		if err := f.Sync(); err != nil {
			return err
		}
		return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	})
	return bytes, err
}

// link gives a node the blocks.
func (d *data) link(dir string) error {
	return d.files(func(path, name string) error {
		to := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(to), 0o777); err != nil {
			return err
		}
		return os.Link(path, to)
	})
}

// copyAll copies every byte into one file, and syncs it: the floor of any transfer.
func (d *data) copyAll(ctx context.Context, to string) (took, cpu time.Duration, err error) {
	defer func() { err = errors.Join(err, os.Remove(to)) }()
	out, err := os.Create(to)
	if err != nil {
		return 0, 0, err
	}
	defer out.Close()
	before, start := proc.OwnCPU(), time.Now()
	buf := make([]byte, 1<<20)
	err = d.files(func(path, _ string) error {
		in, err := os.Open(path)
		if err != nil {
			return errors.Join(err, ctx.Err())
		}
		defer in.Close()
		// Bare readers and writers, since the kernel may have a way without a copy.
		_, err = io.CopyBuffer(struct{ io.Writer }{out}, struct{ io.Reader }{in}, buf)
		return errors.Join(err, ctx.Err())
	})
	err = errors.Join(err, out.Sync())
	return time.Since(start), proc.OwnCPU() - before, err
}
