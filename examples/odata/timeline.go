package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/d365failover/failover"
)

// timeline prints what happens as it happens: one line for every period with
// the requests each endpoint has answered, and one for every event. It may be
// used by several goroutines at once.
type timeline struct {
	out       io.Writer
	color     bool
	alternate string // host name
	start     time.Time
	stop      chan struct{}
	stopped   chan struct{}

	mu       sync.Mutex // guards what follows, and keeps lines whole
	row      row
	sum      summary
	trouble  time.Time // the last trip
	onAltern time.Time // since when the alternate is active, zero if it is not
}

// row is what has happened since the last line.
type row struct {
	requests [2]int // by endpoint
	failures []error
	probes   [2]string // newest result by endpoint
}

// summary is what has happened in all.
type summary struct {
	requests    [2]int // by endpoint
	failures    int
	switches    []failover.Event
	onAlternate time.Duration
	longest     time.Duration
	longestAt   time.Duration // when it began
}

// newTimeline returns a timeline that prints a line every period until finish.
func newTimeline(out io.Writer, alternateHost string, period time.Duration) *timeline {
	t := &timeline{
		out: out, color: wantsColor(out), alternate: alternateHost, start: time.Now(),
		stop: make(chan struct{}), stopped: make(chan struct{}),
	}
	fmt.Fprintf(out, "\n%s\n", t.paint(bold, fmt.Sprintf("%7s   %-*s%-*s%s", "time", column, "primary", column, "alternate", "probes")))
	go func() {
		defer close(t.stopped)
		ticker := time.NewTicker(period)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				t.printRow()
			case <-t.stop:
				return
			}
		}
	}()
	return t
}

// finish stops the printing and returns the sum of it all.
func (t *timeline) finish() summary {
	close(t.stop)
	<-t.stopped
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.onAltern.IsZero() {
		t.sum.onAlternate += time.Since(t.onAltern)
		t.onAltern = time.Time{}
	}
	return t.sum
}

// call is the Client's OnCall.
func (t *timeline) call(c Call) {
	t.mu.Lock()
	defer t.mu.Unlock()
	endpoint := failover.Primary
	if c.Host == t.alternate {
		endpoint = failover.Alternate
	}
	if c.Host != "" {
		t.row.requests[endpoint]++
		t.sum.requests[endpoint]++
	}
	if c.Took > t.sum.longest {
		t.sum.longest, t.sum.longestAt = c.Took, time.Since(t.start)-c.Took
	}
}

// failed takes note of a job that failed.
func (t *timeline) failed(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sum.failures++
	t.row.failures = append(t.row.failures, err)
}

// say prints a line of the simulation.
func (t *timeline) say(text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.event(magenta, "simulation", text)
}

// onEvent is the Config's OnEvent.
func (t *timeline) onEvent(e failover.Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch e.Kind {
	case failover.EventProbed: // too many for a line each
		result := "✓"
		if e.Err != nil {
			result = "✗ " + brief(e.Err)
		}
		t.row.probes[e.From] = result
	case failover.EventTripped:
		t.trouble = e.Time
		t.event(red, "tripped", fmt.Sprintf("%v: %s", e.From, brief(e.Fault)))
	case failover.EventSwitched:
		t.switched(e)
	default:
		text := e.Reason
		if e.Err != nil {
			text += ": " + brief(e.Err)
		}
		t.event(yellow, e.Kind.String(), text)
	}
}

// switched takes note of a switch. t.mu is held.
func (t *timeline) switched(e failover.Event) {
	t.sum.switches = append(t.sum.switches, e)
	text := fmt.Sprintf("%v → %v", e.From, e.To)
	if !t.trouble.IsZero() {
		text += fmt.Sprintf(", %v after the breaker tripped", round(e.Time.Sub(t.trouble)))
	}
	t.trouble = time.Time{}
	if e.To == failover.Alternate {
		t.onAltern = e.Time
	} else if !t.onAltern.IsZero() {
		t.sum.onAlternate += e.Time.Sub(t.onAltern)
		t.onAltern = time.Time{}
	}
	t.event(green, "switched", text)
}

