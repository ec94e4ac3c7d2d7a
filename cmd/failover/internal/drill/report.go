package drill

import (
	_ "embed" // the page
	"fmt"
	"html/template"
	"io"
	"strings"
	"time"

	"github.com/d365failover/failover/cmd/failover/internal/console"
	"github.com/d365failover/failover/cmd/failover/internal/dr"
)

//go:embed report.html
var reportPage string

// reportTemplate is the page, which has no scripts and loads nothing.
var reportTemplate = template.Must(template.New("report").Funcs(template.FuncMap{
	"clock":   func(t time.Time) string { return t.UTC().Format("15:04:05.0") },
	"date":    func(t time.Time) string { return t.UTC().Format("January 2, 2006, 15:04:05 UTC") },
	"seconds": func(s float64) string { return console.Duration(seconds(s)) },
	"between": func(from, to *time.Time) string {
		if from == nil || to == nil {
			return "-"
		}
		return console.Duration(to.Sub(*from))
	},
	"orDash": func(t *time.Time) string {
		if t == nil {
			return "-"
		}
		return t.UTC().Format(time.TimeOnly)
	},
	"join": strings.Join,
}).Parse(reportPage))

// page is the data of the template.
type page struct {
	*Record
	Plot       template.HTML
	File, Hash string
	Host       string
	WhereToAct string
}

// RTO and RPO return figures for people.

func (p page) RTO() string { return figure(p.Result.RTO) }

func (p page) RPO() string { return figure(p.Result.RPO) }

// Bounds returns the bounds of the RTO in words.
func (p page) Bounds() string {
	worst := p.worst(p.judged())
	switch {
	case p.Result.RTO == nil:
		return "see below"
	case worst == nil:
		return "no outage was seen"
	}
	return fmt.Sprintf("between %s and %s", console.Duration(seconds(worst.Least)), console.Duration(seconds(worst.Most)))
}

// KeptFor returns for how long the kept connection was cut off.
func (p page) KeptFor() string {
	kept := p.worst(Kept)
	switch {
	case kept == nil:
		return "no outage"
	case !kept.over():
		return "not over"
	}
	return console.Duration(seconds(kept.Duration))
}

// Acknowledged returns how many heartbeats were acknowledged.

func (p page) Acknowledged() int { return p.count(Written) }

// Doubtful returns the heartbeats without a definite answer.
func (p page) Doubtful() []Beat {
	return p.pick(func(b Beat) bool { return b.Answer == InDoubt })
}

// DoubtfulFound returns how many of those were carried out.
func (p page) DoubtfulFound() int {
	return len(p.pick(func(b Beat) bool { return b.Answer == InDoubt && b.Found == Present }))
}

// LostBeats returns the acknowledged heartbeats that are missing.
func (p page) LostBeats() []Beat { return p.pick(func(b Beat) bool { return b.lost() }) }

// LostShown returns the lost heartbeats that are listed.
func (p page) LostShown() []Beat {
	list := p.LostBeats()
	return list[:min(100, len(list))]
}

// Unread returns how many heartbeats could not be read back.
func (p page) Unread() int {
	return len(p.pick(func(b Beat) bool { return b.Found == Unreadable || b.Found == NotRead }))
}

func (p page) pick(want func(Beat) bool) []Beat {
	var list []Beat
	if p.Heartbeat == nil {
		return nil
	}
	for _, b := range p.Heartbeat.Beats {
		if want(b) {
			list = append(list, b)
		}
	}
	return list
}

// Each returns the interval between samples in words.
func (p page) Each() string {
	if p.Interval == 1 {
		return "second"
	}
	return fmt.Sprintf("%g s", p.Interval)
}

// Length returns the length of the watch in words.
func (p page) Length() string { return console.Duration(p.Ended.Sub(p.Started)) }

func figure(v *float64) string {
	if v == nil {
		return "not measured"
	}
	return console.Duration(seconds(*v))
}

// draw writes the report, which refers to the file of the record by name and SHA-256.
func draw(w io.Writer, r *Record, file, hash string) error {
	return reportTemplate.Execute(w, page{
		Record: r, Plot: (&plot{Record: r}).draw(), File: file, Hash: hash,
		Host: strings.TrimPrefix(r.Organization, "https://"), WhereToAct: dr.WhereToAct,
	})
}
