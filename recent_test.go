package failover

import (
	"math"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestRecentCountsForgetByTheMinute(t *testing.T) {
	t.Parallel()
	begin := time.Date(2026, 3, 14, 5, 0, 0, 0, time.UTC)
	at := func(minutes int, seconds int) time.Time {
		return begin.Add(time.Duration(minutes)*time.Minute + time.Duration(seconds)*time.Second)
	}
	var c recentCount
	assert.Zero(t, c.sum(begin), "nothing was counted")
	c.add(at(0, 0))
	c.add(at(0, 59))
	c.add(at(1, 0))
	for _, row := range []struct {
		why  string
		now  time.Time
		want int
	}{
		{"all of it", at(1, 0), 3},
		{"the last second in which the first minute counts", at(4, 59), 3},
		{"the first minute is gone", at(5, 0), 1},
		{"the second, too", at(6, 0), 0},
		{"a clock that was set back: what is to come does not count", at(0, 30), 2},
		{"long after", at(100_000, 0), 0},
	} {
		assert.Equal(t, row.want, c.sum(row.now), row.why)
	}
	c.add(at(5, 0)) // replaces the first minute
	assert.Equal(t, 2, c.sum(at(5, 0)))
	word := &c[minuteOf(at(7, 0))%recentMinutes]
	full := minuteOf(at(7, 0))<<32 | math.MaxUint32
	word.Store(full)
	c.add(at(7, 0))
	assert.Equal(t, full, word.Load(), "a full count stays full")
}

// Concurrent counting loses nothing, even at the start of a minute.
func TestRecentCountsAreExact(t *testing.T) {
	t.Parallel()
	const goroutines, each = 8, 2000
	var c recentCount
	c.add(time.Unix(0, 0)) // in the same slot, long ago
	now := time.Unix(recentMinutes*60*1000, 0)
	var all sync.WaitGroup
	for range goroutines {
		all.Go(func() {
			for range each {
				c.add(now)
			}
		})
	}
	all.Wait()
	assert.Equal(t, goroutines*each, c.sum(now))
}
