// Package timeline shows on a terminal what happens in the demonstrations: which endpoint answers
// how many requests, what the failover library sees and does, and the simulated outages.
package timeline

import (
	"cmp"
	"context"
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

// A Timeline prints what happens: one line for every period, with the number of requests that each
// endpoint has answered, and one for every event. It is safe for concurrent use. Create it with
// [New].
type Timeline struct {
	out       io.Writer
	color     bool
	alternate string // host name

	start   time.Time
	stop    chan struct{}
	printer sync.WaitGroup

	mu      sync.Mutex // guards what follows, and serializes output
	row     row
	sum     Summary
	trouble time.Time // when a breaker last tripped, zero after a switch
	away    time.Time // since when the alternate has been active, zero if it is not
	ended   bool
}

// row is what has happened since the last line.
type row struct {
	requests [2]int // by endpoint
	failures int
	failure  error     // the first one
	probes   [2]*probe // newest by endpoint, nil if there was none
}

// A Summary sums up a Timeline.
type Summary struct {
	// Failures is how many jobs failed.
	Failures int

	requests    [2]int // by endpoint
	switches    int
	atRisk      int // writes, in the loss reports
	onAlternate time.Duration
	longest     string // the name of the longest call
	longestTook time.Duration
	longestAt   time.Duration // when it began
	oneAddress  bool
}

// New returns a Timeline of an organization. It uses color if out is a terminal.
func New(out io.Writer, org failover.Org) *Timeline {
	t := &Timeline{out: out, color: wantsColor(out)}
	if org.Alternate != nil { // an organization can have one address
		t.alternate = org.Alternate.Hostname()
	}
	return t
}

// Begin prints the heading, and a line every period until [Timeline.End].
func (t *Timeline) Begin(period time.Duration) {
	alternate := "alternate"
	if t.alternate == "" {
		alternate = ""
	}
	fmt.Fprintln(t.out, t.paint(bold, fmt.Sprintf("%7s   %-*s%-*s%s", "time", column, "primary", column, alternate, "probes")))
	t.start, t.stop = time.Now(), make(chan struct{})
	t.printer.Go(func() {
		ticker := time.NewTicker(period)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				t.mu.Lock()
				t.printRow()
				t.mu.Unlock()
			case <-t.stop:
				return
			}
		}
	})
}

// End prints the last line and returns the summary. The Timeline does not write to out after that:
// it ignores later events.
func (t *Timeline) End() Summary {
	close(t.stop)
	t.printer.Wait()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.row != (row{}) {
		t.printRow()
	}
	t.ended, t.sum.oneAddress = true, t.alternate == ""
	if !t.away.IsZero() {
		t.sum.onAlternate += time.Since(t.away)
	}
	return t.sum
}

// Call records a call that has ended: its name, how long it took, and the host that answered or was
// tried last, "" if there was none.
func (t *Timeline) Call(what, host string, took time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	endpoint := failover.Primary
	if host == t.alternate && host != "" {
		endpoint = failover.Alternate
	}
	if host != "" {
		t.row.requests[endpoint]++
		t.sum.requests[endpoint]++
	}
	if took > t.sum.longestTook {
		t.sum.longest, t.sum.longestTook, t.sum.longestAt = what, took, time.Since(t.start)-took
	}
}

// Failed records a job that failed.
func (t *Timeline) Failed(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sum.Failures++
	t.row.failures++
	t.row.failure = cmp.Or(t.row.failure, err)
}

// A Scene is something that happens to a simulated organization.
type Scene struct {
	Percent time.Duration // when it happens, in percent of the duration
	// Switched delays it, on a busy machine, until there was a switch after the scene before, for
	// up to a minute.
	Switched bool
	Text     string // what happens
	Happen   func() // nil: nothing, this is the end
}

