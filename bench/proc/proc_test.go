//go:build linux

package proc

import (
	"os"
	"strings"
	"testing"
	"time"
)

func TestOwnProcess(t *testing.T) {
	start := OwnCPU()
	for OwnCPU()-start < 3*clockTick {
		continue // asking is what uses CPU
	}
	cpu, err := CPU(os.Getpid())
	if err != nil || cpu < 2*clockTick || cpu > OwnCPU()+2*clockTick {
		t.Errorf("CPU is %s, %v; the kernel tells %s", cpu, err, OwnCPU())
	}
	if waited, err := Waited(os.Getpid()); err != nil || waited < 0 || waited > time.Hour {
		t.Errorf("waited %s, %v", waited, err)
	}
	all, err := MachineCPU()
	if err != nil || all < cpu || all > 1e6*time.Hour {
		t.Errorf("CPU of the machine is %s, %v", all, err)
	}
	now, peak, err := Memory(os.Getpid())
	if err != nil || now < 1<<20 || peak < now {
		t.Errorf("memory is %d, at most %d, %v", now, peak, err)
	}
}

func TestGoneProcess(t *testing.T) {
	const none = 1 << 30
	if _, err := CPU(none); err == nil {
		t.Error("a process that is not there has used CPU")
	}
	if _, err := Waited(none); err == nil {
		t.Error("a process that is not there has waited")
	}
	if _, _, err := Memory(none); err == nil {
		t.Error("a process that is not there has memory")
	}
}

func TestMachine(t *testing.T) {
	if s := Machine(); strings.Contains(s, "unknown") || strings.Contains(s, "()") {
		t.Errorf("the machine is %q", s)
	}
	if _, err := kibibytes("VmHWM: 1 kB\n", "VmRSS:"); err == nil {
		t.Error("a line that is not there has a value")
	}
}
