package node

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/starling-tsdb/starling/internal/border/bordertest"
	"github.com/starling-tsdb/starling/internal/config"
	"github.com/starling-tsdb/starling/internal/series"
	"github.com/starling-tsdb/starling/internal/table"
	"github.com/starling-tsdb/starling/internal/transport"
)

// equipped is a change of the settings that gives a node a certificate for hosts.
func (f *flock) equipped(a *bordertest.Authority, serverName string, hosts ...string) func(*config.Cluster) {
	f.Helper()
	dir := f.TempDir()
	c := config.ClusterTLS{
		CertFile: filepath.Join(dir, "cert.pem"), KeyFile: filepath.Join(dir, "key.pem"), CAFile: filepath.Join(dir, "ca.pem"), ServerName: serverName,
	}
	f.reissue(c, a, hosts, a)
	return func(to *config.Cluster) { to.TLS = c }
}

// reissue replaces the files of a node.
func (f *flock) reissue(c config.ClusterTLS, by *bordertest.Authority, hosts []string, trusted ...*bordertest.Authority) {
	f.Helper()
	cert, key := by.Issue(bordertest.Leaf{Hosts: hosts})
	var ca []byte
	for _, a := range trusted {
		ca = append(ca, a.PEM...)
	}
	bordertest.Write(f, map[string][]byte{c.CertFile: cert, c.KeyFile: key, c.CAFile: ca})
}

// intruder is somebody at an address of the network who knows all that a member knows, its
// keys excepted.
type intruder struct {
	*flock
	knows *member
	// table is what it goes by.
	table *table.Table
	dial  transport.DialFunc
}

// by returns an intruder with other means to connect.
func (i intruder) by(dial transport.DialFunc) intruder {
	i.dial = dial
	return i
}

func (f *flock) intruder(knows *member) intruder {
	return intruder{flock: f, knows: knows, table: knows.placed.Load().table}
}

// overTLS shows a certificate, if any, and takes whatever the other side shows.
func (f *flock) overTLS(ip string, shown ...tls.Certificate) transport.DialFunc {
	return func(ctx context.Context, address string) (net.Conn, error) {
		raw, err := f.net.Host(ip).Dial(ctx, address)
		if err != nil {
			return nil, err
		}
		conn := tls.Client(raw, &tls.Config{
			InsecureSkipVerify: true,
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				if len(shown) == 0 {
					return &tls.Certificate{}, nil
				}
				return &shown[0], nil
			},
		})
		// Virtual time stands still while one goroutine waits for the other to shake hands.
		if err := conn.HandshakeContext(ctx); err != nil {
			return nil, errors.Join(err, raw.Close())
		}
		return conn, nil
	}
}

func (f *flock) issue(a *bordertest.Authority, l bordertest.Leaf) tls.Certificate {
	f.Helper()
	cert, key := a.Issue(l)
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		f.Fatal(err)
	}
	return pair
}

// fixedTable is what an intruder says that its table is.
type fixedTable struct{ table *table.Table }

func (t fixedTable) Table() *table.Table    { return t.table }
func (fixedTable) Learn(*table.Table) error { return nil }

// attempt is something that an intruder may try at one victim.
type attempt struct {
	what string
	try  func(context.Context, *member) error
}

// attempts end with the one after which the others would be of an old table.
func (i intruder) attempts() []attempt {
	return []attempt{{"write", i.write}, {"read", i.read}, {"speak Raft", i.raft}, {"change the table", i.change}}
}

func (i intruder) peers(f func(*transport.Peers) error) error {
	peers := transport.NewPeers(transport.PeersOptions{
		Address: i.knows.cluster.Address, Dial: i.dial, Tables: fixedTable{i.table}, Starts: starts{i.knows.Node}, Horizons: horizons{i.knows.Node},
		MaxInFlightBytes: peerInFlightBytes,
	})
	defer peers.Close()
	return f(peers)
}

// forged is the metric that intruders write.
const forged = "forged"

