package drill

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/d365failover/failover/cmd/failover/internal/console"
)

// outages finds the times in which none of the series was served, and names them label. The
// time of a good answer is when it arrived, and that of a failure is when its request
// started, so that a request that hangs until the organization is back, or until it times
// out, belongs to the outage.
func outages(samples []Sample, interval time.Duration, label Series, series ...Series) []Outage {
	type moment struct {
		time   time.Time
		sample *Sample
	}
	var moments []moment
	for i := range samples {
		switch s := &samples[i]; {
		case !slices.Contains(series, s.Series):
		case s.State == Served:
			moments = append(moments, moment{s.ended(), s})
		case s.State == Failed && !covered(samples, s, interval, series):
			moments = append(moments, moment{s.Begun, s})
		}
	}
	slices.SortStableFunc(moments, func(a, b moment) int { return a.time.Compare(b.time) })
	var (
		list   []Outage
		open   bool
		last   time.Time // when the last good answer came
		before time.Time // when its request was begun: it served then or later
		failed time.Time // when the first failure arrived: it had stopped by then
	)
	for _, m := range moments {
		if m.sample.State == Served {
			if open {
				list[len(list)-1].close(m.time, before, failed)
			}
			open, last, before = false, m.time, m.sample.Begun
			continue
		}
		if !open {
			list = append(list, Outage{Series: label, LastServed: last, Stopped: m.time, Causes: []string{}})
			open, failed = true, m.sample.ended()
		}
		if end := m.sample.ended(); end.Before(failed) {
			failed = end
		}
		o := &list[len(list)-1]
		o.LastFailed = m.time
		o.Failures++
		if !slices.Contains(o.Causes, m.sample.Cause) {
			o.Causes = append(o.Causes, m.sample.Cause)
		}
		o.Duration = m.time.Sub(o.Stopped).Seconds()
		o.Least, o.Most = max(m.time.Sub(failed).Seconds(), 0), o.Duration
	}
	return list
}

// covered reports whether another of the series was served when a sample failed, or whether that
// is not known because the watch ended first. Samples of all series start at the same time.
func covered(samples []Sample, failed *Sample, interval time.Duration, series []Series) bool {
	known := len(series) == 1
	for i := range samples {
		s := &samples[i]
		if s.Series == failed.Series || !slices.Contains(series, s.Series) {
			continue
		}
		later := s.Begun.Sub(failed.Begun)
		if s.State == Served && later.Abs() <= interval/2 {
			return true
		}
		known = known || later >= -interval/2
	}
	return !known
}

// close records the first good answer after an outage. The organization stopped after before,
// if that is not zero, and no later than failed.
func (o *Outage) close(at, before, failed time.Time) {
	o.Recovered = at
	o.Duration = at.Sub(o.Stopped).Seconds()
	o.Most = o.Duration
	if !before.IsZero() {
		o.Most = at.Sub(before).Seconds()
	}
	o.Least = max(o.LastFailed.Sub(failed).Seconds(), 0)
}

// assign assigns each lost heartbeat to the first outage of the series that ended after it was
// written, and measures the loss.
func assign(list []Outage, series Series, beats []Beat) {
	acknowledged := slices.DeleteFunc(slices.Clone(beats), func(b Beat) bool { return b.Answer != Written })
	slices.SortFunc(acknowledged, func(a, b Beat) int { return a.Ended.Compare(b.Ended) })
	from := 0
	for i := range list {
		o := &list[i]
		if o.Series != series {
			continue
		}
		until := from
		for until < len(acknowledged) && (!o.over() || acknowledged[until].Ended.Before(o.Recovered)) {
			until++
		}
		own := acknowledged[from:until]
		from = until
		first := slices.IndexFunc(own, func(b Beat) bool { return b.lost() })
		if first < 0 {
			continue
		}
		last := first
		for n := first; n < len(own); n++ {
			if own[n].lost() {
				o.Lost, last = append(o.Lost, own[n].Number), n
			}
		}
		survived := own[first].Begun
		if first > 0 {
			survived = own[first-1].Ended
		}
		o.Loss = own[last].Ended.Sub(survived).Seconds()
	}
}

