package drill

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/d365failover/failover/cmd/failover/internal/console"
)

// live prints what happens during the watch, and collects samples and events. It is safe for
// concurrent use.
type live struct {
	out    io.Writer
	always time.Duration // the longest time between two rows
	quiet  time.Duration // the time without a result after which a row says "waiting"
	now    func() time.Time

	mu      sync.Mutex // guards what follows, and serializes output
	events  []Event
	samples []Sample
	series  map[Series]*seen
	beat    *Beat // the newest that has ended
	name    []string
	row     string    // the last one, without its time
	rowAt   time.Time // when it was printed
	ended   bool
}

// seen is what a series has shown so far.
type seen struct {
	state   State
	cause   string
	took    float64
	noted   time.Time // when that was
	last    time.Time // when the last good answer arrived
	stopped time.Time // when the present outage began, zero if there is none
	address string    // that served last
}

func newLive(out io.Writer, interval, always time.Duration) *live {
	return &live{out: out, always: always, quiet: 2 * interval, now: time.Now, series: map[Series]*seen{New: {}, Kept: {}, Writes: {}, Second: {}}}
}

// begin prints the heading.
func (l *live) begin(beats bool) {
	heading := fmt.Sprintf("%-10s%-25s%-25s", "UTC", New, Kept)
	if beats {
		heading += "heartbeat"
	}
	fmt.Fprintln(l.out, strings.TrimRight(heading, " "))
}

// note records a sample.
func (l *live) note(s Sample) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return
	}
	s.Begun = s.Begun.UTC()
	l.samples = append(l.samples, s)
	if s.Series == New && len(s.Name) > 0 {
		if l.name != nil && !slices.Equal(l.name, s.Name) {
			l.event(s.Begun, "name", "The name now leads to "+strings.Join(s.Name, ", ")+" instead of "+strings.Join(l.name, ", "))
		}
		l.name = s.Name
	}
	l.see(s)
}

// noteBeat records a heartbeat.
func (l *live) noteBeat(b Beat) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return
	}
	if l.beat == nil || l.beat.Number < b.Number {
		l.beat = &b
	}
	s := Sample{Series: Writes, Begun: b.Begun, Took: b.Ended.Sub(b.Begun).Seconds(), State: Failed, Cause: string(b.Answer) + ": " + b.Cause}
	switch b.Answer {
	case Written:
		s.State = Served
	case NoToken:
		s.State = Unclear
	}
	l.see(s)
}

// see updates a series and reports changes. The caller holds l.mu.
func (l *live) see(s Sample) {
	before := l.series[s.Series]
	if s.State != Served && s.Begun.Before(before.last) {
		return // it started before the last good answer
	}
	was := *before
	if s.Series == Second {
		l.seeSecond(before, s)
		return
	}
	before.state, before.cause, before.took, before.noted = s.State, s.Cause, s.Took, l.now()
	title := strings.ToUpper(string(s.Series[:1])) + string(s.Series[1:])
	switch s.State {
	case Served:
		before.last = s.ended()
		before.cause = ""
		moved := was.address != "" && s.Address != "" && s.Address != was.address
		if s.Address != "" {
			before.address = s.Address
		}
		switch {
		case !was.stopped.IsZero():
			text := fmt.Sprintf("%s served again after %s", title, console.Duration(before.last.Sub(was.stopped)))
			if moved {
				text += ", from " + s.Address + " instead of " + was.address
			}
			l.event(before.last, "served", text)
			before.stopped = time.Time{}
		case moved:
			l.event(before.last, "place", fmt.Sprintf("%s served from %s instead of %s", title, s.Address, was.address))
		}
		if s.Series == Kept && !s.Reused && !was.last.IsZero() {
			l.event(before.last, "connection", "The kept connection was replaced by a new one")
		}
	case Failed:
		switch {
		case was.stopped.IsZero():
			before.stopped = s.Begun
			l.event(s.Begun, "stopped", title+" stopped: "+s.Cause)
		case s.Cause != was.cause && was.cause != "":
			l.event(s.Begun, "changed", title+" now: "+s.Cause)
		}
	}
}

// seeSecond is see for the alternate address, which does not serve in normal times. The caller
// holds l.mu.
func (l *live) seeSecond(before *seen, s Sample) {
	switch {
	case s.State == Served && before.state != Served:
		l.event(s.ended(), "served", "The alternate address serves")
	case s.State == Failed && before.state == Served:
		l.event(s.Begun, "changed", "The alternate address no longer serves: "+s.Cause)
	}
	if before.state = s.State; s.State == Served {
		before.last = s.ended()
	}
}

// alternate reports whether the alternate address serves and the primary does not.
func (l *live) alternate() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.series[Second].state == Served && l.series[New].state == Failed
}

// servedSince reports whether a new connection was served after a time.
func (l *live) servedSince(t time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.series[New].last.After(t)
}

// say reports another event.
func (l *live) say(kind, text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.event(l.now(), kind, text)
}

// event records and prints an event. The caller holds l.mu.
func (l *live) event(at time.Time, kind, text string) {
	e := Event{Time: at.UTC(), Kind: kind, Text: text}
	l.events = append(l.events, e)
	fmt.Fprintln(l.out, console.Cell(e.Time.Format(time.TimeOnly)+"  ▶ ", text, console.Width))
}

// tick prints a row if it has changed or is due.
func (l *live) tick() {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	waiting := func(s *seen) bool { return !s.noted.IsZero() && now.Sub(s.noted) > l.quiet }
	cell := func(s *seen) string {
		if waiting(s) {
			return "… waiting for " + console.Duration(now.Sub(s.noted).Round(time.Second))
		}
		switch s.state {
		case Served:
			return "ok " + console.Duration(seconds(s.took))
		case Failed:
			return "✗ " + s.cause
		case Unclear:
			return "? " + s.cause
		}
		return ""
	}
	states := fmt.Sprint(l.series[New].state, l.series[New].cause, waiting(l.series[New]), l.series[Kept].state, l.series[Kept].cause, waiting(l.series[Kept]))
	if l.series[New].state == "" || states == l.row && now.Sub(l.rowAt) < l.always {
		return
	}
	l.row, l.rowAt = states, now
	row := fmt.Sprintf("%s  %-25s%-25s", now.UTC().Format(time.TimeOnly), cut(cell(l.series[New]), 24), cut(cell(l.series[Kept]), 24))
	switch {
	case waiting(l.series[Writes]):
		row += "… waiting"
	case l.beat != nil:
		row += fmt.Sprintf("#%d %s", l.beat.Number, l.beat.Answer)
	}
	fmt.Fprintln(l.out, strings.TrimRight(row, " "))
}

// cut returns the beginning of a text, on one line.
func cut(s string, width int) string {
	s = console.Clean(strings.ReplaceAll(s, "\n", " "))
	if runes := []rune(s); len(runes) > width {
		return string(runes[:width-1]) + "…"
	}
	return s
}

// end returns all samples and events in the order of time. Later samples are ignored.
func (l *live) end() ([]Sample, []Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
	slices.SortStableFunc(l.events, func(a, b Event) int { return a.Time.Compare(b.Time) })
	slices.SortStableFunc(l.samples, func(a, b Sample) int { return a.Begun.Compare(b.Begun) })
	return l.samples, l.events
}
