package remote

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/d365failover/failover/cmd/failover/internal/console"
)

// status is the part of the JSON of StatusHandler that is printed.
type status struct {
	Time          time.Time `json:"time"`
	Situation     string    `json:"situation"`
	Summary       string    `json:"summary"`
	Advice        string    `json:"advice"`
	Findings      []finding `json:"findings"`
	Process       program   `json:"process"`
	Ready         bool      `json:"ready"`
	Active        string    `json:"active"`
	ActiveSeconds float64   `json:"activeSeconds"`
	Pinned        bool      `json:"pinned"`
	Latched       bool      `json:"latched"`
	Primary       *endpoint `json:"primary"`
	Alternate     *endpoint `json:"alternate"`
	Fleet         *fleet    `json:"fleet"`
	Losses        []loss    `json:"losses"`
	Events        []event   `json:"events"`
}

type finding struct {
	Summary string `json:"summary"`
	Advice  string `json:"advice"`
	Cause   string `json:"cause"`
	Runbook string `json:"runbook"`
}

type program struct {
	Host    string `json:"host"`
	PID     int    `json:"pid"`
	Program string `json:"program"`
	Version string `json:"version"`
}

type endpoint struct {
	URL         string            `json:"url"`
	Breaker     string            `json:"breaker"`
	LastSuccess time.Time         `json:"lastSuccess"`
	LastFault   *fault            `json:"lastFault"`
	Faults      map[string]uint64 `json:"faults"`
	Probe       *probe            `json:"probe"`
}

type fault struct {
	Time time.Time `json:"time"`
	Text string    `json:"text"`
}

type probe struct {
	Time   time.Time `json:"time"`
	Result string    `json:"result"`
	Error  string    `json:"error"`
}

type fleet struct {
	Active       string `json:"active"`
	Apart        bool   `json:"apart"`
	Frozen       string `json:"frozen"`
	Failed       string `json:"failed"`
	WitnessCount int    `json:"witnessCount"`
	Error        string `json:"error"`
}

type loss struct {
	From    string  `json:"from"`
	To      string  `json:"to"`
	AtRisk  []write `json:"atRisk"`
	Unknown []write `json:"unknown"`
}

type write struct {
	Time     time.Time `json:"time"`
	Method   string    `json:"method"`
	Path     string    `json:"path"`
	EntityID string    `json:"entityId"`
	Label    string    `json:"label"`
	State    string    `json:"state"`
}

type event struct {
	Kind   string    `json:"kind"`
	Time   time.Time `json:"time"`
	From   string    `json:"from"`
	To     string    `json:"to"`
	Reason string    `json:"reason"`
}

// Limits of what can be long.
const (
	shownEvents = 8
	shownWrites = 20
)

// print prints the status. Whatever the process has answered, it cannot control the terminal.
func (s *status) print(out io.Writer) {
	var all bytes.Buffer
	s.render(&all)
	fmt.Fprint(out, console.Clean(all.String()))
}

func (s *status) render(out io.Writer) {
	line := func(label, value string) {
		if value != "" {
			fmt.Fprintln(out, console.Cell(fmt.Sprintf("%-11s", label), value, console.Width))
		}
	}
	line("Situation", s.Situation)
	line("", s.Summary)
	line("To do", s.Advice)
	for _, f := range s.Findings {
		if f.Summary != s.Summary {
			line("Also", f.Summary)
			line("", f.Advice)
		}
		if f.Cause != "none" {
			line("Cause", f.Cause)
		}
		if f.Runbook != "" {
			fmt.Fprintf(out, "%-11s%s\n", "Runbook", f.Runbook) // unwrapped, to be copied
		}
	}
	process := s.Process.Program
	if s.Process.Host != "" {
		process = fmt.Sprintf("%s %s on %s, process %d", process, s.Process.Version, s.Process.Host, s.Process.PID)
	}
	line("Process", strings.Join(strings.Fields(process), " "))
	active := fmt.Sprintf("%s, for %s", s.Active, console.Duration(time.Duration(s.ActiveSeconds*float64(time.Second))))
	if s.Pinned {
		active += ", pinned"
	}
	line("Active", active)
	if s.Fleet != nil {
		line("Fleet", s.Fleet.words())
	}
	fmt.Fprintln(out)
	s.printEndpoints(out)
	for i := range s.Losses {
		s.Losses[i].render(out)
	}
	if len(s.Events) > 0 {
		fmt.Fprintln(out, "\nLast events (UTC)")
	}
	for _, e := range s.Events[max(0, len(s.Events)-shownEvents):] {
		text := e.Kind
		if e.From != e.To {
			text += ", " + e.From + " to " + e.To
		}
		fmt.Fprintln(out, console.Cell("  "+e.Time.UTC().Format("01-02 15:04:05")+"  ", strings.TrimSuffix(text+": "+e.Reason, ": "), console.Width))
	}
}

