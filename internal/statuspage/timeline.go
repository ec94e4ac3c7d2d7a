package statuspage

import (
	"fmt"
	"strings"
	"time"
)

// timeline is the drawing of the recent events: a lane for each endpoint with bars where it was
// active, marks for the events above, and an axis below. Horizontal positions are percentages,
// so that the drawing fits every screen while its texts keep their size.
type timeline struct {
	Window string // the time that it covers, in words
	Text   string // what it shows, in words
	Height int
	Lanes  []lane
	Bars   []bar
	Marks  []mark
	Ticks  []tick
	Axis   int // where the axis is
	Labels int // where the base line of the axis labels is
	Legend []Glyph
}

type lane struct {
	Name string
	Y    int // of the lane
	Text int // base line of its name
}

type bar struct {
	X, Width string
	Y        int
	Down     bool
	Pinned   bool
	Text     string
}

type mark struct {
	X     string
	Y     int
	Glyph Glyph
	Text  string
}

type tick struct {
	X, Label string // no Label if it would overlap the one for now
}

// Glyph is the shape of an event's mark, centered on the origin. Shapes differ, so that nothing
// depends on seeing colors.
type Glyph struct {
	Name, Level, Path string
}

// glyphs are the shapes by kind of event; a switch has one for each direction.
var glyphs = map[string]Glyph{
	"tripped":               {"tripped", LevelBad, "M0-6 6 5H-6Z"},
	"switched to alternate": {"switched to the alternate", "move", "M-2-6H2V0H6L0 6-6 0H-2Z"},
	"switched to primary":   {"switched to the primary", "move", "M-2 6H2V0H6L0-6-6 0H-2Z"},
	"switch refused":        {"switch refused", LevelWarn, "M-6-2H6V2H-6Z"},
	"down":                  {"down", LevelBad, "M-6-3-3-6 0-3 3-6 6-3 3 0 6 3 3 6 0 3-3 6-6 3-3 0Z"},
	"up":                    {"up", LevelOK, "M0-5A5 5 0 0 1 0 5 5 5 0 0 1 0-5Z"},
	"outcome unknown":       {"outcome unknown", LevelWarn, "M0-6 6 0 0 6-6 0ZM0-3-3 0 0 3 3 0Z"},
	"pinned":                {"pinned", LevelWarn, "M-5-6H5V-2H2V6H-2V-2H-5Z"},
	"unpinned":              {"unpinned", LevelOK, "M-5 6H5V2H2V-6H-2V2H-5Z"},
	"latched":               {"latched", LevelBad, "M-5-5H5V5H-5ZM-2-2V2H2V-2Z"},
	"tokens suspect":        {"tokens suspect", LevelWarn, "M-5-4H5V-1H-5ZM-5 1H5V4H-5Z"},
	"fleet lost":            {"fleet lost", LevelWarn, "M-5-3-3-5 5 3 3 5Z"},
	"loss grown":            {"loss grown", LevelWarn, "M-5-2H-2V-5H2V-2H5V2H2V5H-2V2H-5Z"},
	"renewed":               {"renewed connections", LevelWarn, "M-5 0A5 5 0 1 1 0 5V2A2 2 0 1 0-2 0Z"},
	"fleet found":           {"fleet found", LevelOK, "M3-5 5-3-3 5-5 3Z"},
}

// glyphOf returns the shape of an event, a plain one if its kind has none.
func glyphOf(kind, to string) Glyph {
	key := kind
	if kind == "switched" {
		key += " to " + to
	}
	if g, ok := glyphs[key]; ok {
		return g
	}
	return Glyph{kind, LevelWarn, "M-3-3H3V3H-3Z"}
}

// HasGlyph reports whether events of a kind have a shape of their own.
func HasGlyph(kind string) bool {
	_, ok := glyphs[kind]
	return ok || kind == "switched"
}

// period is a time during which one endpoint was active.
type period struct {
	from, to     time.Time
	active       string
	down, pinned bool
}

// words describes a period at a time.
func (s *period) words(now time.Time) string {
	text := s.active
	if s.down {
		text += ", down"
	}
	if s.pinned {
		text += ", pinned"
	}
	text += " from " + clock(s.from, now, "15:04:05")
	if s.to.Equal(now) {
		return text
	}
	return text + " to " + clock(s.to, now, "15:04:05")
}

// periods reconstructs from the events on record which endpoint was active, from begin until
// now.
func (r *Report) periods(begin time.Time) []period {
	cur := period{from: begin, active: r.Active,
		down:   r.wasOn("down", "up", r.Down),
		pinned: r.wasOn("pinned", "unpinned", r.Pinned)}
	for i := range r.Events {
		if r.Events[i].Kind == "switched" {
			cur.active = r.Events[i].From
			break
		}
	}
	var all []period
	for i := range r.Events {
		e, next := &r.Events[i], cur
		switch e.Kind {
		case "switched":
			next.active, next.down = e.To, false
		case "down":
			next.down = true
		case "up":
			next.down = false
		case "pinned":
			next.pinned, next.down = true, false
		case "unpinned":
			next.pinned = false
		}
		if next != cur {
			cur.to, next.from = e.Time, e.Time
			all, cur = append(all, cur), next
		}
	}
	cur.to = r.Time
	return append(all, cur)
}

