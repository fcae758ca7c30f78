// Package keyring keeps the keys that encrypt gossip: in a file, and in memory for memberlist.
// What is changed is in the file, durably, before it is used.
//
// Nothing here returns or logs a key: keys go by their fingerprints.
package keyring

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/hashicorp/memberlist"

	"github.com/starling-tsdb/starling/internal/statefile"
)

// maxKeys is far more than a rotation needs. Each packet that no key opens costs an attempt with
// every one.
const maxKeys = 16

// Ring is the keys of a node. Its methods may be called concurrently.
type Ring struct {
	path string
	live *memberlist.Keyring

	mu   sync.Mutex
	keys [][]byte // the one that is used first
}

// Open reads a file, which has a key at least. It has to be writable, with its directory, for the keys
// to be changed.
func Open(path string) (*Ring, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	keys, err := decode(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	r := &Ring{path: path, keys: keys}
	if r.live, err = memberlist.NewKeyring(keys, keys[0]); err != nil {
		return nil, err
	}
	return r, nil
}

// Readable returns the permissions of a file if others than its owner may read or write it, else 0.
func Readable(path string) (fs.FileMode, error) {
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm()&0o077 == 0 {
		return 0, err
	}
	return info.Mode().Perm(), nil
}

// decode takes a file apart. No error has a key in it.
func decode(b []byte) ([][]byte, error) {
	var texts []string
	if err := json.Unmarshal(b, &texts); err != nil {
		return nil, errors.New(`is no JSON list of keys in base64, like ["…", "…"]`)
	}
	if len(texts) == 0 || len(texts) > maxKeys {
		return nil, fmt.Errorf("has %d keys, want 1 to %d", len(texts), maxKeys)
	}
	var keys [][]byte
	for i, text := range texts {
		key, err := parse(text)
		if err != nil {
			return nil, fmt.Errorf("key number %d: %w", i+1, err)
		}
		if find(keys, Fingerprint(key)) >= 0 {
			return nil, fmt.Errorf("key number %d is there twice, or one with its fingerprint is", i+1)
		}
		keys = append(keys, key)
	}
	return keys, nil
}

func parse(text string) ([]byte, error) {
	key, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, errors.New("is not in base64")
	}
	return key, check(key)
}

func check(key []byte) error {
	if memberlist.ValidateKey(key) != nil {
		return fmt.Errorf("has %d bytes, want 16, 24 or 32 (openssl rand -base64 32 makes one)", len(key))
	}
	return nil
}

// Fingerprint tells a key from others, and says nothing of it: 8 hexadecimal digits.
func Fingerprint(key []byte) string {
	sum := sha256.Sum256(key)
	return hex.EncodeToString(sum[:4])
}

// Parse reads a key in base64.
func Parse(text string) ([]byte, error) {
	key, err := parse(strings.TrimSpace(text))
	if err != nil {
		return nil, fmt.Errorf("the key %w", err)
	}
	return key, nil
}

// Named returns the fingerprint that a person means who names it, or the key.
func Named(text string) (string, error) {
	text = strings.TrimSpace(text)
	if b, err := hex.DecodeString(text); err == nil && len(b) == 4 {
		return strings.ToLower(text), nil
	}
	key, err := parse(text)
	if err != nil {
		return "", errors.New("this is neither a key in base64 nor a fingerprint, 8 hexadecimal digits")
	}
	return Fingerprint(key), nil
}

// Memberlist is what memberlist encrypts with. It follows the changes.
func (r *Ring) Memberlist() *memberlist.Keyring { return r.live }

// Fingerprints are those of all keys, the one that is used first.
func (r *Ring) Fingerprints() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	prints := make([]string, len(r.keys))
	for i, key := range r.keys {
		prints[i] = Fingerprint(key)
	}
	return prints
}

// Add has the node open what is encrypted with a key. It may have it already.
func (r *Ring) Add(key []byte) error {
	if err := check(key); err != nil {
		return fmt.Errorf("the key %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch i := find(r.keys, Fingerprint(key)); {
	case i >= 0 && bytes.Equal(r.keys[i], key):
		return nil
	case i >= 0:
		return fmt.Errorf("another key has the fingerprint %s: make a new one", Fingerprint(key))
	case len(r.keys) == maxKeys:
		return fmt.Errorf("there are %d keys: remove some first", maxKeys)
	}
	next := append(slices.Clone(r.keys), key)
	if err := r.save(next); err != nil {
		return err
	}
	r.keys = next
	return r.live.AddKey(key)
}

// Use has the node encrypt with one of its keys.
func (r *Ring) Use(fingerprint string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := find(r.keys, fingerprint)
	switch {
	case i < 0:
		return fmt.Errorf("there is no key %s: add it first", fingerprint)
	case i == 0:
		return nil
	}
	key := r.keys[i]
	next := append([][]byte{key}, slices.Delete(slices.Clone(r.keys), i, i+1)...)
	if err := r.save(next); err != nil {
		return err
	}
	r.keys = next
	return r.live.UseKey(key)
}

// Remove has the node open nothing more that is encrypted with a key, which is not the one
// that it uses. It may lack it already.
func (r *Ring) Remove(fingerprint string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := find(r.keys, fingerprint)
	switch {
	case i < 0:
		return nil
	case i == 0:
		return fmt.Errorf("the key %s is the one in use: use another one first", fingerprint)
	}
	gone := r.keys[i]
	next := slices.Delete(slices.Clone(r.keys), i, i+1)
	if err := r.save(next); err != nil {
		return err
	}
	r.keys = next
	return drop(r.live, gone)
}

// drop removes a key from a ring that memberlist reads from. Its RemoveKey moves the keys behind the
// removed one within a list that others may be reading, and moves nothing if the key is
// the last. So those behind it are taken away first, and put back: for that moment, a
// packet with one of them is lost.
func drop(live *memberlist.Keyring, gone []byte) error {
	var behind [][]byte
	keys := live.GetKeys()
	for i := len(keys) - 1; i > 0 && !bytes.Equal(keys[i], gone); i-- {
		behind = append(behind, keys[i])
		if err := live.RemoveKey(keys[i]); err != nil {
			return err
		}
	}
	err := live.RemoveKey(gone)
	for _, key := range slices.Backward(behind) {
		err = errors.Join(err, live.AddKey(key))
	}
	return err
}

// save replaces the file. r.mu is held, though over I/O: changes are made by hand, one after the other,
// and nothing else waits for it but who asks for the fingerprints.
func (r *Ring) save(keys [][]byte) error {
	texts := make([]string, len(keys))
	for i, key := range keys {
		texts[i] = base64.StdEncoding.EncodeToString(key)
	}
	b, err := json.MarshalIndent(texts, "", "  ")
	if err != nil {
		return err
	}
	if err := statefile.ReplacePrivate(r.path, append(b, '\n')); err != nil {
		return fmt.Errorf("the keys stay as they are: %w", err)
	}
	return nil
}

// find returns where the key with a fingerprint is, -1 for nowhere.
func find(keys [][]byte, fingerprint string) int {
	return slices.IndexFunc(keys, func(key []byte) bool { return Fingerprint(key) == fingerprint })
}
