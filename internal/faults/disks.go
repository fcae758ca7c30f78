//go:build linux

package faults

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

const (
	// imageSize is that of a file system in a file, smallDisk that of one to be filled.
	imageSize = 1 << 30
	smallDisk = 256 << 20
)

// mount puts a file system at the node's directory, which goes with the rig.
func (n *node) mount(ctx context.Context, args ...string) error {
	return run(ctx, append(append([]string{"mount"}, args...), n.dir)...)
}

func (n *node) image() string { return n.dir + ".img" }

// mountImage mounts the node's image. Nothing reaches it before a sync or a minute's end,
// as far as the file system can help it.
func (n *node) mountImage(ctx context.Context) error {
	return n.mount(ctx, "-t", "ext4", "-o", "loop,commit=300", n.image())
}

// onImages gives each node a disk of its own that can be looked at from below.
func onImages(ctx context.Context, r *rig) error {
	return r.each(func(n *node) error {
		f, err := os.Create(n.image())
		if err != nil {
			return err
		}
		if err := errors.Join(f.Truncate(imageSize), f.Close()); err != nil {
			return err
		}
		if err := run(ctx, "mkfs.ext4", "-q", "-F", n.image()); err != nil {
			return err
		}
		if err := n.mountImage(ctx); err != nil {
			return err
		}
		r.beforeRemoval(n)
		return nil
	})
}

// beforeRemoval unmounts a node's directory when the rig is closed, after the process.
func (r *rig) beforeRemoval(n *node) {
	r.undo = append([]func() error{func() error { return unmount(n.dir) }}, r.undo...)
}

// powerLoss takes from all nodes at once what they wrote and did not sync: it copies the
// disks of the halted processes from below their file systems, and starts with the copies.
func powerLoss(ctx context.Context, r *rig) error {
	if err := r.each((*node).pause); err != nil {
		return err
	}
	err := r.each(func(n *node) error { return copySparse(n.image(), n.image()+".copy") })
	if err := errors.Join(err, r.each((*node).kill)); err != nil {
		return err
	}
	err = r.each(func(n *node) error {
		if err := unmount(n.dir); err != nil {
			return err
		}
		if err := os.Rename(n.image()+".copy", n.image()); err != nil {
			return err
		}
		return n.mountImage(ctx)
	})
	if err != nil {
		return err
	}
	return r.each((*node).start)
}

// copySparse copies a file and leaves out blocks of zeros.
func copySparse(from, to string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.Create(to)
	if err != nil {
		return err
	}
	buf := make([]byte, 1<<20)
	zero := make([]byte, len(buf))
	size := int64(0)
	for {
		n, err := io.ReadFull(src, buf)
		if n > 0 && string(buf[:n]) != string(zero[:n]) {
			if _, err := dst.WriteAt(buf[:n], size); err != nil {
				return errors.Join(err, dst.Close())
			}
		}
		size += int64(n)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return errors.Join(dst.Truncate(size), dst.Close())
		}
		if err != nil {
			return errors.Join(err, dst.Close())
		}
	}
}

// onSmallDisk gives the victim a disk that is soon full.
func onSmallDisk(ctx context.Context, r *rig) error {
	n := r.victim()
	if err := n.mount(ctx, "-t", "tmpfs", "-o", fmt.Sprintf("size=%d", smallDisk), "tmpfs"); err != nil {
		return err
	}
	r.beforeRemoval(n)
	return nil
}

// fillDisk fills the victim's disk to the last byte and frees it. The node has to serve again
// by itself, or by a restart if its process ended. Then it is killed: what it confirmed after
// the disk was free again has to be there.
func fillDisk(ctx context.Context, r *rig) error {
	n := r.victim()
	ballast := filepath.Join(n.dir, "ballast")
	if err := fill(ballast); err != nil {
		return err
	}
	if err := sleep(ctx, 10*time.Second); err != nil {
		return err
	}
	if err := os.Remove(ballast); err != nil {
		return err
	}
	if !n.running() { // a store that cannot go on ends its process, to be restarted
		if err := n.start(); err != nil {
			return err
		}
	}
	if err := killLoaded(ctx, r, n); err != nil {
		return err
	}
	return n.start()
}

// killLoaded waits until the cluster is whole, and kills a node when it has confirmed writes
// for some seconds after that.
func killLoaded(ctx context.Context, r *rig, n *node) error {
	if _, err := r.converge(ctx, convergeTimeout); err != nil {
		return err
	}
	if err := sleep(ctx, 4*time.Second); err != nil {
		return err
	}
	return n.kill()
}

