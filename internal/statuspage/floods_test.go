package statuspage

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

// An outage that no event has told of yet did not begin when an earlier one did.
func TestAnOutageIsNotTakenForAnEarlierOne(t *testing.T) {
	t.Parallel()
	const none, dated = "Down: no endpoint serves the organization.", "Down: no endpoint serves the organization since 05:04 UTC (19 min)."
	for name, tt := range map[string]struct {
		kinds []string // one a minute, the last at 05:04
		want  string
	}{
		"untold":                      {nil, none},
		"told":                        {[]string{"down"}, dated},
		"told, after an earlier one":  {[]string{"down", "up", "down"}, dated},
		"told, then something else":   {[]string{"switched", "down", "outcome unknown"}, "Down: no endpoint serves the organization since 05:03 UTC (20 min)."},
		"untold, after an up":         {[]string{"down", "up"}, none},
		"untold, after a switch":      {[]string{"down", "switched"}, none},
		"untold, after a pin":         {[]string{"down", "pinned"}, none},
		"untold, after many of those": {[]string{"down", "up", "down", "up", "outcome unknown"}, none},
	} {
		r := with(quietReport(), func(r *Report) { r.Down = true })
		for i, kind := range tt.kinds {
			r.Events = append(r.Events, Event{Kind: kind, Time: clockTime(5, 5-len(tt.kinds)+i, 0)})
		}
		r.Judge()
		assert.Equal(t, tt.want, r.Summary, name)
	}
}

// A record of 64 events does not have every doubt of a bad night.
func TestDoubtsOfAFullRecordAreAtLeastThatMany(t *testing.T) {
	t.Parallel()
	for full, want := range map[bool]string{
		false: "2 writes are in doubt, the newest since 05:22 UTC.",
		true:  "At least 2 writes are in doubt, the newest since 05:22 UTC.",
	} {
		r := with(quietReport(), func(r *Report) {
			r.RecordFull = full
			for range 2 {
				r.Events = append(r.Events, Event{Kind: "outcome unknown", Time: clockTime(5, 22, 0)})
			}
		})
		r.Judge()
		var got string
		for _, f := range r.Findings {
			if f.Name == "writes in doubt" {
				got = f.Summary
			}
		}
		assert.Equal(t, want, got)
	}
}
