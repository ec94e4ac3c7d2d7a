package main

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// chart is a plot of lines with a logarithmic scale on both axes.
type chart struct {
	title, x, y string
	series      []series
}

type series struct {
	name   string
	points [][2]float64
}

// add appends a point to every series.
func (c *chart) add(x float64, y ...float64) {
	for i := range c.series {
		c.series[i].points = append(c.series[i].points, [2]float64{x, y[i]})
	}
}

const (
	width, height            = 720, 400
	left, right, top, bottom = 80, 20, 70, 50
)

var colours = []string{"#767676", "#c05000", "#0058a8"} // can be told apart in print, and with colour blindness

// svg draws the chart, on a white background so that it is readable on any page.
func (c *chart) svg() string {
	x, y := c.axis(0), c.axis(1)
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12" role="img">`+"\n", width, height)
	fmt.Fprintf(&b, "<title>%s</title>\n", html.EscapeString(c.title))
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="white"/>`+"\n", width, height)
	fmt.Fprintf(&b, `<text x="%d" y="24" font-size="15">%s</text>`+"\n", left, html.EscapeString(c.title))
	for _, p := range c.series[0].points {
		v, at := p[0], x.at(p[0], left, width-right)
		fmt.Fprintf(&b, `<path d="M%.1f %dV%d" stroke="#ddd"/><text x="%.1f" y="%d" text-anchor="middle">%s</text>`+"\n", at, top, height-bottom, at, height-bottom+18, short(v))
	}
	for _, v := range y.decades() {
		at := y.at(v, height-bottom, top)
		fmt.Fprintf(&b, `<path d="M%d %.1fH%d" stroke="#ddd"/><text x="%d" y="%.1f" text-anchor="end">%s</text>`+"\n", left, at, width-right, left-8, at+4, short(v))
	}
	fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="middle">%s</text>`+"\n", (left+width-right)/2, height-10, html.EscapeString(c.x))
	fmt.Fprintf(&b, `<text x="16" y="%d" text-anchor="middle" transform="rotate(-90 16 %d)">%s</text>`+"\n", (top+height-bottom)/2, (top+height-bottom)/2, html.EscapeString(c.y))
	legend := left
	for i, s := range c.series {
		colour := colours[i%len(colours)]
		var path strings.Builder
		for j, p := range s.points {
			px, py := x.at(p[0], left, width-right), y.at(p[1], height-bottom, top)
			fmt.Fprintf(&path, "%c%.1f %.1f", "ML"[min(j, 1)], px, py)
			fmt.Fprintf(&b, `<circle cx="%.1f" cy="%.1f" r="3" fill="%s"/>`+"\n", px, py, colour)
		}
		fmt.Fprintf(&b, `<path d="%s" fill="none" stroke="%s" stroke-width="2"/>`+"\n", path.String(), colour)
		fmt.Fprintf(&b, `<path d="M%d 46h24" stroke="%s" stroke-width="2"/><text x="%d" y="50">%s</text>`+"\n", legend, colour, legend+30, html.EscapeString(s.name))
		legend += 60 + 7*len(s.name)
	}
	b.WriteString("</svg>\n")
	return b.String()
}

// axis is a logarithmic scale.
type axis struct{ low, high float64 }

// axis returns a scale that covers coordinate i of every point.
func (c *chart) axis(i int) axis {
	a := axis{math.Inf(1), math.Inf(-1)}
	for _, s := range c.series {
		for _, p := range s.points {
			a.low, a.high = min(a.low, p[i]), max(a.high, p[i])
		}
	}
	if i == 1 { // whole decades
		a.low, a.high = math.Pow(10, math.Floor(math.Log10(a.low))), math.Pow(10, math.Ceil(math.Log10(a.high)))
	}
	return a
}

// at returns the position of v between from and to.
func (a axis) at(v float64, from, to int) float64 {
	if a.low >= a.high { // a single point
		return float64(from)
	}
	share := math.Log(v/a.low) / math.Log(a.high/a.low)
	return float64(from) + share*float64(to-from)
}

// decades returns the powers of ten within the scale.
func (a axis) decades() []float64 {
	var ticks []float64
	for v := a.low; v <= a.high*1.001; v *= 10 {
		ticks = append(ticks, v)
	}
	return ticks
}

// short formats a round number in a few characters.
func short(v float64) string {
	switch {
	case v >= 1<<20 && math.Mod(v, 1<<20) == 0:
		return fmt.Sprintf("%g Mi", v/(1<<20))
	case v >= 1<<10 && math.Mod(v, 1<<10) == 0:
		return fmt.Sprintf("%g Ki", v/(1<<10))
	case v >= 1e6:
		return fmt.Sprintf("%g M", v/1e6)
	case v >= 1e3:
		return fmt.Sprintf("%g k", v/1e3)
	default:
		return fmt.Sprintf("%g", v)
	}
}