// words describes the fleet.
func (f *fleet) words() string {
	words := "at the " + f.Active
	if f.Apart {
		words += ", not followed"
	}
	if f.Frozen != "" {
		words += ", frozen: " + f.Frozen
	}
	if f.WitnessCount > 0 {
		words += fmt.Sprintf("; processes that have seen the %s fail: %d", f.Failed, f.WitnessCount)
	}
	if f.Error != "" {
		words += "; its store fails: " + f.Error
	}
	return words
}

func (s *status) printEndpoints(out io.Writer) {
	header, endpoints := []string{"", "primary"}, []*endpoint{s.Primary}
	width := 66
	if s.Alternate != nil && s.Alternate.URL != "" {
		header, endpoints, width = append(header, "alternate"), append(endpoints, s.Alternate), 31
	}
	t := console.Table(out, header, 9, width, width)
	row := func(label string, value func(*endpoint) string) {
		cells := []string{label}
		for _, e := range endpoints {
			if e == nil {
				e = new(endpoint)
			}
			cells = append(cells, console.Cell("", cmp.Or(value(e), "-"), width))
		}
		console.Append(t, cells...)
	}
	ago := func(when time.Time) string {
		if when.IsZero() {
			return ""
		}
		return console.Duration(s.Time.Sub(when)) + " ago"
	}
	row("address", func(e *endpoint) string { return strings.TrimPrefix(e.URL, "https://") })
	row("breaker", func(e *endpoint) string { return e.Breaker })
	row("answered", func(e *endpoint) string { return ago(e.LastSuccess) })
	row("fault", func(e *endpoint) string {
		if e.LastFault == nil {
			return ""
		}
		return ago(e.LastFault.Time) + ": " + e.LastFault.Text
	})
	row("probe", func(e *endpoint) string {
		if e.Probe == nil {
			return ""
		}
		return strings.TrimSpace(e.Probe.Result + " " + ago(e.Probe.Time) + "\n" + e.Probe.Error)
	})
	row("faults", func(e *endpoint) string {
		var counts []string
		for _, class := range slices.Sorted(maps.Keys(e.Faults)) {
			if n := e.Faults[class]; n > 0 {
				counts = append(counts, fmt.Sprintf("%d %s", n, class))
			}
		}
		return strings.Join(counts, "\n")
	})
	t.Render()
}

// render prints the writes of a loss report, missing ones first.
func (l *loss) render(out io.Writer) {
	writes := slices.Concat(l.AtRisk, l.Unknown)
	if len(writes) == 0 {
		return
	}
	counts := make(map[string]int)
	for _, w := range writes {
		counts[w.State]++
	}
	var words []string
	for _, state := range []string{"missing", "unreadable", "not verified", "present"} {
		if n := counts[state]; n > 0 {
			words = append(words, fmt.Sprintf("%d %s", n, state))
		}
	}
	since := "since the " + l.From + " was left"
	if l.To == l.From {
		since = "after an outage of the " + l.From
	}
	fmt.Fprintf(out, "\nWrites at risk %s: %s\n", since, strings.Join(words, ", "))
	rank := map[string]int{"missing": 0, "unreadable": 1, "not verified": 2, "present": 3}
	slices.SortStableFunc(writes, func(a, b write) int { return rank[a.State] - rank[b.State] })
	for i, w := range writes {
		if i == shownWrites {
			fmt.Fprintf(out, "  ... and %d more: see -json\n", len(writes)-i)
			break
		}
		fmt.Fprintln(out, console.Cell(fmt.Sprintf("  %s  %-12s  ", w.Time.UTC().Format("15:04:05"), w.State),
			strings.Join(strings.Fields(w.Method+" "+w.Path+" "+w.EntityID+" "+w.Label), " "), console.Width))
	}
}