func (i intruder) write(ctx context.Context, victim *member) error {
	return i.peers(func(peers *transport.Peers) error {
		_, err := peers.Peer(victim.cluster.Self()).Append(ctx, i.table, &series.Batch{Series: []series.Series{{
			Labels: labels.FromStrings(labels.MetricName, forged), Samples: []series.Sample{{T: time.Now().UnixMilli(), V: 1}},
		}}})
		return err
	})
}

func (i intruder) read(ctx context.Context, victim *member) error {
	return i.peers(func(peers *transport.Peers) error {
		q := series.LabelQuery{Name: labels.MetricName, Mint: math.MinInt64, Maxt: math.MaxInt64}
		names, err := peers.Peer(victim.cluster.Self()).Labels(ctx, i.table, q, func(int64) error { return nil })
		if err == nil && !slices.Contains(names, "secret") {
			return fmt.Errorf("got %q", names)
		}
		return err
	})
}

// change has the victim pass on a command; who is no leader and says so has listened to it.
func (i intruder) change(ctx context.Context, victim *member) error {
	return i.peers(func(peers *transport.Peers) error {
		req := fmt.Sprintf(`{"cluster":%q,"from":%q,"to":%q,"op":"propose","body":{"kind":"pause"}}`,
			i.table.ClusterID, i.knows.cluster.Self(), victim.cluster.Self())
		address, _ := i.knows.cluster.Address(victim.cluster.Self())
		b, err := peers.Call(ctx, address, []byte(req))
		if err != nil {
			return err
		}
		var answer struct{ Code, Error string }
		if err := json.Unmarshal(b, &answer); err != nil {
			return err
		}
		if answer.Code != "" && answer.Code != "not-leader" {
			return errors.New(answer.Error)
		}
		return nil
	})
}

func (i intruder) raft(ctx context.Context, victim *member) error {
	address, _ := i.knows.cluster.Address(victim.cluster.Self())
	conn, err := transport.DialRaft(ctx, i.dial, address)
	if err != nil {
		return err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	_ = conn.SetDeadline(deadline)
	if _, err := fmt.Fprintf(conn, "starling-raft 1 %s %s %s\n", i.table.ClusterID, i.knows.cluster.Self(), victim.cluster.Self()); err != nil {
		return err
	}
	line, err := bufio.NewReader(io.LimitReader(conn, 500)).ReadString('\n')
	if err != nil {
		return err
	}
	if line != "ok\n" {
		return errors.New(line)
	}
	return nil
}

// wantNothing has all attempts at a victim fail, and leave nothing behind.
func (i intruder) wantNothing(what string, victim *member) {
	i.Helper()
	for _, a := range i.attempts() {
		ctx, cancel := context.WithTimeout(i.Context(), 5*time.Second)
		if a.try(ctx, victim) == nil {
			i.Errorf("%s: the attempt to %s succeeded", what, a.what)
		}
		cancel()
	}
	if t := victim.placed.Load().table; t.Paused || t.Epoch != i.knows.placed.Load().table.Epoch {
		i.Errorf("%s: the table has changed", what)
	}
	for sample := range victim.holds() {
		if strings.HasPrefix(sample, forged) {
			i.Errorf("%s: %s holds %s", what, victim.name, sample)
		}
	}
}

// wantAll has all attempts at a victim succeed: those that fail elsewhere fail for what they lack.
func (i intruder) wantAll(what string, victim *member) {
	i.Helper()
	for _, a := range i.attempts() {
		ctx, cancel := context.WithTimeout(i.Context(), 5*time.Second)
		if err := a.try(ctx, victim); err != nil {
			i.Errorf("%s: the attempt to %s failed: %v", what, a.what, err)
		}
		cancel()
	}
}

// secured starts a cluster whose nodes have been changed, each by its address.
func (f *flock) secured(change func(ip string, c *config.Cluster)) []*member {
	f.Helper()
	var members []*member
	for i, name := range []string{"a", "b", "c"} {
		members = append(members, f.start(name, ip(i+1), func(c *config.Cluster) {
			join(3)(c)
			change(ip(i+1), c)
		}))
	}
	f.ready(members...)
	if code := members[0].write("secret", 42); code != 204 {
		f.Fatalf("write: %d", code)
	}
	return members
}

const stranger = "10.0.9.9"

// Who has no certificate that the nodes accept gets nothing out of the port for peers, and
// nothing in.
func TestIntrudersWithoutACertificate(t *testing.T) {
	for _, c := range []struct{ name, serverName string }{{"by address", ""}, {"by name", "starling.internal"}} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFlock(t)
				ours, theirs := bordertest.NewAuthority(t, "ours"), bordertest.NewAuthority(t, "theirs")
				m := f.secured(func(ip string, to *config.Cluster) {
					f.equipped(ours, c.serverName, ip, "starling.internal")(to)
				})
				i, victim := f.intruder(m[1]), m[0]
				i.by(f.net.Host(stranger).Dial).wantNothing("in clear", victim)
				i.by(f.overTLS(stranger)).wantNothing("without a certificate", victim)
				i.by(f.overTLS(stranger, f.issue(theirs, bordertest.Leaf{Hosts: []string{stranger, "starling.internal"}}))).wantNothing("by another authority", victim)
				i.by(f.overTLS(stranger, f.issue(ours, bordertest.Leaf{Hosts: []string{"starling.internal"}, Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}))).
					wantNothing("as a server only", victim)
				named := i.by(f.overTLS(stranger, f.issue(ours, bordertest.Leaf{Hosts: []string{"another.internal"}})))
				if c.serverName != "" {
					named.wantNothing("with another name", victim)
				}
				right := i.by(f.overTLS(stranger, f.issue(ours, bordertest.Leaf{Hosts: []string{"starling.internal"}})))

				foreign := right
				of := *i.table
				of.ClusterID = "01ANOTHERCLUSTER"
				foreign.table = &of
				foreign.wantNothing("of another cluster", victim)

				right.wantAll("with the right certificate", victim)
			})
		})
	}
}

