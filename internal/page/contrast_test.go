package page

import (
	"math"
	"regexp"
	"slices"
	"strconv"
	"testing"
)

// luminance is that of a colour as #rrggbb or #rgb, as WCAG has it.
func luminance(t *testing.T, color string) float64 {
	t.Helper()
	if len(color) == 4 {
		color = string([]byte{'#', color[1], color[1], color[2], color[2], color[3], color[3]})
	}
	var l float64
	for i, weight := range []float64{0.2126, 0.7152, 0.0722} {
		n, err := strconv.ParseUint(color[1+2*i:3+2*i], 16, 8)
		if err != nil {
			t.Fatal(err)
		}
		c := float64(n) / 255
		if c <= 0.03928 {
			c /= 12.92
		} else {
			c = math.Pow((c+0.055)/1.055, 2.4)
		}
		l += weight * c
	}
	return l
}

// TestContrast: what is read has the contrast that WCAG asks for at level AA, and so have lines of
// a chart and edges of what can be filled in, in light and dark.
func TestContrast(t *testing.T) {
	css, err := assets.ReadFile("assets/page.css")
	if err != nil {
		t.Fatal(err)
	}
	schemes := regexp.MustCompile(`(?s):root \{.*?\n *\}`).FindAllString(string(css), 2)
	if len(schemes) != 2 {
		t.Fatalf("%d schemes", len(schemes))
	}
	for i, scheme := range schemes {
		colors := map[string]string{}
		for _, m := range regexp.MustCompile(`--([\w-]+): (#[0-9a-f]+)`).FindAllStringSubmatch(scheme, -1) {
			colors[m[1]] = m[2]
		}
		ratio := func(a, b string) float64 {
			l := []float64{luminance(t, colors[a]), luminance(t, colors[b])}
			slices.Sort(l)
			return (l[1] + 0.05) / (l[0] + 0.05)
		}
		for _, name := range []string{"ink", "soft", "accent", "well", "note", "alarm", "grave"} {
			for _, behind := range []string{"panel", "ground"} {
				if r := ratio(name, behind); r < 4.5 {
					t.Errorf("scheme %d: %s on %s has a contrast of %.2f", i, name, behind, r)
				}
			}
		}
		if a, b := ratio("on-accent", "accent"), ratio("soft", "faint"); a < 4.5 || b < 4.5 {
			t.Errorf("scheme %d: buttons %.2f, tags %.2f", i, a, b)
		}
		for _, name := range []string{"edge", "s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9"} {
			if r := ratio(name, "panel"); r < 3 {
				t.Errorf("scheme %d: %s has a contrast of %.2f", i, name, r)
			}
		}
	}
}
