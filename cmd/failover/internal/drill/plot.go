package drill

import (
	"fmt"
	"html"
	"html/template"
	"strings"
	"time"

	"github.com/d365failover/failover/cmd/failover/internal/console"
)

// The plot, in units of its own. It is as wide as the page.
const (
	plotWidth = 1000
	plotLeft  = 128 // for the labels of the lanes
	plotRight = 12
	laneTall  = 26
	laneGap   = 12
	plotBins  = 430 // maximum number of columns
)

// plot draws the samples over time, in one lane for each series.
type plot struct {
	*Record
	svg strings.Builder
	y   float64 // of the next lane
}

// draw returns the plot as a self-contained SVG element.
func (p *plot) draw() template.HTML {
	p.y = 26
	p.outages()
	p.lane(string(New), p.of(New))
	if p.Alternate != "" {
		p.lane(string(Second), p.of(Second))
	}
	p.lane(string(Kept), p.of(Kept))
	if p.Heartbeat != nil {
		p.lane("writes", p.beats())
	}
	p.addresses()
	p.latency()
	p.stages()
	p.axis()
	return template.HTML(fmt.Sprintf(`<svg viewBox="0 0 %d %.0f" role="img" aria-label="Samples over time">%s</svg>`,
		plotWidth, p.y+4, p.svg.String()))
}

func (p *plot) x(t time.Time) float64 {
	length := p.Ended.Sub(p.Started).Seconds()
	at := min(max(t.Sub(p.Started).Seconds(), 0), length)
	return plotLeft + at/max(length, 1e-9)*(plotWidth-plotLeft-plotRight)
}

func (p *plot) rect(class string, from, to, y, tall float64, title string) {
	fmt.Fprintf(&p.svg, `<rect class="%s" x="%.1f" y="%.1f" width="%.1f" height="%.1f">`, class, from, y, max(to-from, 1), tall)
	if title != "" {
		fmt.Fprintf(&p.svg, "<title>%s</title>", html.EscapeString(title))
	}
	p.svg.WriteString("</rect>")
}

func (p *plot) text(class string, x, y float64, s string) {
	fmt.Fprintf(&p.svg, `<text class="%s" x="%.1f" y="%.1f">%s</text>`, class, x, y, html.EscapeString(s))
}

// mark is one sample in a lane.
type mark struct {
	time  time.Time
	class string // "ok", "bad", "lost", "doubt" or "none"
	title string
}

func (p *plot) of(series Series) []mark {
	var marks []mark
	for _, s := range p.Samples {
		if s.Series != series {
			continue
		}
		m := mark{time: s.Begun, class: "ok", title: fmt.Sprintf("%s UTC: served in %.0f ms", s.Begun.Format(time.TimeOnly), s.Took*1000)}
		switch {
		case s.State == Failed && series == Second: // it does not serve in normal times
			m.class, m.title = "none", s.Begun.Format(time.TimeOnly)+" UTC: "+s.Cause
		case s.State == Failed:
			m.class, m.title = "bad", s.Begun.Format(time.TimeOnly)+" UTC: "+s.Cause
		case s.State == Unclear:
			m.class, m.title = "none", s.Begun.Format(time.TimeOnly)+" UTC: "+s.Cause
		}
		marks = append(marks, m)
	}
	return marks
}

func (p *plot) beats() []mark {
	var marks []mark
	for _, b := range p.Heartbeat.Beats {
		m := mark{time: b.Begun, class: "ok", title: fmt.Sprintf("%s UTC: #%d %s, %s", b.Begun.Format(time.TimeOnly), b.Number, b.Answer, b.Found)}
		switch {
		case b.lost():
			m.class = "lost"
		case b.Answer == InDoubt:
			m.class = "doubt"
		case b.Answer == Refused:
			m.class = "bad"
		case b.Answer == NoToken:
			m.class = "none"
		}
		marks = append(marks, m)
	}
	return marks
}

// lane draws marks side by side. If there are more marks than columns, the classes of the marks
// in a column share it in proportion.
func (p *plot) lane(label string, marks []mark) {
	p.text("label", plotLeft-10, p.y+laneTall*0.68, label)
	p.rect("ground", plotLeft, plotWidth-plotRight, p.y, laneTall, "")
	width := max(p.interval(), p.Ended.Sub(p.Started)/plotBins)
	var bin []mark
	flush := func() {
		if len(bin) == 0 {
			return
		}
		from := p.Started.Add(bin[0].time.Sub(p.Started) / width * width)
		if len(bin) == 1 {
			from = bin[0].time
		}
		x, to := p.x(from), p.x(from.Add(width))
		if to-x > 4 {
			to -= 0.8 // samples side by side
		}
		y := p.y + laneTall
		for _, class := range []string{"lost", "bad", "doubt", "none"} {
			if n, title := among(bin, class); n > 0 {
				// One failure among many samples stays visible.
				tall := min(max(laneTall*float64(n)/float64(len(bin)), laneTall/4), y-p.y)
				y -= tall
				p.rect(class, x, to, y, tall, title)
			}
		}
		if n, title := among(bin, "ok"); n > 0 && y > p.y {
			p.rect("ok", x, to, p.y, y-p.y, title)
		}
		bin = nil
	}
	for _, m := range marks {
		if len(bin) > 0 && (len(marks) <= plotBins || m.time.Sub(p.Started)/width != bin[0].time.Sub(p.Started)/width) {
			flush()
		}
		bin = append(bin, m)
	}
	flush()
	p.y += laneTall + laneGap
}

