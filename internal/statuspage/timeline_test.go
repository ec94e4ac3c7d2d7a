package statuspage

import (
	"cmp"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestTimelinePeriods(t *testing.T) {
	t.Parallel()
	begin := clockTime(3, 0, 0)
	at := func(m int, kind string, to ...string) Event {
		e := Event{Kind: kind, Time: clockTime(3, m, 0)}
		if len(to) > 0 {
			e.To, e.From = to[0], to[0]
		}
		if kind == "switched" {
			e.From = map[string]string{"primary": "alternate", "alternate": "primary"}[e.To]
		}
		return e
	}
	for _, row := range []struct {
		name, why string
		report    Report
		want      string
	}{
		{"no events", "nothing has changed", Report{}, "primary from 03:00:00"},
		{"no events, away", "the switch has left the record", Report{Active: "alternate", Pinned: true}, "alternate, pinned from 03:00:00"},
		{"events that move nothing", "they start no period", Report{Events: []Event{at(1, "tripped"), at(2, "switch refused"), at(3, "latched"), at(4, "outcome unknown")}}, "primary from 03:00:00"},
		{"there and back", "a period for each side", Report{Events: []Event{at(1, "switched", "alternate"), at(2, "switched", "primary")}},
			"primary from 03:00:00 to 03:01:00; alternate from 03:01:00 to 03:02:00; primary from 03:02:00"},
		{"down and up", "the same side, down for a while", Report{Events: []Event{at(1, "down"), at(2, "up")}},
			"primary from 03:00:00 to 03:01:00; primary, down from 03:01:00 to 03:02:00; primary from 03:02:00"},
		{"down until a switch", "a switch ends Down", Report{Active: "alternate", Events: []Event{at(1, "down"), at(2, "switched", "alternate")}},
			"primary from 03:00:00 to 03:01:00; primary, down from 03:01:00 to 03:02:00; alternate from 03:02:00"},
		{"down until a pin", "a pin ends Down", Report{Pinned: true, Events: []Event{at(1, "down"), at(2, "pinned")}},
			"primary from 03:00:00 to 03:01:00; primary, down from 03:01:00 to 03:02:00; primary, pinned from 03:02:00"},
		{"begins pinned and down", "the first event says what was before", Report{Active: "alternate", Events: []Event{at(1, "unpinned", "alternate"), at(2, "up", "alternate")}},
			"alternate, down, pinned from 03:00:00 to 03:01:00; alternate, down from 03:01:00 to 03:02:00; alternate from 03:02:00"},
		{"begins at the alternate", "the first switch says where it began", Report{Events: []Event{at(1, "switched", "primary")}},
			"alternate from 03:00:00 to 03:01:00; primary from 03:01:00"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			row.report.Time, row.report.Active = statusNow, cmp.Or(row.report.Active, "primary")
			var got []string
			for _, p := range row.report.periods(begin) {
				got = append(got, p.words(statusNow))
			}
			assert.Equal(t, row.want, strings.Join(got, "; "), row.why)
		})
	}
}