func fill(name string) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	block := make([]byte, 1<<20)
	for len(block) > 0 {
		_, err = f.Write(block)
		switch {
		case errors.Is(err, syscall.ENOSPC):
			block = block[:len(block)/2]
		case err != nil:
			return errors.Join(err, f.Close())
		}
	}
	return f.Close()
}

// readOnly makes the victim's file system give up as ext4 does after an error, and mounts a
// mended copy in its place while the node runs. Then it is killed, as in fillDisk.
func readOnly(ctx context.Context, r *rig) error {
	n := r.victim()
	// The kernel can answer a sync with success that the abort has overtaken.
	if err := n.halt(ctx); err != nil {
		return err
	}
	if err := errors.Join(run(ctx, "mount", "-o", "remount,abort", n.dir), n.resume()); err != nil {
		return err
	}
	if err := sleep(ctx, 10*time.Second); err != nil {
		return err
	}
	mended := n.image() + ".mended"
	if err := copySparse(n.image(), mended); err != nil {
		return err
	}
	if err := repair(ctx, mended); err != nil {
		return err
	}
	// The node has a mount namespace of its own, since `ip netns exec` makes one.
	within := []string{"nsenter", fmt.Sprintf("--mount=/proc/%d/ns/mnt", n.cmd.Process.Pid)}
	for _, args := range [][]string{{"umount", "-l", n.dir}, {"mount", "-t", "ext4", "-o", "loop,commit=300", mended, n.dir}} {
		if err := run(ctx, append(within, args...)...); err != nil {
			return err
		}
	}
	if err := killLoaded(ctx, r, n); err != nil {
		return err
	}
	if err := errors.Join(unmount(n.dir), os.Rename(mended, n.image()), n.mountImage(ctx)); err != nil {
		return err
	}
	return n.start()
}

// halt pauses the process and returns when it is in no system call any more.
func (n *node) halt(ctx context.Context) error {
	if err := n.pause(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", n.cmd.Process.Pid))
		halted := err == nil && len(threads) > 0
		for _, name := range threads {
			stat, err := os.ReadFile(name)
			halted = halted && err == nil && bytes.Contains(stat, []byte(") T "))
		}
		if halted {
			return nil
		}
		if err := sleep(ctx, 5*time.Millisecond); err != nil {
			return errors.Join(fmt.Errorf("wait until node %d has stopped: %w", n.number, err), n.resume())
		}
	}
}

// repair repairs the file system of an image that is not mounted.
func repair(ctx context.Context, image string) error {
	const couldNot = 4 // less is the sum of what has been done
	err := run(ctx, "e2fsck", "-fy", image)
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() > 0 && exit.ExitCode() < couldNot {
		return nil
	}
	return err
}

// olderImage brings the victim back with the disk that it had some starts ago. It has to find
// that out and keep out of all answers: what it confirmed since is missing there.
func olderImage(starts int) func(context.Context, *rig) error {
	return func(ctx context.Context, r *rig) error {
		n := r.victim()
		older := n.dir + ".older"
		if err := n.stop(); err != nil {
			return err
		}
		if err := os.CopyFS(older, os.DirFS(n.dir)); err != nil {
			return err
		}
		for range starts {
			if err := n.liveAgain(ctx, 5*time.Second); err != nil {
				return err
			}
		}
		if err := os.RemoveAll(n.dir); err != nil {
			return err
		}
		if err := os.Rename(older, n.dir); err != nil {
			return err
		}
		return n.start()
	}
}

// damagedLog kills a node, and starts it with a hole in the middle of the oldest segment of its
// log.
func damagedLog(ctx context.Context, r *rig) error {
	n := r.victim()
	if err := n.kill(); err != nil {
		return err
	}
	segments, err := filepath.Glob(filepath.Join(n.dir, "wal", "0*"))
	if err != nil || len(segments) == 0 {
		return fmt.Errorf("segments of the log: %v, %w", segments, err)
	}
	b, err := os.ReadFile(segments[0])
	if err != nil {
		return err
	}
	const hole = 4096
	written := len(bytes.TrimRight(b, "\x00"))
	if written < 4*hole {
		return fmt.Errorf("%s has only %d bytes", segments[0], written)
	}
	clear(b[written/2 : written/2+hole])
	if err := os.WriteFile(segments[0], b, 0o666); err != nil {
		return err
	}
	return n.start()
}

// liveAgain starts the node, lets it take part for a while, and kills it.
func (n *node) liveAgain(ctx context.Context, d time.Duration) error {
	if err := n.start(); err != nil {
		return err
	}
	if _, err := n.rig.converge(ctx, convergeTimeout); err != nil {
		return err
	}
	if err := sleep(ctx, d); err != nil {
		return err
	}
	return n.kill()
}
