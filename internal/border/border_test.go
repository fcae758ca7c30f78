package border

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/starling-tsdb/starling/internal/border/bordertest"
	"github.com/starling-tsdb/starling/internal/simnet"
)

const here, there = "10.0.0.1", "10.0.0.2"

// party is one side: a host, and the files of its keys.
type party struct {
	testing.TB
	*Guard
	host  *simnet.Host
	files Files
}

func newParty(t testing.TB, on *simnet.Net, ip, name string) *party {
	t.Helper()
	dir := t.TempDir()
	return &party{TB: t, host: on.Host(ip), files: Files{
		Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem"), CA: filepath.Join(dir, "ca.pem"), ServerName: name,
	}}
}

// equip writes a certificate of one authority, and those that are trusted.
func (p *party) equip(by *bordertest.Authority, l bordertest.Leaf, trusted ...*bordertest.Authority) {
	p.Helper()
	cert, key := by.Issue(l)
	var ca []byte
	for _, a := range trusted {
		ca = append(ca, a.PEM...)
	}
	bordertest.Write(p, map[string][]byte{p.files.Cert: cert, p.files.Key: key, p.files.CA: ca})
}

func (p *party) open() *party {
	p.Helper()
	var err error
	p.Guard, err = New(Options{TLS: &p.files, Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry()})
	if err != nil {
		p.Fatal(err)
	}
	return p
}

// echo answers each connection with what it says.
func (p *party) echo() {
	p.Helper()
	base, err := p.host.Listen(9081)
	if err != nil {
		p.Fatal(err)
	}
	l := p.Listener(base)
	p.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c})
				_ = c.Close()
			}()
		}
	}()
}

// say sends a word and wants it back.
func say(c net.Conn) error {
	_, failed := io.WriteString(c, "ping")
	var b [4]byte
	// In TLS 1.3 a dialler hears why it is refused with what it reads first.
	if _, err := io.ReadFull(c, b[:]); err != nil {
		return errors.Join(err, failed)
	}
	if string(b[:]) != "ping" {
		return errors.New("something else came back")
	}
	return nil
}

func try(dial DialFunc) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	c, err := dial(ctx, there+":9081")
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	return say(c)
}

// Whoever lacks any part of what a peer has is refused, and whoever has all of it is not.
func TestWhoIsLetIn(t *testing.T) {
	both := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	for _, c := range []struct {
		name       string
		serverName string
		server     []string // what the certificate of the node that is dialled carries
		client     []string
		foreign    bool // the dialler's certificate is of another authority
		usages     []x509.ExtKeyUsage
		expired    bool
		want       string
	}{
		{name: "by address", server: []string{there}, client: []string{here}},
		{name: "by name", serverName: "starling", server: []string{"starling"}, client: []string{"starling"}},
		{name: "dialled at another address", server: []string{"10.0.0.3"}, client: []string{here}, want: "not 10.0.0.2"},
		{name: "dialled has another name", serverName: "starling", server: []string{"sparrow", there}, client: []string{"starling"}, want: "not starling"},
		{name: "dialler has another name", serverName: "starling", server: []string{"starling"}, client: []string{"sparrow"}, want: "bad certificate"},
		{name: "another authority", server: []string{there}, client: []string{here}, foreign: true, want: "unknown certificate authority"},
		{name: "server only", server: []string{there}, client: []string{here}, usages: both[:1], want: "bad certificate"},
		{name: "expired", server: []string{there}, client: []string{here}, expired: true, want: "expired certificate"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ours, theirs := bordertest.NewAuthority(t, "ours"), bordertest.NewAuthority(t, "theirs")
				simulated := simnet.New()
				server := newParty(t, simulated, there, "")
				server.equip(ours, bordertest.Leaf{Hosts: c.server}, ours)
				server.open()
				server.opts.TLS.ServerName = c.serverName // a node whose own name is wrong would not start
				server.echo()

				by := ours
				if c.foreign {
					by = theirs
				}
				leaf := bordertest.Leaf{Hosts: c.client, Usages: c.usages}
				if c.expired {
					leaf.Until = time.Now().Add(-time.Minute)
				}
				cert, key := by.Issue(leaf)
				pair, err := tls.X509KeyPair(cert, key)
				if err != nil {
					t.Fatal(err)
				}
				client := newParty(t, simulated, here, c.serverName)
				client.equip(ours, bordertest.Leaf{Hosts: []string{c.serverName, here}}, ours)
				client.open().keys.certificate = pair

				err = try(client.Dial(client.host.Dial))
				if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
					t.Errorf("dialling ended with %v, want %q", err, c.want)
				}
			})
		})
	}
}

