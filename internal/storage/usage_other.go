//go:build !linux && !darwin

package storage

import "errors"

// measure does not know how to ask here.
func measure(string) (usage, error) { return usage{}, errors.ErrUnsupported }