// Play makes the scenes happen in order, each at its time, and prints their texts. It returns after
// the last one, or when ctx ends.
func (t *Timeline) Play(ctx context.Context, duration time.Duration, scenes []Scene) {
	start, switches := time.Now(), 0
	for _, scene := range scenes {
		due := start.Add(duration * scene.Percent / 100)
		wait := time.Until(due)
		for ready := false; !ready; wait = 20 * time.Millisecond {
			select {
			case <-time.After(wait):
			case <-ctx.Done():
				return
			}
			ready = !scene.Switched || t.switches() > switches || time.Since(due) > time.Minute
		}
		switches = t.switches()
		if scene.Happen != nil {
			t.Say("simulation", scene.Text)
			scene.Happen()
		}
	}
}

func (t *Timeline) switches() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.sum.switches
}

// Say prints a line of the program.
func (t *Timeline) Say(title, text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.event(magenta, title, text)
}

// OnEvent prints an event; see [failover.Config.OnEvent].
func (t *Timeline) OnEvent(e failover.Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch e.Kind {
	case failover.EventProbed: // too many for a line each
		t.row.probes[e.From] = &probe{e.Err}
	case failover.EventTripped:
		t.trouble = e.Time
		t.event(red, "tripped", fmt.Sprintf("%v: %s", e.From, brief(e.Fault)))
	case failover.EventSwitched:
		t.switched(e)
	case failover.EventTokensSuspect: // the demonstrations keep no such tokens
	case failover.EventLossGrown: // an earlier event has shown the report
		t.sum.atRisk++
	default:
		text := e.Reason
		if e.Loss != nil {
			text += t.atRisk(e.Loss)
		}
		if e.Err != nil {
			text += ": " + brief(e.Err)
		}
		t.event(yellow, e.Kind.String(), text)
	}
}

// switched records a switch. The caller holds t.mu.
func (t *Timeline) switched(e failover.Event) {
	t.sum.switches++
	text := fmt.Sprintf("%v → %v", e.From, e.To)
	if !t.trouble.IsZero() {
		text += fmt.Sprintf(", %v after the breaker tripped", max(round(e.Time.Sub(t.trouble)), time.Millisecond))
	}
	t.trouble = time.Time{}
	text += t.atRisk(e.Loss)
	if e.To == failover.Alternate {
		t.away = e.Time
	} else if !t.away.IsZero() {
		t.sum.onAlternate += e.Time.Sub(t.away)
		t.away = time.Time{}
	}
	t.event(green, "switched", text)
}

// atRisk returns how many writes a report lists, in words, and counts them. The caller holds t.mu.
func (t *Timeline) atRisk(r *failover.LossReport) string {
	n := len(r.AtRisk)
	if t.sum.atRisk += n; n == 0 {
		return ""
	}
	return fmt.Sprintf("; %d writes at risk", n)
}

// event prints the lines of an event. The caller holds t.mu.
func (t *Timeline) event(color, title, text string) {
	if t.ended {
		return
	}
	lines := wrap(text, width-eventIndent)
	fmt.Fprintf(t.out, "%s   %s %s\n", t.clock(), t.paint(color, fmt.Sprintf("▶ %-10s", title)), lines[0])
	for _, line := range lines[1:] {
		fmt.Fprintf(t.out, "%*s%s\n", eventIndent, "", line)
	}
}

const (
	width       = 80
	eventIndent = 7 + 3 + 2 + 10 + 1
	itemIndent  = 2 + 18 + 7 + 3
)

// wrap breaks text into lines of a width, between words.
func wrap(text string, width int) (lines []string) {
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > width {
			lines, line = append(lines, line), ""
		}
		line = strings.TrimPrefix(line+" "+word, " ")
	}
	return append(lines, line)
}

// column is the width of an endpoint's column.
const column = 20

// printRow prints the line of a period. The caller holds t.mu.
func (t *Timeline) printRow() {
	line := t.clock() + "   " +
		t.bar(cyan, t.row.requests[failover.Primary]) +
		t.bar(yellow, t.row.requests[failover.Alternate]) +
		t.paint(dim, t.row.probed())
	fmt.Fprintln(t.out, strings.TrimRight(line, " "))
	if n := t.row.failures; n > 0 {
		t.event(red, "failed", fmt.Sprintf("%d, the first: %v", n, t.row.failure))
	}
	t.row = row{}
}

