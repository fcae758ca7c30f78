// Package bordertest issues certificates for tests.
package bordertest

import (
	"testing"

	"github.com/starling-tsdb/starling/internal/border/issue"
)

// Authority is a certificate authority.
type Authority struct {
	tb     testing.TB
	issuer *issue.Authority
	// PEM is its certificate.
	PEM []byte
}

// Leaf says what a certificate is for.
type Leaf = issue.Leaf

// NewAuthority makes an authority that is valid already.
func NewAuthority(tb testing.TB, name string) *Authority {
	tb.Helper()
	issuer, err := issue.NewAuthority(name)
	if err != nil {
		tb.Fatal(err)
	}
	return &Authority{tb: tb, issuer: issuer, PEM: issuer.PEM}
}

// Issue returns a certificate and its key, in PEM.
func (a *Authority) Issue(l Leaf) (cert, key []byte) {
	a.tb.Helper()
	cert, key, err := a.issuer.Issue(l)
	if err != nil {
		a.tb.Fatal(err)
	}
	return cert, key
}

// Write puts contents into files, by path.
func Write(tb testing.TB, files map[string][]byte) {
	tb.Helper()
	if err := issue.Write(files); err != nil {
		tb.Fatal(err)
	}
}
