package machine

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestTimeWithoutTicksIsWithheld(t *testing.T) {
	t.Parallel()
	begun := time.Now()
	a := &account{begun: begun, last: begun}
	now := begun
	pass := func(d time.Duration) time.Time { now = now.Add(d); return now }
	for range 100 {
		a.tick(pass(period))
	}
	assert.Zero(t, a.withheld(now))
	assert.Zero(t, a.withheld(now.Add(period)), "the next is not due")
	for range 100 { // half of the ticks are dropped
		a.tick(pass(2 * period))
	}
	assert.InDelta(t, time.Second, a.withheld(now), float64(2*period))
	assert.Zero(t, a.stalls.Load(), "it is only slow")
	a.tick(pass(3 * time.Second))
	assert.InDelta(t, 4*time.Second, a.withheld(now), float64(2*period))
	assert.EqualValues(t, 1, a.stalls.Load())
}

func TestAStopwatchLeavesOutNothingOfATimeThatHasTicks(t *testing.T) {
	t.Parallel()
	stopwatch := Stopwatch()
	<-time.After(5 * period)
	taken, withheld := stopwatch()
	assert.GreaterOrEqual(t, taken, 5*period)
	assert.Less(t, withheld, taken)
}

func TestWhatWasDisturbedIsDoneAgain(t *testing.T) {
	t.Parallel()
	calls := 0
	Undisturbed(func() {
		if calls++; calls < 3 {
			ours().stalls.Add(1)
		}
	})
	assert.GreaterOrEqual(t, calls, 3)
}