// probed returns a short form of the latest probes. If both endpoints were probed, a decision was
// made, and the events before the row have the reasons.
func (r *row) probed() string {
	p, a := r.probes[failover.Primary], r.probes[failover.Alternate]
	switch {
	case p != nil && a != nil:
		return "primary " + p.mark() + "  alternate " + a.mark()
	case p != nil:
		return "primary " + p.mark() + " " + p.reason()
	case a != nil:
		return "alternate " + a.mark() + " " + a.reason()
	}
	return ""
}

// probe is the result of one probe.
type probe struct{ err error }

func (p *probe) mark() string {
	if p.err != nil {
		return "✗"
	}
	return "✓"
}

func (p *probe) reason() string {
	if p.err != nil {
		return brief(p.err)
	}
	return "serves"
}

// bar returns n as a bar with its number.
func (t *Timeline) bar(color string, n int) string {
	if n == 0 {
		return strings.Repeat(" ", column)
	}
	blocks := strings.Repeat("█", min(n, column-7))
	number := " " + strconv.Itoa(n)
	pad := max(0, column-utf8.RuneCountInString(blocks)-len(number))
	return t.paint(color, blocks) + number + strings.Repeat(" ", pad)
}

// clock returns the time since the start.
func (t *Timeline) clock() string { return fmt.Sprintf("%6.1fs", time.Since(t.start).Seconds()) }

// brief returns the cause of an error: a code of the service, a status, or the innermost error of a
// network error.
func brief(err error) string {
	if f := (*failover.Fault)(nil); errors.As(err, &f) {
		switch {
		case f.Code == "0x8004B065":
			return "fence (0x8004B065)"
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
	first, _, _ := strings.Cut(strings.TrimPrefix(err.Error(), "failover: "), "\n")
	return cmp.Or(first, "unknown error")
}

// round makes a duration readable.
func round(d time.Duration) time.Duration {
	if d < time.Second {
		return d.Round(time.Millisecond)
	}
	return d.Round(100 * time.Millisecond)
}

// Print prints the summary.
func (s Summary) Print(out io.Writer) {
	fmt.Fprintf(out, "\nSummary\n")
	primary, alternate := s.requests[failover.Primary], s.requests[failover.Alternate]
	by := fmt.Sprintf("%d answered by the primary, %d by the alternate", primary, alternate)
	if s.oneAddress {
		by = ""
	}
	Item(out, "requests", primary+alternate, by)
	Item(out, "failures", s.Failures, "seen by the callers")
	if !s.oneAddress {
		Item(out, "switches", s.switches, "")
	}
	Item(out, "writes at risk", s.atRisk, "acknowledged so shortly before an outage that they may not have been replicated")
	if !s.oneAddress {
		Item(out, "on the alternate", round(s.onAlternate), "")
	}
	if s.longest != "" {
		Item(out, "longest call", round(s.longestTook), fmt.Sprintf("a %s begun at %.1fs", s.longest, s.longestAt.Seconds()))
	}
}

// Item prints a line of a summary.
func Item(out io.Writer, title string, value any, note string) {
	lines := wrap(note, width-itemIndent)
	line := fmt.Sprintf("  %-18s%7v   %s", title, value, lines[0])
	fmt.Fprintln(out, strings.TrimRight(line, " "))
	for _, line := range lines[1:] {
		fmt.Fprintf(out, "%*s%s\n", itemIndent, "", line)
	}
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

func (t *Timeline) paint(color, text string) string {
	if !t.color || text == "" {
		return text
	}
	return "\x1b[" + color + "m" + text + "\x1b[0m"
}

// wantsColor reports whether out is a terminal, and the user has not disabled colors
// (https://no-color.org).
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
