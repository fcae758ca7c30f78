//go:build linux

package wire

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

// MTU is that of the devices: large, so that few packets pass through user space.
const MTU = 60000

// queueLimit bounds the packets that wait for their delay.
const queueLimit = 20000

// Rule says what becomes of a packet. It is called by several goroutines at once; each
// gives it randomness of its own.
type Rule func(p Packet, rnd *rand.Rand) Fate

// Switch carries packets between its devices. The zero Rule delivers all of them.
type Switch struct {
	rule    atomic.Pointer[Rule]
	ear     atomic.Pointer[Ear]
	waiting atomic.Int64

	mu      sync.Mutex
	devices map[netip.Addr]*os.File
	readers sync.WaitGroup
	closed  bool
}

// New returns a switch without devices. The caller closes it.
func New() *Switch { return &Switch{devices: map[netip.Addr]*os.File{}} }

// Available tells why a switch cannot work here, or returns nil.
func Available() error {
	if os.Geteuid() != 0 {
		return errors.New("needs root, for network namespaces")
	}
	f, err := openTUN("sf-probe")
	if err != nil {
		return err
	}
	return f.Close()
}

// Attach makes a TUN device, which lives until the switch is closed, for the packets of
// an address. The caller moves the device to its namespace and sets it up.
func (s *Switch) Attach(device string, address netip.Addr) error {
	f, err := openTUN(device)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errors.Join(errors.New("wire: the switch is closed"), f.Close())
	}
	s.devices[address] = f
	s.readers.Add(1)
	go func() { defer s.readers.Done(); s.read(f) }()
	return nil
}

// Set changes what becomes of packets; nil delivers all.
func (s *Switch) Set(r Rule) {
	if r == nil {
		s.rule.Store(nil)
		return
	}
	s.rule.Store(&r)
}

// Overhear has an ear listen to all packets from now on.
func (s *Switch) Overhear(e *Ear) { s.ear.Store(e) }

// Close takes the devices away.
func (s *Switch) Close() error {
	s.mu.Lock()
	s.closed = true
	var err error
	for _, f := range s.devices {
		err = errors.Join(err, f.Close())
	}
	s.mu.Unlock()
	s.readers.Wait()
	return err
}

func (s *Switch) read(f *os.File) {
	rnd := rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	buf := make([]byte, MTU+100)
	for {
		n, err := f.Read(buf)
		if errors.Is(err, fs.ErrClosed) {
			return
		}
		if err != nil {
			continue // the device is down for a moment
		}
		p, ok := parse(buf[:n])
		if !ok {
			continue // not IPv4
		}
		s.forward(p, buf[:n], rnd)
	}
}

func (s *Switch) forward(p Packet, data []byte, rnd *rand.Rand) {
	if ear := s.ear.Load(); ear != nil {
		ear.hear(p, data)
	}
	fate := Fate{}
	if rule := s.rule.Load(); rule != nil {
		fate = (*rule)(p, rnd)
	}
	if !fate.Drop && fate.Delay == 0 {
		s.deliver(p.To, data)
	}
	var later []byte
	for _, delay := range fate.after() {
		if later == nil {
			later = append([]byte(nil), data...)
		}
		if s.waiting.Add(1) > queueLimit {
			s.waiting.Add(-1)
			return // as a router with full buffers does
		}
		time.AfterFunc(delay, func() {
			s.waiting.Add(-1)
			s.deliver(p.To, later)
		})
	}
}

// deliver gives a packet to a device. One that is down or unknown loses it.
func (s *Switch) deliver(to netip.Addr, data []byte) {
	s.mu.Lock()
	f := s.devices[to]
	s.mu.Unlock()
	if f != nil {
		_, _ = f.Write(data)
	}
}

func openTUN(name string) (*os.File, error) {
	const path = "/dev/net/tun"
	fd, err := syscall.Open(path, syscall.O_RDWR|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("wire: %s: %w", path, err)
	}
	// struct ifreq: the name in 16 bytes, the flags, padding.
	var request struct {
		name  [syscall.IFNAMSIZ]byte
		flags uint16
		_     [22]byte
	}
	copy(request.name[:syscall.IFNAMSIZ-1], name)
	request.flags = syscall.IFF_TUN | syscall.IFF_NO_PI
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), syscall.TUNSETIFF, uintptr(unsafe.Pointer(&request)))
	if errno != 0 {
		return nil, errors.Join(fmt.Errorf("wire: making the device %s: %w", name, errno), syscall.Close(fd))
	}
	return os.NewFile(uintptr(fd), name), nil
}
