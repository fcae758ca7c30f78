package page

import (
	"bytes"
	"fmt"
	"html/template"
	"image/color"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// mostLines is how many series are drawn: as many as the style sheet has colours.
const mostLines = 10

// line is what is drawn of a series.
type line []point

// Colours of the drawing stand for classes of the style sheet, which knows light and dark.
var (
	inkAxis = color.RGBA{R: 1, A: 255}
	inkGrid = color.RGBA{R: 2, A: 255}
)

func inkLine(i int) color.Color { return color.RGBA{G: 1, B: uint8(i), A: 255} }

// chart draws lines over a span, as an SVG that takes its colours from the style sheet. All
// text in it are times and numbers.
func chart(lines []line, s span, width, height float64) (template.HTML, error) {
	p := plot.New()
	p.BackgroundColor = nil
	p.X.Min, p.X.Max = seconds(s.begin), seconds(s.end)
	grid := plotter.NewGrid()
	grid.Vertical.Color, grid.Horizontal.Color = inkGrid, inkGrid
	p.Add(grid)
	low, high := math.Inf(1), math.Inf(-1)
	for i, l := range lines {
		for _, part := range parts(l, s.step) {
			for _, at := range part {
				low, high = min(low, at.Y), max(high, at.Y)
			}
			if err := addPart(p, part, inkLine(i)); err != nil {
				return "", err
			}
		}
	}
	p.X.Min, p.X.Max = seconds(s.begin), seconds(s.end)
	p.Y.Min, p.Y.Max = bounds(low, high)
	p.X.Tick.Marker, p.Y.Tick.Marker = timeTicks(width/90), valueTicks{}
	for _, axis := range []*plot.Axis{&p.X, &p.Y} {
		axis.Color, axis.Tick.Color, axis.Tick.Label.Color = inkAxis, inkAxis, inkAxis
		axis.Tick.Label.Font = font.Font{Typeface: "Liberation", Variant: "Sans", Size: 11}
		axis.Tick.Length, axis.Padding = 3, 4
	}
	p.Y.Width, p.Y.Tick.Width = 0, 0
	canvas := vgsvg.New(vg.Length(width), vg.Length(height))
	p.Draw(canvasOf(canvas, width, height))
	var b bytes.Buffer
	if _, err := canvas.WriteTo(&b); err != nil {
		return "", err
	}
	return inline(b.String(), width, height), nil
}

// canvasOf leaves room at the right for half of the last label.
func canvasOf(c *vgsvg.Canvas, width, height float64) draw.Canvas {
	return draw.Crop(draw.NewCanvas(c, vg.Length(width), vg.Length(height)), 0, -18, 2, -6)
}

// addPart draws a part of a line without holes; of a single point, a dot.
func addPart(p *plot.Plot, part plotter.XYs, ink color.Color) error {
	if len(part) == 1 {
		dot, err := plotter.NewScatter(part)
		if err != nil {
			return err
		}
		dot.GlyphStyle = draw.GlyphStyle{Color: ink, Radius: 2, Shape: draw.CircleGlyph{}}
		p.Add(dot)
		return nil
	}
	l, err := plotter.NewLine(part)
	if err != nil {
		return err
	}
	l.Color, l.Width = ink, 1.5
	p.Add(l)
	return nil
}

// parts divides a line where there is no value that can be drawn.
func parts(l line, step time.Duration) (list []plotter.XYs) {
	var part plotter.XYs
	end := func() {
		if len(part) > 0 {
			list, part = append(list, part), nil
		}
	}
	for _, at := range l {
		v := at.value()
		if n := len(part); n > 0 && at.at-part[n-1].X > 1.5*step.Seconds() {
			end()
		}
		if math.IsNaN(v) || math.IsInf(v, 0) || math.Abs(v) > 1e300 {
			end()
			continue
		}
		part = append(part, plotter.XY{X: at.at, Y: v})
	}
	end()
	return list
}

// bounds leave some room around values, and begin at zero where that is near.
func bounds(low, high float64) (float64, float64) {
	if low > high {
		return 0, 1
	}
	room := (high - low) * 0.06
	if room == 0 {
		room = max(math.Abs(high)*0.1, 1e-9)
	}
	switch {
	case low >= 0 && low <= high/2:
		return 0, high + room
	case high <= 0 && high >= low/2:
		return low - room, 0
	}
	return low - room, high + room
}

func seconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }

// timeTicks puts about so many ticks at round times, in UTC.
type timeTicks float64

// Ticks implements plot.Ticker.
func (n timeTicks) Ticks(low, high float64) (ticks []plot.Tick) {
	steps := []time.Duration{time.Second, 5 * time.Second, 15 * time.Second, 30 * time.Second}
	for _, m := range []int{1, 2, 5, 10, 15, 30, 60, 2 * 60, 3 * 60, 6 * 60, 12 * 60, 24 * 60, 2 * 24 * 60, 7 * 24 * 60, 14 * 24 * 60, 28 * 24 * 60, 91 * 24 * 60, 365 * 24 * 60, 3650 * 24 * 60} {
		steps = append(steps, time.Duration(m)*time.Minute)
	}
	step := steps[0]
	for _, step = range steps {
		if (high-low)/step.Seconds() <= float64(n) {
			break
		}
	}
	layout := "15:04"
	switch {
	case step < time.Minute:
		layout = time.TimeOnly
	case step >= 24*time.Hour:
		layout = "2 Jan 06"
	case high-low > (24 * time.Hour).Seconds():
		layout = "2 Jan 15:04"
	}
	for at := math.Ceil(low/step.Seconds()) * step.Seconds(); at <= high; at += step.Seconds() {
		ticks = append(ticks, plot.Tick{Value: at, Label: time.Unix(int64(at), 0).UTC().Format(layout)})
	}
	return ticks
}

// valueTicks puts four to ten ticks at round values.
type valueTicks struct{}

// Ticks implements plot.Ticker.
func (valueTicks) Ticks(low, high float64) (ticks []plot.Tick) {
	step := math.Pow(10, math.Floor(math.Log10((high-low)/4)))
	for _, factor := range []float64{5, 2} {
		if (high-low)/(step*factor) >= 4 {
			step *= factor
			break
		}
	}
	for n := math.Ceil(low / step); n*step <= high && len(ticks) < 20; n++ {
		v := math.Round(n) * step
		ticks = append(ticks, plot.Tick{Value: v, Label: scaled(v, max(math.Abs(low), math.Abs(high)))})
	}
	return ticks
}

// scaled renders a value of an axis in the unit that fits the greatest one.
func scaled(v, greatest float64) string {
	if v == 0 {
		return "0"
	}
	for _, u := range []struct {
		size float64
		name string
	}{{1e12, "T"}, {1e9, "G"}, {1e6, "M"}, {1e3, "k"}} {
		if greatest >= u.size && greatest < 1e15 {
			return strconv.FormatFloat(v/u.size, 'g', 5, 64) + u.name
		}
	}
	return strconv.FormatFloat(v, 'g', 6, 64)
}

// styles are the attributes by which the library sets colours and fonts.
var styles = regexp.MustCompile(`\s+style="([^"]*)"`)

// inline makes a drawing part of a page: no style is written into it, which the page's policy
// forbids, but classes, and its size is that of its place.
func inline(svg string, width, height float64) template.HTML {
	_, svg, _ = strings.Cut(svg, "<g ")
	body, _, _ := strings.Cut(svg, "</svg>")
	body = styles.ReplaceAllStringFunc(body, func(attribute string) string {
		return ` class="` + classOf(styles.FindStringSubmatch(attribute)[1]) + `"`
	})
	return template.HTML(fmt.Sprintf(`<svg viewBox="0 0 %g %g" aria-hidden="true" focusable="false"><g %s</svg>`, width, height, body))
}

// classOf is the class that stands for a style.
func classOf(style string) string {
	var red, green, blue uint8
	fill := strings.Contains(style, "fill:#")
	if i := strings.IndexByte(style, '#'); i >= 0 {
		if _, err := fmt.Sscanf(style[i:], "#%02x%02x%02x", &red, &green, &blue); err != nil {
			return "axis"
		}
	}
	switch {
	case strings.Contains(style, "font-family"):
		return "tick"
	case green == 1 && fill:
		return fmt.Sprintf("dot s%d", blue)
	case green == 1:
		return fmt.Sprintf("line s%d", blue)
	case red == 2:
		return "grid"
	}
	return "axis"
}