// The timelines of random histories, some with far too many events, stay within their frame.
func TestTimelineStaysInItsFrame(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	number := func(s string) float64 {
		n, err := strconv.ParseFloat(strings.TrimSuffix(s, "%"), 64)
		require.NoError(t, err)
		return n
	}
	sides := []string{"primary", "alternate"}
	kinds := []string{"tripped", "switched", "switch refused", "down", "up", "outcome unknown", "pinned", "unpinned", "latched", "tokens suspect"}
	for range 500 {
		s := Report{Time: statusNow, Active: sides[random.IntN(2)], Alternate: new(Endpoint)}
		at := statusNow.Add(-time.Duration(random.Int64N(int64(72 * time.Hour))))
		started := at.Add(-time.Duration(random.Int64N(int64(72 * time.Hour))))
		for range random.IntN(65) {
			at = at.Add(time.Duration(random.Int64N(int64(statusNow.Sub(at))/8 + 1)))
			from, to := sides[random.IntN(2)], sides[random.IntN(2)]
			s.Events = append(s.Events, Event{Kind: kinds[random.IntN(len(kinds))], Time: at, From: from, To: to})
		}
		s.Started, s.RecordFull = started, len(s.Events) == 64
		tl := newTimeline(&s)
		require.Len(t, tl.Lanes, 2)
		require.NotEmpty(t, tl.Bars)
		for i, b := range tl.Bars {
			x, width := number(b.X), number(b.Width)
			require.GreaterOrEqual(t, x, 0.0)
			require.Greater(t, width, 0.0)
			require.LessOrEqual(t, x+width, 100.3)
			require.NotEmpty(t, b.Text)
			if i > 0 {
				require.GreaterOrEqual(t, x, number(tl.Bars[i-1].X), "bars are in order")
			}
		}
		end := tl.Bars[len(tl.Bars)-1]
		require.InDelta(t, 100, number(end.X)+number(end.Width), 0.3, "the last bar reaches now")
		for _, m := range tl.Marks {
			require.GreaterOrEqual(t, number(m.X), 0.0)
			require.LessOrEqual(t, number(m.X), 100.0)
			require.Positive(t, m.Y)
			require.Less(t, m.Y, tl.Lanes[0].Text)
		}
		labels := 0
		for _, k := range tl.Ticks {
			if k.Label != "" {
				labels++
			}
		}
		require.GreaterOrEqual(t, labels, 2, "an axis needs numbers")
		require.LessOrEqual(t, labels, 6, "more do not fit a phone")
		require.LessOrEqual(t, tl.Height, 240)
		require.LessOrEqual(t, len(tl.Legend), 12)
	}
}

// If the list of events is full, nothing is known about the time before its first event.
func TestTimelineBeginsWhereTheRecordBegins(t *testing.T) {
	t.Parallel()
	s := Report{Time: statusNow, Started: statusStarted, Active: "primary", RecordFull: true}
	for i := range 64 {
		s.Events = append(s.Events, Event{Kind: "tripped", Time: clockTime(4, 0, i)})
	}
	assert.Contains(t, newTimeline(&s).Text, "primary from 04:00:00.")
	s.RecordFull = false
	assert.Contains(t, newTimeline(&s).Text, "primary from 5 Mar 05:23:40.")
}

func TestGlyphsDiffer(t *testing.T) {
	t.Parallel()
	names, paths := make(map[string]bool), make(map[string]bool)
	for kind, g := range glyphs {
		assert.False(t, names[g.Name], "%s has the name of another", kind)
		assert.False(t, paths[g.Path], "%s has the shape of another", kind)
		assert.Contains(t, []string{LevelOK, LevelWarn, LevelBad, "move"}, g.Level)
		assert.True(t, strings.HasPrefix(g.Name, strings.Fields(kind)[0]))
		assert.Regexp(t, `^[MLHVAZ0-9 -]+$`, g.Path)
		names[g.Name], paths[g.Path] = true, true
	}
	for _, to := range []string{"primary", "alternate"} {
		assert.Equal(t, "switched to the "+to, glyphOf("switched", to).Name)
	}
	assert.Equal(t, "new", glyphOf("new", "").Name)
	assert.False(t, HasGlyph("new"))
	assert.True(t, HasGlyph("switched"))
	for kind, g := range glyphs {
		assert.True(t, HasGlyph(kind))
		assert.Equal(t, g, glyphOf(kind, "primary"))
	}
}

// With one address there is one lane, even for events that claim another.
func TestTimelineOfOneAddress(t *testing.T) {
	t.Parallel()
	r := Report{Time: statusNow, Started: clockTime(5, 0, 0), Active: "primary", Events: []Event{{Kind: "switched", Time: clockTime(5, 10, 0), From: "alternate", To: "primary"}}}
	tl := newTimeline(&r)
	assert.Len(t, tl.Lanes, 1)
	for _, b := range tl.Bars {
		assert.Equal(t, tl.Lanes[0].Y, b.Y)
	}
}
