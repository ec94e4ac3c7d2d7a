// Package statuspage shows a report of a Transport's status, with what it means and what to do
// about it, as a page for people and as JSON for machines.
package statuspage

import (
	"bytes"
	"crypto/sha256"
	_ "embed" // the page
	"encoding/base64"
	"fmt"
	"html/template"
	"slices"
	"strings"
	"time"
)

// source is the template of the page. Its style is one literal element, so that the
// Content-Security-Policy can permit it by its hash.
//
//go:embed page.html
var source string

// Page draws reports. It is safe for concurrent use.
type Page struct {
	template *template.Template
	policy   string // except for form-action
}

// NewPage parses the page. It is no package variable, so that programs without a page link
// little of html/template.
func NewPage() *Page {
	return &Page{
		template: template.Must(template.New("status").Parse(source)),
		policy:   "default-src 'none'; style-src " + styleSource(source) + "; base-uri 'none'; frame-ancestors 'none'; form-action ",
	}
}

// Draw returns the page of a report, and its Content-Security-Policy.
func (p *Page) Draw(r *Report) (body []byte, policy string, err error) {
	var out bytes.Buffer
	err = p.template.Execute(&out, view{r, newTimeline(r)})
	return out.Bytes(), p.policy + "'none'", err
}

// DrawForm returns the page with the form of an action, and its Content-Security-Policy.
func (p *Page) DrawForm(r *Report, f *Form) (body []byte, policy string, err error) {
	var out bytes.Buffer
	err = p.template.ExecuteTemplate(&out, "action", formView{view{r, nil}, f})
	return out.Bytes(), p.policy + "'self'", err
}

// styleSource returns the source expression that permits the page's style.
// Source: Content Security Policy Level 3, section 2.3.1, hash-source.
func styleSource(page string) string {
	_, style, _ := strings.Cut(page, "<style>")
	style, _, _ = strings.Cut(style, "</style>")
	sum := sha256.Sum256([]byte(style))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

// view is the data of the page's template.
type view struct {
	*Report
	Timeline *timeline
}

// moment is a time on the page.
type moment struct{ at, now time.Time }

// At returns a time for showing.
func (p view) At(t time.Time) moment { return moment{t, p.Time} }

// RFC3339 returns the time for machines, Clock for people, with the date unless that is today's,
// and Ago how long ago it is.
func (m moment) RFC3339() string { return m.at.UTC().Format(time.RFC3339) }
func (m moment) Clock() string   { return clock(m.at, m.now, "15:04:05") }
func (m moment) Ago() string     { return ago(m.at, m.now) }

// Stamp returns the time of the report.
func (p view) Stamp() string { return p.Time.Format("2 Jan 2006 15:04:05 UTC") }

// Running returns how long ago the Transport was made.
func (p view) Running() string { return inWords(p.Time.Sub(p.Started)) }

// Title is the page's title: what matters first.
func (p view) Title() string { return p.Situation + ": " + p.Primary.URL }

// Endpoints returns the endpoints that there are, the active one first.
func (p view) Endpoints() []*Endpoint {
	active, other := p.side()
	if other == nil {
		return []*Endpoint{active}
	}
	return []*Endpoint{active, other}
}

// Renewed reports whether the page reloads itself. A form does not, because that would discard
// its fields.
func (p view) Renewed() bool { return true }

// First is the gravest finding, Others are the rest.
func (p view) First() Finding    { return p.Findings[0] }
func (p view) Others() []Finding { return p.Findings[1:] }

// shownLoss is a loss report on the page. It is expanded while somebody has to act on it; the
// newest one always is.
type shownLoss struct {
	Loss *Loss
	Open bool
}

// LossesWithWrites returns the reports to show: the newest one, and earlier ones that list
// writes.
func (p view) LossesWithWrites() []shownLoss {
	var shown []shownLoss
	for i := range p.Losses {
		l := &p.Losses[i]
		if i == 0 || l.Writes() > 0 {
			shown = append(shown, shownLoss{l, i == 0 || l.Count(Present) < l.Writes()})
		}
	}
	return shown
}

// Newest returns the events, newest first.
func (p view) Newest() []Event {
	newest := slices.Clone(p.Events)
	slices.Reverse(newest)
	return newest
}

// writeRows is a list of writes on the page.
type writeRows struct {
	view
	Writes []Write
	More   int
}

// maxWriteRows is how many writes of a list the page shows; the JSON has them all.
const maxWriteRows = 100

// Rows returns the writes of a list that the page shows.
func (p view) Rows(writes []Write) writeRows {
	n := min(len(writes), maxWriteRows)
	return writeRows{p, writes[:n], len(writes) - n}
}

// clock returns t in UTC, with the date unless that is the date of now.
func clock(t, now time.Time, layout string) string {
	t, now = t.UTC(), now.UTC()
	switch {
	case t.Year() != now.Year():
		layout = "2 Jan 2006 " + layout
	case t.YearDay() != now.YearDay():
		layout = "2 Jan " + layout
	}
	return t.Format(layout)
}

// ago returns the time from t to now in words.
func ago(t, now time.Time) string {
	if d := now.Sub(t); d >= time.Second {
		return inWords(d) + " ago"
	}
	return "now"
}

// inWords returns a duration with the one or two units that matter.
func inWords(d time.Duration) string {
	days, hours, minutes := int(d.Hours())/24, int(d.Hours())%24, int(d.Minutes())%60
	switch {
	case days > 0:
		return fmt.Sprintf("%d d %d h", days, hours)
	case hours > 0:
		return fmt.Sprintf("%d h %d min", hours, minutes)
	case minutes > 0:
		return fmt.Sprintf("%d min", minutes)
	default:
		return fmt.Sprintf("%d s", int(max(0, d).Seconds()))
	}
}