// event prints the line of an event. t.mu is held.
func (t *timeline) event(color, title, text string) {
	fmt.Fprintf(t.out, "%s   %s %s\n", t.clock(), t.paint(color, fmt.Sprintf("▶ %-10s", title)), text)
}

// column is the width of an endpoint's column.
const column = 24

// printRow prints the line of a period.
func (t *timeline) printRow() {
	t.mu.Lock()
	defer t.mu.Unlock()
	var probes []string
	for _, e := range []failover.Endpoint{failover.Primary, failover.Alternate} {
		if result := t.row.probes[e]; result != "" {
			probes = append(probes, e.String()+" "+result)
		}
	}
	line := t.clock() + "   " +
		t.bar(cyan, t.row.requests[failover.Primary]) +
		t.bar(yellow, t.row.requests[failover.Alternate]) +
		t.paint(dim, strings.Join(probes, ", "))
	fmt.Fprintln(t.out, strings.TrimRight(line, " "))
	if n := len(t.row.failures); n > 0 {
		t.event(red, "failed", fmt.Sprintf("%d, the first one: %v", n, t.row.failures[0]))
	}
	t.row = row{}
}

// bar returns n as a bar with its number.
func (t *timeline) bar(color string, n int) string {
	if n == 0 {
		return strings.Repeat(" ", column)
	}
	blocks := strings.Repeat("█", min(n, column-6))
	number := " " + strconv.Itoa(n)
	pad := max(0, column-utf8.RuneCountInString(blocks)-len(number))
	return t.paint(color, blocks) + number + strings.Repeat(" ", pad)
}

// clock returns the time since the start.
func (t *timeline) clock() string { return fmt.Sprintf("%6.1fs", time.Since(t.start).Seconds()) }

// brief returns the heart of an error: a service's code, a status, or the
// error at the bottom of a network error.
func brief(err error) string {
	if f := (*failover.Fault)(nil); errors.As(err, &f) {
		switch {
		case f.Code == "0x8004B065":
			return "fenced (0x8004B065)"
		case f.Code != "":
			return f.Code
		case f.Status != 0:
			return "status " + strconv.Itoa(f.Status)
		case f.Err == nil:
			return f.Class.String()
		}
		err = f.Err
	}
	for next := errors.Unwrap(err); next != nil; next = errors.Unwrap(err) {
		err = next
	}
	first, _, _ := strings.Cut(err.Error(), "\n")
	return cmp.Or(first, "unknown error")
}

// round makes a duration readable.
func round(d time.Duration) time.Duration {
	if d < time.Second {
		return d.Round(time.Millisecond)
	}
	return d.Round(100 * time.Millisecond)
}

// print prints the summary.
func (s summary) print(out io.Writer) {
	fmt.Fprintf(out, "\nSummary\n")
	primary, alternate := s.requests[failover.Primary], s.requests[failover.Alternate]
	item(out, "requests", primary+alternate, fmt.Sprintf("%d answered by the primary, %d by the alternate", primary, alternate))
	item(out, "failures", s.failures, "seen by the callers")
	item(out, "switches", len(s.switches), "")
	item(out, "on the alternate", round(s.onAlternate), "")
	item(out, "longest call", round(s.longest), fmt.Sprintf("begun at %.1fs", s.longestAt.Seconds()))
}

// item prints a line of a summary.
func item(out io.Writer, title string, value any, note string) {
	line := fmt.Sprintf("  %-18s%7v   %s", title, value, note)
	fmt.Fprintln(out, strings.TrimRight(line, " "))
}

// Colors of a terminal (ECMA-48, SGR).
const (
	bold    = "1"
	dim     = "2"
	red     = "31"
	green   = "32"
	yellow  = "33"
	magenta = "35"
	cyan    = "36"
)

func (t *timeline) paint(color, text string) string {
	if !t.color || text == "" {
		return text
	}
	return "\x1b[" + color + "m" + text + "\x1b[0m"
}

// wantsColor reports whether out is a terminal whose user has nothing against
// colors (https://no-color.org).
func wantsColor(out io.Writer) bool {
	file, ok := out.(*os.File)
	if !ok || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return false
	}
	if runtime.GOOS == "windows" && os.Getenv("WT_SESSION") == "" {
		return false // older consoles print the codes
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