// among returns how many marks are of a class, and the title of the first.
func among(marks []mark, class string) (n int, title string) {
	for _, m := range marks {
		if m.class == class {
			if n++; title == "" {
				title = m.title
			}
		}
	}
	return n, title
}

func (p *plot) interval() time.Duration { return seconds(max(p.Interval, 0.001)) }

// outages draws a bracket over each outage of new connections.
func (p *plot) outages() {
	for _, o := range p.Outages {
		if o.Series != p.judged() {
			continue
		}
		end := o.Recovered
		text := console.Duration(seconds(o.Duration))
		if !o.over() {
			end, text = p.Ended, "not over"
		}
		from, to := p.x(o.Stopped), p.x(end)
		fmt.Fprintf(&p.svg, `<path class="bracket" d="M%.1f %.1fv-6H%.1fv6"/>`, from, p.y-4, to)
		p.text("over", (from+to)/2, p.y-14, text)
	}
}

// addresses draws where the connections led.
func (p *plot) addresses() {
	type stretch struct {
		from, to time.Time
		address  string
	}
	var list []stretch
	for _, s := range p.Samples {
		if s.Series != New || s.State != Served || s.Address == "" {
			continue
		}
		if n := len(list); n > 0 && list[n-1].address == s.Address {
			list[n-1].to = s.ended().Add(p.interval())
			continue
		}
		list = append(list, stretch{s.Begun, s.ended().Add(p.interval()), s.Address})
	}
	if len(list) == 0 || len(list) > 40 {
		return
	}
	p.text("label", plotLeft-10, p.y+laneTall*0.68, "served from")
	seen := make(map[string]int)
	for _, s := range list {
		if _, ok := seen[s.address]; !ok {
			seen[s.address] = len(seen)
		}
		from, to := p.x(s.from), p.x(s.to)
		p.rect(fmt.Sprintf("place p%d", seen[s.address]%3), from, to, p.y, laneTall, s.address)
		if to-from > float64(7*len(s.address)) {
			p.text("inside", from+6, p.y+laneTall*0.66, s.address)
		}
	}
	p.y += laneTall + laneGap
}

// latency draws how long good answers over new connections took.
func (p *plot) latency() {
	const tall = 2 * laneTall
	most := 0.0
	for _, s := range p.Samples {
		if s.Series == New && s.State == Served {
			most = max(most, s.Took)
		}
	}
	if most == 0 {
		return
	}
	p.text("label", plotLeft-10, p.y+tall*0.55, "time to answer")
	p.rect("ground", plotLeft, plotWidth-plotRight, p.y, tall, "")
	var d strings.Builder
	move := true
	for _, s := range p.Samples {
		if s.Series != New {
			continue
		}
		if s.State != Served {
			move = true
			continue
		}
		command := "L"
		if move {
			command = "M"
		}
		move = false
		fmt.Fprintf(&d, "%s%.1f %.1f", command, p.x(s.Begun), p.y+tall-2-(tall-18)*s.Took/most)
	}
	fmt.Fprintf(&p.svg, `<path class="line" d="%s"/>`, d.String())
	p.text("scale", plotLeft+4, p.y+11, fmt.Sprintf("%.0f ms", most*1000))
	p.y += tall + laneGap
}

// stages draws the operations of the administration API and their stages.
func (p *plot) stages() {
	for _, o := range p.Operations {
		type bar struct {
			name, status string
			start, end   *time.Time
		}
		bars := []bar{{o.Name, o.Status, o.StartTime, o.EndTime}}
		for _, s := range o.Stages {
			bars = append(bars, bar{s.Name, s.Status, s.StartTime, s.EndTime})
		}
		for i, b := range bars {
			if b.start == nil || b.start.After(p.Ended) {
				continue
			}
			end := p.Ended
			if b.end != nil {
				end = *b.end
			}
			class := "stage"
			if i == 0 {
				class = "operation"
			}
			p.text("label", plotLeft-10, p.y+12, cut(b.name, 17))
			p.rect(class, p.x(*b.start), p.x(end), p.y, 16, fmt.Sprintf("%s: %s", b.name, b.status))
			p.y += 20
		}
		p.y += laneGap
	}
}

// steps are the distances that ticks may have.
var steps = []time.Duration{time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second, 30 * time.Second, time.Minute,
	2 * time.Minute, 5 * time.Minute, 10 * time.Minute, 30 * time.Minute, time.Hour, 2 * time.Hour, 6 * time.Hour}

// axis draws the time, with at most a dozen ticks.
func (p *plot) axis() {
	step := 24 * time.Hour
	for _, s := range steps {
		if p.Ended.Sub(p.Started) <= 10*s {
			step = s
			break
		}
	}
	layout := time.TimeOnly
	if step >= time.Minute {
		layout = "15:04"
	}
	fmt.Fprintf(&p.svg, `<path class="axis" d="M%d %.1fH%d"/>`, plotLeft, p.y, plotWidth-plotRight)
	for t := p.Started.Truncate(step).Add(step); t.Before(p.Ended); t = t.Add(step) {
		fmt.Fprintf(&p.svg, `<path class="axis" d="M%.1f %.1fv5"/>`, p.x(t), p.y)
		p.text("tick", p.x(t), p.y+18, t.Format(layout))
	}
	p.text("label", plotLeft-10, p.y+18, "UTC")
	p.y += 22
}
