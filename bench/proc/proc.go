//go:build linux

// Package proc reads from /proc what processes and the machine have used, for benchmarks
// that count the CPU time of servers and not that of their own load.
package proc

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// clockTick is the unit of times in /proc, the same on all Linux machines that Go runs on.
const clockTick = 10 * time.Millisecond

// CPU is what a process has used so far, user and system.
func CPU(pid int) (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The name, in brackets, may hold anything; behind it, the 12th and 13th fields.
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	const utime, stime = 11, 12
	if len(fields) <= stime {
		return 0, errors.New("/proc/PID/stat is too short")
	}
	user, err := strconv.ParseInt(fields[utime], 10, 64)
	system, err2 := strconv.ParseInt(fields[stime], 10, 64)
	return time.Duration(user+system) * clockTick, errors.Join(err, err2)
}

// Waited is how long the threads of a process, those that have ended aside, were ready to run
// and had no CPU.
func Waited(pid int) (time.Duration, error) {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(threads) == 0 {
		return 0, errors.Join(err, fmt.Errorf("no process %d, or a kernel that does not tell how long it waited", pid))
	}
	var sum int64
	for _, path := range threads {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // it has just ended
		}
		// Nanoseconds on a CPU, nanoseconds waiting for one, how often.
		fields := strings.Fields(string(b))
		if len(fields) < 2 {
			return 0, fmt.Errorf("%s is too short", path)
		}
		n, err := strconv.ParseInt(fields[1], 10, 64)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return time.Duration(sum), nil
}

// MachineCPU is what all processes of the machine have used so far.
func MachineCPU() (time.Duration, error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	// "cpu", then user, nice, system, idle, waiting, interrupts, soft interrupts, stolen.
	line, _, _ := strings.Cut(string(b), "\n")
	var sum int64
	for i, field := range strings.Fields(line) {
		if i == 0 || i == 4 || i == 5 || i > 8 {
			continue
		}
		ticks, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, err
		}
		sum += ticks
	}
	return time.Duration(sum) * clockTick, nil
}

// OwnCPU is what this process has used so far.
func OwnCPU() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err) // it takes no argument that could be wrong
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// Memory is what a process has resident now, and had at most, in bytes.
func Memory(pid int) (now, peak int64, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, err
	}
	now, err = kibibytes(string(b), "VmRSS:")
	peak, err2 := kibibytes(string(b), "VmHWM:")
	return now, peak, errors.Join(err, err2)
}

// kibibytes finds a line such as "VmRSS:  1024 kB" and returns bytes.
func kibibytes(text, name string) (int64, error) {
	_, rest, _ := strings.Cut(text, name)
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		return 0, fmt.Errorf("no %s in what /proc says", name)
	}
	n, err := strconv.ParseInt(fields[0], 10, 64)
	return n << 10, err
}

// Machine describes this machine in one line.
func Machine() string {
	info, err := os.ReadFile("/proc/meminfo")
	total, err2 := kibibytes(string(info), "MemTotal:")
	memory := fmt.Sprintf("%.0f GiB", float64(total)/(1<<30))
	if errors.Join(err, err2) != nil {
		memory = "unknown memory"
	}
	kernel, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		kernel = []byte("of an unknown release")
	}
	return fmt.Sprintf("%d CPUs (%s), %s, Linux %s, %s", runtime.NumCPU(), cpuModel(), memory, bytes.TrimSpace(kernel), runtime.Version())
}

func cpuModel() string {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "of an unknown model"
	}
	_, rest, _ := strings.Cut(string(b), "model name")
	line, _, _ := strings.Cut(rest, "\n")
	return strings.TrimSpace(strings.TrimLeft(line, "\t :"))
}
