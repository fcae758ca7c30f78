// Package acceptance holds the tests that see Starling as its users do: real
// processes on loopback, and the containers of docker-compose.yml with an unmodified
// Prometheus beside them. It exports nothing.
//
// What needs a container engine, or root to mount file systems that are filled, broken and
// cut off, runs when STARLING_ACCEPTANCE=1 is set, as `make faults` does, and says why it
// was skipped otherwise. STARLING_ACCEPTANCE=long adds what takes five minutes more. Nothing is pulled: images are built from
// scratch around static binaries, and Prometheus is built from the module that go.mod
// names, once, into STARLING_ACCEPTANCE_CACHE or the user's cache directory.
//
// These tests wait for real programs by polling, always with a deadline.
package acceptance
