package placement

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
)

// seriesCount is how many series the distribution is measured with.
const seriesCount = 300_000

// seriesKeys are the keys of 300 machines with 1000 series each, labelled as the
// Prometheus node exporter does. Nothing in them was chosen for its hash.
var seriesKeys = sync.OnceValue(func() []uint64 {
	keys := make([]uint64, 0, seriesCount)
	for machine := range 300 {
		instance := fmt.Sprintf("10.0.%d.%d:9100", machine/100, machine%100+1)
		add := func(name string, pairs ...string) {
			all := append([]string{"__name__", name, "instance", instance, "job", "node"}, pairs...)
			keys = append(keys, Key("", labels.FromStrings(all...)))
		}
		for cpu := range 64 {
			for _, mode := range []string{"idle", "iowait", "irq", "nice", "softirq", "steal", "system", "user"} {
				add("node_cpu_seconds_total", "cpu", fmt.Sprint(cpu), "mode", mode)
			}
		}
		for _, name := range []string{"reads_completed_total", "read_bytes_total", "read_time_seconds_total",
			"writes_completed_total", "written_bytes_total", "write_time_seconds_total", "io_now", "io_time_seconds_total"} {
			for disk := range 16 {
				add("node_disk_"+name, "device", fmt.Sprintf("nvme%dn1", disk))
			}
		}
		for _, name := range []string{"receive_bytes_total", "receive_packets_total", "receive_errs_total", "receive_drop_total",
			"transmit_bytes_total", "transmit_packets_total", "transmit_errs_total", "transmit_drop_total"} {
			for device := range 20 {
				add("node_network_"+name, "device", fmt.Sprintf("veth%d", device))
			}
		}
		for _, name := range []string{"avail_bytes", "files", "files_free", "free_bytes", "readonly", "size_bytes"} {
			for mount := range 20 {
				add("node_filesystem_"+name, "device", "/dev/mapper/data", "fstype", "ext4", "mountpoint", fmt.Sprintf("/data/%d", mount))
			}
		}
		for i := range 80 {
			add(fmt.Sprintf("node_memory_item%d_bytes", i))
		}
	}
	return keys
})

// loads counts the copies per slot, and fails if the copies of a series break a promise.
func loads(t *testing.T, slots []Slot, copies int) []int {
	t.Helper()
	m, promised := NewMap(slots, copies), promiseOf(slots, copies)
	load := make([]int, len(slots))
	var owners []int
	for _, key := range seriesKeys() {
		owners = m.Owners(key, owners)
		if err := promised.check(owners); err != nil {
			t.Fatalf("key %016x: %v", key, err)
		}
		for _, o := range owners {
			load[o]++
		}
	}
	return load
}

// expectedLoads computes, from the rule and not from any hash, how many copies of a
// series a slot holds on average: every draw is fair among the eligible slots.
func expectedLoads(slots []Slot, copies int) []float64 {
	size := make(map[string]int)
	for _, s := range slots {
		if s.Occupied {
			size[s.Zone]++
		}
	}
	perZone := make(map[string]float64)
	taken := make(map[string]int)
	var draw func(left int, probability float64)
	draw = func(left int, probability float64) {
		if left == 0 {
			return
		}
		newZone := len(taken) < len(size)
		free := func(zone string) int {
			if newZone && taken[zone] > 0 {
				return 0
			}
			return size[zone] - taken[zone]
		}
		total := 0
		for zone := range size {
			total += free(zone)
		}
		for zone := range size {
			n := free(zone)
			if n == 0 {
				continue
			}
			p := probability * float64(n) / float64(total)
			perZone[zone] += p
			taken[zone]++
			draw(left-1, p)
			if taken[zone]--; taken[zone] == 0 {
				delete(taken, zone)
			}
		}
	}
	occupied := 0
	for _, n := range size {
		occupied += n
	}
	draw(min(copies, occupied), 1)
	load := make([]float64, len(slots))
	for i, s := range slots {
		if s.Occupied {
			load[i] = perZone[s.Zone] / float64(size[s.Zone])
		}
	}
	return load
}

func TestDistribution(t *testing.T) {
	if n := len(seriesKeys()); n != seriesCount {
		t.Fatalf("%d series, want %d", n, seriesCount)
	}
	distinct := slices.Clone(seriesKeys())
	slices.Sort(distinct)
	if n := len(slices.Compact(distinct)); n != seriesCount {
		t.Fatalf("%d of %d keys are distinct", n, seriesCount)
	}
	const copies = 3
	for _, tt := range []struct {
		name  string
		slots []Slot
	}{
		{"3 nodes", zoneless(3)},
		{"5 nodes", zoneless(5)},
		{"19 nodes", zoneless(19)},
		{"6 nodes in 3 zones", zoned(6, 3)},
		{"9 nodes in 3 zones", zoned(9, 3)},
		{"7 nodes in 3 zones", zoned(7, 3)},
		{"10 nodes in 5 zones", zoned(10, 5)},
		{"6 nodes in 2 zones", zoned(6, 2)},
		{"zones of 5, 2 and 2", sized(5, 2, 2)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			load := loads(t, tt.slots, copies)
			t.Log("\n" + histogram(load, copies))
			for slot, want := range expectedLoads(tt.slots, copies) {
				want *= seriesCount
				if off := float64(load[slot])/want - 1; math.Abs(off) > 0.01 {
					t.Errorf("slot %d holds %d copies, %+.2f%% off its share of %.0f", slot, load[slot], 100*off, want)
				}
			}
		})
	}
}

// histogram draws the share of copies per node and sums it up.
func histogram(load []int, copies int) string {
	var b strings.Builder
	total, sorted := 0, slices.Sorted(slices.Values(load))
	for _, n := range load {
		total += n
	}
	mean := float64(total) / float64(len(load))
	squares := 0.0
	for slot, n := range load {
		squares += (float64(n) - mean) * (float64(n) - mean)
		bar := strings.Repeat("#", int(math.Round(40*float64(n)/float64(sorted[len(sorted)-1]))))
		fmt.Fprintf(&b, "node %2d %7d %5.2f%% %s\n", slot, n, 100*float64(n)/float64(total), bar)
	}
	median := float64(sorted[len(sorted)/2]+sorted[(len(sorted)-1)/2]) / 2
	fmt.Fprintf(&b, "%d series, %d copies: min %d, max %d, mean %.1f, median %.1f, standard deviation %.1f (%.2f%%)\n",
		seriesCount, total, sorted[0], sorted[len(sorted)-1], mean, median,
		math.Sqrt(squares/float64(len(load))), 100*math.Sqrt(squares/float64(len(load)))/mean)
	fmt.Fprintf(&b, "all %d copies of every series lie on %d distinct nodes", copies, copies)
	return b.String()
}

// moved counts the copies that lie on a node that had none of the series before, and the
// series for which that is so of two or more. At best so many copies move as the nodes come to
// hold more.
func moved(before, after []Slot, copies int) (total, twice, best int) {
	mb, ma := NewMap(before, copies), NewMap(after, copies)
	more := make([]int, max(len(before), len(after)))
	var ob, oa []int
	for _, key := range seriesKeys() {
		ob, oa = mb.Owners(key, ob), ma.Owners(key, oa)
		for _, o := range ob {
			more[o]--
		}
		n := 0
		for _, o := range oa {
			more[o]++
			if !slices.Contains(ob, o) {
				n++
			}
		}
		total += n
		if n > 1 {
			twice++
		}
	}
	for _, n := range more {
		best += max(0, n)
	}
	return total, twice, best
}