// Without TLS, without a certificate and with an old version nobody gets in.
func TestWhoComesWithNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours := bordertest.NewAuthority(t, "ours")
		simulated := simnet.New()
		server := newParty(t, simulated, there, "")
		server.equip(ours, bordertest.Leaf{Hosts: []string{there}}, ours)
		server.open().echo()
		host := simulated.Host(here)
		cert, key := ours.Issue(bordertest.Leaf{})
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		over := func(conf *tls.Config) DialFunc {
			return func(ctx context.Context, address string) (net.Conn, error) {
				raw, err := host.Dial(ctx, address)
				if err != nil {
					return nil, err
				}
				return tls.Client(raw, conf), nil
			}
		}
		for _, c := range []struct {
			name string
			dial DialFunc
			ok   bool
		}{
			{"in clear", host.Dial, false},
			{"no certificate", over(&tls.Config{InsecureSkipVerify: true}), false},
			{"TLS 1.1", over(&tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS11, MaxVersion: tls.VersionTLS11}), false},
			{"TLS 1.2", over(&tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{pair}, MaxVersion: tls.VersionTLS12}), true},
			{"TLS 1.3", over(&tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS13}), true},
		} {
			if err := try(c.dial); (err == nil) != c.ok {
				t.Errorf("%s: %v, want success: %v", c.name, err, c.ok)
			}
		}
		synctest.Wait() // a dialler may hear that it is refused before that is counted
		if n := testutil.ToFloat64(server.metrics.refused.WithLabelValues("tls")); n != 3 {
			t.Errorf("%v connections were counted as refused, want 3", n)
		}
	})
}

// A node's own files are refused at the start for what peers would refuse them for.
func TestOwnFiles(t *testing.T) {
	ours, theirs := bordertest.NewAuthority(t, "ours"), bordertest.NewAuthority(t, "theirs")
	for _, c := range []struct {
		name   string
		change func(p *party)
		want   string
	}{
		{"in order", func(*party) {}, ""},
		{"no file", func(p *party) { _ = os.Remove(p.files.Key) }, "--cluster.tls.key-file: open"},
		{"key of another", func(p *party) {
			_, key := ours.Issue(bordertest.Leaf{})
			bordertest.Write(p, map[string][]byte{p.files.Key: key})
		}, "private key does not match"},
		{"foreign", func(p *party) { p.equip(theirs, bordertest.Leaf{Hosts: []string{here}}, ours) }, "peers would refuse it"},
		{"client only", func(p *party) {
			p.equip(ours, bordertest.Leaf{Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, ours)
		}, "peers would refuse it"},
		{"expired", func(p *party) { p.equip(ours, bordertest.Leaf{Until: time.Now().Add(-time.Second)}, ours) }, "expired"},
		{"empty CA", func(p *party) { bordertest.Write(p, map[string][]byte{p.files.CA: nil}) }, "has no certificate"},
		{"half a CA", func(p *party) {
			bordertest.Write(p, map[string][]byte{p.files.CA: append(append([]byte{}, ours.PEM...), theirs.PEM[:100]...)})
		}, "ends in the middle"},
		{"a leaf as CA", func(p *party) {
			cert, _ := ours.Issue(bordertest.Leaf{})
			bordertest.Write(p, map[string][]byte{p.files.CA: cert})
		}, "is no certificate authority"},
		{"another name", func(p *party) { p.files.ServerName = "starling" }, "--cluster.tls.server-name"},
	} {
		p := newParty(t, simnet.New(), here, "")
		p.equip(ours, bordertest.Leaf{Hosts: []string{here}}, ours)
		c.change(p)
		_, err := New(Options{TLS: &p.files})
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: New ended with %v, want %q", c.name, err, c.want)
		}
	}
}

func TestOwnAddress(t *testing.T) {
	ours := bordertest.NewAuthority(t, "ours")
	for _, c := range []struct {
		host, name, self string
		ok               bool
	}{
		{here, "", here, true},
		{here, "", "::ffff:" + here, true},
		{here, "", there, false},
		{"starling", "starling", there, true},
	} {
		p := newParty(t, simnet.New(), here, c.name)
		p.equip(ours, bordertest.Leaf{Hosts: []string{c.host}}, ours)
		if err := p.open().SetSelf(netip.MustParseAddr(c.self)); (err == nil) != c.ok {
			t.Errorf("certificate for %s, name %q, dialled at %s: %v, want success: %v", c.host, c.name, c.self, err, c.ok)
		}
	}
}

