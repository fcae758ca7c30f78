//go:build linux

package wire

import (
	"slices"
	"testing"
)

func TestEar(t *testing.T) {
	e := NewEar([]string{"01STARLING", "HTTP/1.1"})
	for _, data := range []string{"", "01STARLIN", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nnode: 01STARLING"} {
		e.hear(Packet{FromPort: 40000, ToPort: 9080}, []byte(data))
	}
	e.hear(Packet{FromPort: 7946, ToPort: 7946, UDP: true}, []byte("x01STARLINGx"))
	want := []string{
		`"01STARLING" is in clear in 1 packets of port 7946`,
		`"01STARLING" is in clear in 1 packets of port 9080`,
		`"HTTP/1.1" is in clear in 2 packets of port 9080`,
	}
	if got := e.Heard(); !slices.Equal(got, want) {
		t.Errorf("heard %q, want %q", got, want)
	}
}
