// Package overlay makes builds of changed sources without touching them: it writes the
// changed files elsewhere, with the JSON that `go build -overlay` and `go test -overlay`
// take. A change is a replacement of an exact text that occurs once; one whose text is
// not there any more is an error, so that changes cannot go out of date unnoticed.
package overlay

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Change is one change of one file.
type Change struct {
	// File is its path: below the repository, or below Go's own sources if it begins
	// with GOROOT/.
	File string
	// Old is the text that is replaced; it occurs once. Empty for a file that does not
	// exist yet, whose content New is.
	Old string
	// New is what comes in its place.
	New string
}

// Place says where sources are.
type Place struct {
	// Repository is the top of the module.
	Repository string
	// GOROOT is that of the Go that builds.
	GOROOT string
}

// Write writes the changed files and the JSON into dir, which it makes, and returns the
// path of the JSON.
func Write(dir string, at Place, changes []Change) (string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	contents := map[string]string{}
	for _, c := range changes {
		path, err := at.path(c.File)
		if err != nil {
			return "", err
		}
		if contents[path], err = apply(path, contents[path], c); err != nil {
			return "", err
		}
	}
	replace := map[string]string{}
	for path, content := range contents {
		name := filepath.Join(dir, strconv.Itoa(len(replace))+"-"+filepath.Base(path))
		if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
			return "", err
		}
		replace[path] = name
	}
	list, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	name := filepath.Join(dir, "overlay.json")
	return name, os.WriteFile(name, list, 0o644)
}

func (p Place) path(file string) (string, error) {
	if rest, ok := strings.CutPrefix(file, "GOROOT/"); ok {
		return filepath.Join(p.GOROOT, filepath.FromSlash(rest)), nil
	}
	return filepath.Abs(filepath.Join(p.Repository, filepath.FromSlash(file)))
}

// apply returns the content of a file after a change; content is what earlier changes made
// of it, if there were any.
func apply(path, content string, c Change) (string, error) {
	if c.Old == "" {
		if _, err := os.Stat(path); err == nil || content != "" {
			return "", fmt.Errorf("overlay: %s exists, so a change of it must say what it replaces", c.File)
		}
		return c.New, nil
	}
	if content == "" {
		b, err := os.ReadFile(path)
		if err != nil {
			return "", fmt.Errorf("overlay: %w", err)
		}
		content = string(b)
	}
	if c.Old == c.New {
		return "", errors.New("overlay: a change of " + c.File + " changes nothing")
	}
	if n := strings.Count(content, c.Old); n != 1 {
		return "", fmt.Errorf("overlay: %s holds the text %d times, want once; adapt the change:\n%s", c.File, n, c.Old)
	}
	return strings.Replace(content, c.Old, c.New, 1), nil
}