// wasOn reports whether a state was on before the first event, judging by the first event that
// turned it on or off, or else by whether it is on now.
func (r *Report) wasOn(on, off string, now bool) bool {
	for i := range r.Events {
		switch r.Events[i].Kind {
		case on:
			return false
		case off:
			return true
		}
	}
	return now
}

// windows are the lengths of a timeline, with the intervals of its ticks.
var windows = []struct{ length, tick time.Duration }{
	{5 * time.Minute, time.Minute},
	{15 * time.Minute, 5 * time.Minute},
	{30 * time.Minute, 10 * time.Minute},
	{time.Hour, 15 * time.Minute},
	{3 * time.Hour, time.Hour},
	{6 * time.Hour, 2 * time.Hour},
	{12 * time.Hour, 3 * time.Hour},
	{24 * time.Hour, 6 * time.Hour},
}

// Measures of the drawing, in pixels.
const (
	markHeight = 16 // of a row of marks
	laneText   = 16 // of the name above a lane
	laneHeight = 20
	laneGap    = 8
	// markWidth is the minimum distance of marks in a row, in percent.
	markWidth = 4.5
	maxRows   = 5
)

// newTimeline draws the last hours of a report.
func newTimeline(r *Report) *timeline {
	now, begin := r.Time, r.Started
	if r.RecordFull && len(r.Events) > 0 {
		begin = r.Events[0].Time // what happened before is unknown
	}
	events := r.Events
	longest := windows[len(windows)-1].length
	for len(events) > 0 && now.Sub(events[0].Time) > longest {
		events = events[1:]
	}
	oldest := begin
	if len(events) > 0 {
		oldest = events[0].Time
	}
	window := windows[len(windows)-1]
	for _, w := range windows {
		if now.Sub(oldest) < w.length*9/10 {
			window = w
			break
		}
	}
	from := now.Add(-window.length)
	place := func(t time.Time) float64 { return 100 * float64(t.Sub(from)) / float64(window.length) }

	tl := &timeline{Window: inWindow(window.length)}
	y := tl.addMarks(events, now, place)
	lanes := []string{"primary", "alternate"}
	if r.Alternate == nil {
		lanes = lanes[:1]
	}
	for _, name := range lanes {
		tl.Lanes = append(tl.Lanes, lane{Name: name, Text: y + laneText - 4, Y: y + laneText})
		y += laneText + laneHeight + laneGap
	}
	tl.addBars(r.periods(begin), from, now, place)
	tl.addTicks(from, now, window.tick, place)
	tl.Axis, tl.Labels, tl.Height = y, y+14, y+20
	return tl
}

// inWindow returns the length of a window in words.
func inWindow(d time.Duration) string {
	if d < time.Hour {
		return fmt.Sprintf("%d minutes", int(d.Minutes()))
	}
	if d == time.Hour {
		return "hour"
	}
	return fmt.Sprintf("%d hours", int(d.Hours()))
}

// addMarks places the marks in as few rows as keep them apart, and returns where
// the rows end.
func (tl *timeline) addMarks(events []Event, now time.Time, place func(time.Time) float64) (y int) {
	var ends []float64 // of the rows
	known := make(map[string]bool)
	for i := range events {
		e := &events[i]
		x, row := place(e.Time), 0
		for row < len(ends) && x-ends[row] < markWidth {
			row++
		}
		if row == maxRows { // the marks overlap
			row = i % maxRows
		}
		if row == len(ends) {
			ends = append(ends, x)
		}
		ends[row] = x
		g := e.Mark()
		tl.Marks = append(tl.Marks, mark{X: percent(x), Y: row*markHeight + markHeight/2, Glyph: g,
			Text: clock(e.Time, now, "15:04:05") + " UTC: " + g.Name})
		if !known[g.Name] {
			known[g.Name] = true
			tl.Legend = append(tl.Legend, g)
		}
	}
	return len(ends) * markHeight
}

// addBars draws the periods and puts them into words.
func (tl *timeline) addBars(all []period, from, now time.Time, place func(time.Time) float64) {
	var words []string
	for _, s := range all {
		if s.to.Before(from) {
			continue
		}
		words = append(words, s.words(now))
		x, lane := max(0, place(s.from)), tl.Lanes[0]
		if s.active == "alternate" && len(tl.Lanes) > 1 {
			lane = tl.Lanes[1]
		}
		tl.Bars = append(tl.Bars, bar{
			X: percent(x), Width: percent(max(0.2, place(s.to)-x)), Y: lane.Y,
			Down: s.down, Pinned: s.pinned, Text: s.words(now),
		})
	}
	tl.Text = "Active endpoint, times in UTC: " + strings.Join(words, "; ") + "."
}

// addTicks draws the axis.
func (tl *timeline) addTicks(from, now time.Time, step time.Duration, place func(time.Time) float64) {
	for t := from.UTC().Truncate(step).Add(step); t.Before(now); t = t.Add(step) {
		x := place(t)
		label := t.Format("15:04")
		if t.Hour() == 0 && t.Minute() == 0 {
			label = t.Format("2 Jan")
		}
		if x < 6 || x > 82 {
			label = ""
		}
		tl.Ticks = append(tl.Ticks, tick{percent(x), label})
	}
}

func percent(x float64) string { return fmt.Sprintf("%.2f%%", x) }
