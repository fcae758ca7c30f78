// Package chart draws figures over time.
package chart

import (
	"errors"
	"os"
	"path/filepath"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"
)

// Point is a value at a time, in seconds.
type Point struct{ X, Y float64 }

// Line is one of a chart.
type Line struct {
	Name   string
	Points []Point
}

// Chart is some lines with the same unit.
type Chart struct {
	// Name is that of the file, without what comes before and behind.
	Name  string
	Title string
	// Unit is written at the axis.
	Unit  string
	Lines []Line
}

// Empty tells whether there is nothing to draw.
func (c Chart) Empty() bool {
	for _, l := range c.Lines {
		if len(l.Points) > 0 {
			return false
		}
	}
	return true
}

// Save writes the chart as a PNG into a directory, which it makes.
func (c Chart) Save(dir, file string) error {
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = c.Title, "seconds", c.Unit
	p.Y.Min = 0
	p.Legend.Top = true
	p.Add(plotter.NewGrid())
	for i, l := range c.Lines {
		if len(l.Points) == 0 {
			continue
		}
		xys := make(plotter.XYs, len(l.Points))
		for j, at := range l.Points {
			xys[j] = plotter.XY{X: at.X, Y: at.Y}
		}
		line, err := plotter.NewLine(xys)
		if err != nil {
			return err
		}
		line.Color, line.Width = plotutil.Color(i), vg.Points(1.5)
		p.Add(line)
		p.Legend.Add(l.Name, line)
	}
	p.Y.Max *= 1.25 // room for the legend
	return errors.Join(os.MkdirAll(dir, 0o777), p.Save(18*vg.Centimeter, 9*vg.Centimeter, filepath.Join(dir, file)))
}
