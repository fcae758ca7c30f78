package freeport

import (
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
)

func TestAddresses(t *testing.T) {
	found, err := Addresses(200)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, address := range found {
		if seen[address] {
			t.Errorf("%s was found twice", address)
		}
		seen[address] = true
		release, err := hold(address)
		if err != nil {
			t.Errorf("%s is not free: %v", address, err)
			continue
		}
		release()
	}
	if len(found) != 200 {
		t.Errorf("%d addresses instead of 200", len(found))
	}
}

// TestAddressesOutsideKernelsRange looks into the range from which connections have their ports.
func TestAddressesOutsideKernelsRange(t *testing.T) {
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		t.Skip(err)
	}
	lowest, err := strconv.Atoi(strings.Fields(string(text))[0])
	if err != nil {
		t.Fatal(err)
	}
	if lowest < end {
		t.Skipf("this machine gives connections ports from %d on, which is not Linux's default", lowest)
	}
	found, err := Addresses(500)
	if err != nil {
		t.Fatal(err)
	}
	for _, address := range found {
		_, port, err := net.SplitHostPort(address)
		if err != nil {
			t.Fatal(err)
		}
		if number, err := strconv.Atoi(port); err != nil || number < 1024 || number >= lowest {
			t.Errorf("%s is of the range from which the kernel gives connections ports (from %d on), or privileged", address, lowest)
		}
	}
}

// TestHold sees an address that is taken, be it by UDP alone, as taken, and lets go of it whole.
func TestHold(t *testing.T) {
	found, err := Addresses(1)
	if err != nil {
		t.Fatal(err)
	}
	p, err := net.ListenPacket("udp", found[0])
	if err != nil {
		t.Fatal(err)
	}
	if release, err := hold(found[0]); err == nil {
		release()
		t.Errorf("%s is free, says hold, but taken for UDP", found[0])
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	release, err := hold(found[0])
	if err != nil {
		t.Fatalf("hold kept %s for TCP when it was taken for UDP: %v", found[0], err)
	}
	release()
}
