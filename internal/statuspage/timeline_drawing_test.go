package statuspage

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

// drawn lists the parts of a timeline, one per line.
func drawn(tl *timeline) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, %d high, axis at %d, labels at %d\n", tl.Window, tl.Height, tl.Axis, tl.Labels)
	for _, l := range tl.Lanes {
		fmt.Fprintf(&b, "lane %s at %d, its name at %d\n", l.Name, l.Y, l.Text)
	}
	for _, m := range tl.Marks {
		fmt.Fprintf(&b, "mark %s %d: %s\n", m.X, m.Y, m.Text)
	}
	for _, l := range tl.Bars {
		fmt.Fprintf(&b, "bar %s, %s wide, at %d, down %t, pinned %t: %s\n", l.X, l.Width, l.Y, l.Down, l.Pinned, l.Text)
	}
	for _, k := range tl.Ticks {
		fmt.Fprintf(&b, "tick %s %q\n", k.X, k.Label)
	}
	for _, g := range tl.Legend {
		fmt.Fprintf(&b, "legend %s\n", g.Name)
	}
	return b.String()
}

// The drawing of an outage: 30 minutes until 05:23:40, so a minute is 3.33 % wide.
func TestADrawing(t *testing.T) {
	t.Parallel()
	at := func(kind, to string, m, s int) Event {
		e := Event{Kind: kind, Time: clockTime(5, m, s), From: to, To: to}
		if kind == "switched" {
			e.From = map[string]string{"primary": "alternate", "alternate": "primary"}[to]
		}
		return e
	}
	r := quietReport()
	r.Active, r.Pinned = "alternate", true
	r.Started = clockTime(4, 40, 0)
	r.Events = []Event{
		at("tripped", "primary", 0, 0), at("switched", "alternate", 0, 10), at("switched", "primary", 1, 31), at("down", "primary", 1, 32), at("switched", "alternate", 10, 0), at("pinned", "alternate", 23, 0),
	}
	r.Events = append([]Event{{Kind: "up", Time: clockTime(4, 50, 0).Add(-26 * time.Hour), From: "primary", To: "primary"}}, r.Events...)
	assert.Equal(t, `30 minutes, 140 high, axis at 120, labels at 134
lane primary at 48, its name at 44
lane alternate at 92, its name at 88
mark 21.11% 8: 05:00:00 UTC: tripped
mark 21.67% 24: 05:00:10 UTC: switched to the alternate
mark 26.17% 8: 05:01:31 UTC: switched to the primary
mark 26.22% 24: 05:01:32 UTC: down
mark 54.44% 8: 05:10:00 UTC: switched to the alternate
mark 97.78% 8: 05:23:00 UTC: pinned
bar 0.00%, 21.67% wide, at 48, down false, pinned false: primary from 13 Mar 02:50:00 to 05:00:10
bar 21.67%, 4.50% wide, at 92, down false, pinned false: alternate from 05:00:10 to 05:01:31
bar 26.17%, 0.20% wide, at 48, down false, pinned false: primary from 05:01:31 to 05:01:32
bar 26.22%, 28.22% wide, at 48, down true, pinned false: primary, down from 05:01:32 to 05:10:00
bar 54.44%, 43.33% wide, at 92, down false, pinned false: alternate from 05:10:00 to 05:23:00
bar 97.78%, 2.22% wide, at 92, down false, pinned true: alternate, pinned from 05:23:00
tick 21.11% "05:00"
tick 54.44% "05:10"
tick 87.78% ""
legend tripped
legend switched to the alternate
legend switched to the primary
legend down
legend pinned
`, drawn(newTimeline(r)))
}

// The window is the shortest that leaves room for the oldest event.
func TestWindowsOfTheTimeline(t *testing.T) {
	t.Parallel()
	window := func(age time.Duration) *timeline {
		return newTimeline(with(quietReport(), func(r *Report) { r.Events = []Event{{Kind: "tripped", Time: statusNow.Add(-age)}} }))
	}
	names := []string{"5 minutes", "15 minutes", "30 minutes", "hour", "3 hours", "6 hours", "12 hours", "24 hours"}
	for i, w := range windows {
		reach := w.length * 9 / 10
		assert.Equal(t, names[i], window(reach-1).Window)
		assert.Equal(t, names[min(i+1, len(names)-1)], window(reach).Window)
		started := with(quietReport(), func(r *Report) { r.Started = statusNow.Add(1 - reach) })
		assert.Equal(t, names[i], newTimeline(started).Window)
	}
	assert.Equal(t, []string{"0.00%", "24 hours"}, []string{window(24 * time.Hour).Marks[0].X, window(24 * time.Hour).Window})
	assert.Empty(t, window(24*time.Hour+1).Marks)
	full := with(quietReport(), func(r *Report) { r.RecordFull = true })
	assert.Contains(t, newTimeline(full).Text, "primary from 5 Mar 05:23:40.")
	full.Events = []Event{{Kind: "tripped", Time: clockTime(5, 0, 0)}}
	assert.Contains(t, newTimeline(full).Text, "primary from 05:00:00.")
}

// Marks that would overlap are in different rows, of which there are five.
func TestRowsOfMarks(t *testing.T) {
	t.Parallel()
	rows := func(seconds ...int) (all []int) {
		r := quietReport()
		r.Events = []Event{{Kind: "tripped", Time: statusNow.Add(-25 * time.Minute)}} // a row is free again after 81 s
		for _, s := range seconds {
			r.Events = append(r.Events, Event{Kind: "tripped", Time: r.Events[0].Time.Add(time.Duration(s) * time.Second)})
		}
		for _, m := range newTimeline(r).Marks {
			all = append(all, (m.Y-markHeight/2)/markHeight)
		}
		return all
	}
	assert.Equal(t, []int{0, 0, 0}, rows(81, 162))
	assert.Equal(t, []int{0, 1, 0}, rows(80, 161))
	assert.Equal(t, []int{0, 1, 2, 3, 4, 0, 1}, rows(1, 2, 3, 4, 5, 6))
}

// The axis labels full hours and a new day, but nothing that would not fit.
func TestTicks(t *testing.T) {
	t.Parallel()
	ticks := func(now time.Time, age time.Duration) string {
		tl := newTimeline(&Report{Time: now, Started: now.Add(-age)})
		var all []string
		for _, k := range tl.Ticks {
			all = append(all, k.X+" "+k.Label)
		}
		return strings.Join(all, ", ")
	}
	const hours = 2 * time.Hour // in a window of three
	assert.Equal(t, "6.00% 06:00, 39.33% 07:00, 72.67% 08:00", ticks(clockTime(8, 49, 12), hours))
	assert.Equal(t, "5.99% , 39.32% 07:00, 72.66% 08:00", ticks(clockTime(8, 49, 13), hours))
	assert.Equal(t, "15.33% 06:00, 48.67% 07:00, 82.00% 08:00", ticks(clockTime(8, 32, 24), hours))
	assert.Equal(t, "15.34% 06:00, 48.68% 07:00, 82.01% ", ticks(clockTime(8, 32, 23), hours))
	assert.Equal(t, "33.33% 06:00, 66.67% 07:00", ticks(clockTime(8, 0, 0), hours), "not where the time of the report stands")
	assert.Equal(t, "16.67% 23:00, 50.00% 14 Mar, 83.33% ", ticks(clockTime(1, 30, 0), hours))
	assert.Equal(t, "20.00% 00:02, 40.00% 00:03, 60.00% 00:04, 80.00% 00:05", ticks(clockTime(0, 6, 0), time.Minute))
}