// Without TLS the same attempts succeed, which is what TLS is for.
func TestIntrudersInClear(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		m := f.secured(func(string, *config.Cluster) {})
		f.intruder(m[1]).by(f.net.Host(stranger).Dial).wantAll("in clear", m[0])
	})
}

// A cluster with TLS works as one without, through restarts and while all certificates are
// replaced by those of another authority.
func TestCertificatesAreReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlock(t)
		first, second := bordertest.NewAuthority(t, "first"), bordertest.NewAuthority(t, "second")
		files := map[string]config.ClusterTLS{}
		m := f.secured(func(ip string, to *config.Cluster) {
			f.equipped(first, "", ip)(to)
			files[ip] = to.TLS
		})
		serves := func(when string) {
			t.Helper()
			for i, from := range m {
				if code := from.write("m", float64(i)); code != 204 {
					t.Errorf("%s: write to %s: %d", when, from.name, code)
				}
				if a := from.query("secret"); a.code != 200 || a.values["0"] != "42" {
					t.Errorf("%s: query of %s: %d %v %s", when, from.name, a.code, a.values, a.text)
				}
			}
		}
		step := func(when string, by *bordertest.Authority, trusted ...*bordertest.Authority) {
			t.Helper()
			for ip, c := range files {
				f.reissue(c, by, []string{ip}, trusted...)
				<-time.After(15 * time.Second)
				serves(when + " on " + ip)
			}
		}
		serves("at first")
		step("both authorities are trusted", first, first, second)
		step("certificates are of the second one", second, first, second)
		m[2].halt()
		m[2] = f.start("c", ip(3), func(c *config.Cluster) { join(3)(c); c.TLS = files[ip(3)] })
		f.ready(m[2])
		serves("one has restarted")
		step("the first one is given up", second, second)
		f.intruder(m[1]).by(f.overTLS(stranger, f.issue(first, bordertest.Leaf{Hosts: []string{stranger}}))).
			wantNothing("by the authority that is given up", m[0])
	})
}