// conclude computes the outages and the result from the samples and heartbeats.
func (r *Record) conclude() {
	r.Outages = []Outage{}
	interval := seconds(r.Interval)
	for _, series := range []Series{New, Kept, Writes} {
		r.Outages = append(r.Outages, outages(slices.Concat(r.Samples, r.writes()), interval, series, series)...)
	}
	if r.Alternate != "" {
		r.Outages = append(r.Outages, outages(r.Samples, interval, Either, New, Second)...)
	}
	if r.Heartbeat != nil {
		assign(r.Outages, r.judged(), r.Heartbeat.Beats)
	}
	slices.SortStableFunc(r.Outages, func(a, b Outage) int { return a.Stopped.Compare(b.Stopped) })
	worst := r.worst(r.judged())
	res := &r.Result
	res.RTO, res.RPO, res.Lost = nil, nil, 0
	seen := slices.ContainsFunc(r.Samples, func(s Sample) bool { return (s.Series == New || s.Series == Second) && s.State == Served })
	if seen && (worst == nil || worst.over()) {
		rto := 0.0
		if worst != nil {
			rto = worst.Duration
		}
		res.RTO = &rto
	}
	if r.Heartbeat != nil && slices.ContainsFunc(r.Heartbeat.Beats, func(b Beat) bool { return b.Answer == Written && b.Found != NotRead && b.Found != Unreadable }) {
		rpo := 0.0
		for _, o := range r.Outages {
			rpo = max(rpo, o.Loss)
		}
		for _, b := range r.Heartbeat.Beats {
			if b.lost() {
				res.Lost++
			}
		}
		res.RPO = &rpo
	}
	res.Summary = r.summary(worst, seen)
}

// judged returns the series from which the figures are computed.
func (r *Record) judged() Series {
	if r.Alternate != "" {
		return Either
	}
	return New
}

// writes returns the heartbeats as samples.
func (r *Record) writes() []Sample {
	if r.Heartbeat == nil {
		return nil
	}
	var list []Sample
	for _, b := range r.Heartbeat.Beats {
		s := Sample{Series: Writes, Begun: b.Begun, Took: b.Ended.Sub(b.Begun).Seconds(), State: Failed, Cause: b.Cause}
		switch b.Answer {
		case Written:
			s.State = Served
		case NoToken, "":
			s.State = Unclear
		}
		list = append(list, s)
	}
	return list
}

// worst returns the longest outage of a series, or one that is not over if there is one, or nil
// if there was none.
func (r *Record) worst(series Series) *Outage {
	var worst *Outage
	for i := range r.Outages {
		o := &r.Outages[i]
		if o.Series != series || worst != nil && worst.over() == o.over() && worst.Duration >= o.Duration || worst != nil && !worst.over() && o.over() {
			continue
		}
		worst = o
	}
	return worst
}

func (r *Record) summary(worst *Outage, seen bool) string {
	var b strings.Builder
	count := 0
	for _, o := range r.Outages {
		if o.Series == r.judged() {
			count++
		}
	}
	switch {
	case !seen && worst == nil:
		return "Nothing is known: no answer showed whether the organization served."
	case !seen:
		return "The organization did not serve during the whole watch (" + strings.Join(worst.Causes, ", ") + "), so nothing could be measured."
	case worst == nil:
		fmt.Fprintf(&b, "The organization served the whole time: there was no outage in %s.", console.Duration(r.Ended.Sub(r.Started)))
	case !worst.over():
		fmt.Fprintf(&b, "The organization stopped serving at %s UTC and did not serve again before the watch ended, %s later.",
			worst.Stopped.Format(time.TimeOnly), console.Duration(r.Ended.Sub(worst.Stopped)))
	default:
		fmt.Fprintf(&b, "The organization did not serve for %s from %s UTC (%s)", console.Duration(seconds(worst.Duration)),
			worst.Stopped.Format(time.TimeOnly), strings.Join(worst.Causes, ", "))
		if count > 1 {
			fmt.Fprintf(&b, ", the longest of %d outages", count)
		}
		b.WriteString(".")
	}
	switch {
	case r.Heartbeat == nil:
		b.WriteString(" No heartbeats were written, so nothing is known about lost data.")
	case r.Result.RPO == nil:
		b.WriteString(" The heartbeats could not be read back, so nothing is known about lost data.")
	case r.Result.Lost == 0:
		fmt.Fprintf(&b, " Of %s, none was lost.", console.Plural(r.count(Written), "acknowledged write"))
	default:
		fmt.Fprintf(&b, " Of %s, %d were lost: those of the last %s before it stopped.", console.Plural(r.count(Written), "acknowledged write"),
			r.Result.Lost, console.Duration(seconds(*r.Result.RPO)))
	}
	if second := r.worst(New); r.Alternate != "" && second != nil {
		b.WriteString(" The primary address alone did not serve for longer; the figures are for programs that use both.")
	}
	if kept := r.worst(Kept); r.Alternate == "" && kept != nil && worst != nil && kept.Duration > worst.Duration+cmp.Or(r.Interval, 1)*1.5 {
		fmt.Fprintf(&b, " A program that keeps its connections would have been cut off for longer, %s.", console.Duration(seconds(kept.Duration)))
	}
	return b.String()
}

// count returns how many heartbeats got the answer.
func (r *Record) count(a Answer) int {
	n := 0
	for _, b := range r.Heartbeat.Beats {
		if b.Answer == a {
			n++
		}
	}
	return n
}
