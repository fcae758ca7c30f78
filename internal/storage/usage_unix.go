//go:build linux || darwin

package storage

import "syscall"

// measure asks the kernel how full the file system of a directory is.
func measure(dir string) (usage, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return usage{}, err
	}
	size := uint64(st.Bsize)
	return usage{free: st.Bavail * size, total: st.Blocks * size}, nil
}
