package readable

import (
	"testing"
	"time"
)

func TestUnits(t *testing.T) {
	for _, c := range []struct{ got, want string }{
		{Count(0), "0"}, {Count(999), "999"}, {Count(1000), "1.0k"}, {Count(9949), "9.9k"}, {Count(9950), "10k"}, {Count(999_600), "1.0M"}, {Count(4.2e13), "42T"},
		{Size(0), "0 B"}, {Size(1023), "1023 B"}, {Size(1024), "1.0 KiB"}, {Size(64 << 20), "64 MiB"}, {Size(1 << 50), "1024.0 TiB"},
		{Span(400 * time.Millisecond), "0s"}, {Span(59600 * time.Millisecond), "1m00s"}, {Span(3 * time.Hour), "3h00m"}, {Span(50 * time.Hour), "2d02h"},
		{Percent(0.12345), "12.3%"},
	} {
		if c.got != c.want {
			t.Errorf("%q, want %q", c.got, c.want)
		}
	}
}
