package main

import (
	"runtime"
	"testing"

	"github.com/starling-tsdb/starling/internal/storage"
)

func TestMakeUpForSyncs(t *testing.T) {
	before := runtime.GOMAXPROCS(0)
	t.Cleanup(func() { runtime.GOMAXPROCS(before) })
	t.Setenv("GOMAXPROCS", "")
	runtime.SetDefaultGOMAXPROCS()
	cpus := runtime.GOMAXPROCS(0)
	for _, tc := range []struct {
		name, env string
		mode      storage.SyncMode
		want      int
	}{
		{"syncs", "", storage.SyncCommit, cpus + 1},
		{"once more", "", storage.SyncCommit, cpus + 1},
		{"no waiting", "", storage.SyncOff, cpus},
		{"background", "", storage.SyncInterval, cpus},
		{"environment", "7", storage.SyncCommit, cpus},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Setenv("GOMAXPROCS", tc.env)
			if tc.name != "once more" {
				runtime.GOMAXPROCS(cpus)
			}
			cl := newCommandLine()
			cl.config.Storage.WALSync = string(tc.mode)
			cl.makeUpForSyncs()
			if got := runtime.GOMAXPROCS(0); got != tc.want {
				t.Errorf("GOMAXPROCS is %d, want %d", got, tc.want)
			}
		})
	}
}