// Files that change are taken over as they are whole, and what they were stays in use until
// then. A connection ends when nobody vouches for its peer any more.
func TestFilesChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, second := bordertest.NewAuthority(t, "first"), bordertest.NewAuthority(t, "second")
		simulated := simnet.New()
		server, client := newParty(t, simulated, there, ""), newParty(t, simulated, here, "")
		server.equip(first, bordertest.Leaf{Hosts: []string{there}}, first)
		client.equip(first, bordertest.Leaf{Hosts: []string{here}}, first)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		for _, p := range []*party{server, client} {
			go p.open().Run(ctx)
		}
		server.echo()
		dial := client.Dial(client.host.Dial)
		works := func(when string) {
			t.Helper()
			if err := try(dial); err != nil {
				t.Fatalf("%s: %v", when, err)
			}
		}
		old, err := dial(ctx, there+":9081")
		if err != nil {
			t.Fatal(err)
		}
		defer old.Close()
		works("at first")
		expiry := testutil.ToFloat64(server.metrics.expiry)

		cert, err := os.ReadFile(server.files.Cert)
		if err != nil {
			t.Fatal(err)
		}
		bordertest.Write(t, map[string][]byte{server.files.Cert: cert[:len(cert)/2]})
		<-time.After(10 * lookEvery)
		works("with half a certificate")
		if n := testutil.ToFloat64(server.metrics.failures); n != 1 {
			t.Errorf("%v failures were counted of one bad content, want 1", n)
		}

		server.equip(first, bordertest.Leaf{Hosts: []string{there}, Until: time.Now().Add(48 * time.Hour)}, first, second)
		client.equip(first, bordertest.Leaf{Hosts: []string{here}}, first, second)
		<-time.After(2 * lookEvery)
		if now := testutil.ToFloat64(server.metrics.expiry); now <= expiry {
			t.Errorf("the certificate in use expires at %v, before at %v: the new one is not", now, expiry)
		}
		works("with both authorities trusted")
		server.equip(second, bordertest.Leaf{Hosts: []string{there}}, first, second)
		<-time.After(2 * lookEvery)
		works("with one certificate of the second authority")
		client.equip(second, bordertest.Leaf{Hosts: []string{here}}, first, second)
		<-time.After(2 * lookEvery)
		works("with both certificates of the second authority")
		if err := say(old); err != nil {
			t.Fatalf("the first connection, before its authority is given up: %v", err)
		}
		young, err := dial(ctx, there+":9081")
		if err != nil {
			t.Fatal(err)
		}
		defer young.Close()
		if err := say(young); err != nil {
			t.Fatal(err)
		}

		server.equip(second, bordertest.Leaf{Hosts: []string{there}}, second)
		<-time.After(2 * lookEvery)
		works("with the first authority given up on one side")
		if err := say(young); err != nil {
			t.Errorf("a connection by the second authority: %v", err)
		}
		if err := say(old); err == nil {
			t.Error("a connection by the first authority goes on, which is given up")
		}
	})
}

// Peers are dialled and accepted in their networks only, whatever form an address has.
func TestNetworks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		simulated := simnet.New()
		simulated.SetName("near", there)
		simulated.SetName("far", "192.168.0.1")
		open := func(ip string, networks ...string) *party {
			p := &party{TB: t, host: simulated.Host(ip)}
			o := Options{Logger: slog.New(slog.DiscardHandler)}
			for _, n := range networks {
				o.Networks = append(o.Networks, netip.MustParsePrefix(n))
			}
			var err error
			if p.Guard, err = New(o); err != nil {
				t.Fatal(err)
			}
			return p
		}
		server := open(there, "10.0.0.0/24")
		server.echo()
		open("192.168.0.1").echo()
		for _, c := range []struct {
			from    *party
			address string
			want    string
		}{
			{open(here, "10.0.0.0/8"), there, ""},
			{open(here, "10.0.0.0/8"), "near", ""},
			{open(here, "fd00::/8", "10.0.0.2/32"), there, ""},
			{open(here, "10.0.1.0/24"), there, "10.0.0.2 is in none of --cluster.allowed-cidrs=10.0.1.0/24"},
			{open(here, "10.0.0.0/8"), "far", "192.168.0.1 is in none"},
			{open(here), "far", ""},
			{open("10.0.1.1"), there, "EOF"}, // by the one that accepts
		} {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			conn, err := c.from.Dial(c.from.host.Dial)(ctx, net.JoinHostPort(c.address, "9081"))
			if err == nil {
				err = say(conn)
				_ = conn.Close()
			}
			cancel()
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("from %s to %s: %v, want %q", c.from.host.IP(), c.address, err, c.want)
			}
		}
		if n := testutil.ToFloat64(server.metrics.refused.WithLabelValues("address")); n != 1 {
			t.Errorf("%v connections were counted as refused, want 1", n)
		}
		for ip, want := range map[string]bool{"::ffff:10.0.0.9": true, "::ffff:10.0.1.9": false, "fe80::1%eth0": false} {
			if err := server.Allows(netip.MustParseAddr(ip)); (err == nil) != want {
				t.Errorf("Allows(%s) = %v, want success: %v", ip, err, want)
			}
		}
		if err := server.SetSelf(netip.MustParseAddr("10.0.1.1")); err == nil {
			t.Error("a node may be where its peers would not dial it")
		}
		if err := server.SetSelf(netip.MustParseAddr("::ffff:" + there)); err != nil {
			t.Error(err)
		}
	})
}

// Who asks for nothing has nothing in the way.
func TestNothingWithoutTLS(t *testing.T) {
	g, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	base, err := simnet.New().Host(there).Listen(1)
	if err != nil {
		t.Fatal(err)
	}
	defer base.Close()
	if g.Listener(base) != base || g.Secret() {
		t.Error("a guard that asks for nothing wraps the listener")
	}
}
