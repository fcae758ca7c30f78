package main

import (
	"os"
	"runtime"

	"github.com/starling-tsdb/starling/internal/storage"
)

// makeUpForSyncs raises GOMAXPROCS by one where writes wait for syncs. Go counts the thread
// that waits for the disk as one that computes until its monitor looks, which is often
// longer than a sync takes: with two CPUs, half of them idle meanwhile. The environment
// variable wins. A limit of the container's CPUs that changes later is not followed.
func (cl *commandLine) makeUpForSyncs() {
	if os.Getenv("GOMAXPROCS") != "" || cl.config.Storage.WALSync != string(storage.SyncCommit) {
		return
	}
	runtime.SetDefaultGOMAXPROCS()
	runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + 1)
}
