package machine

import (
	"net"
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

func TestOnlyAStallExcuses(t *testing.T) {
	t.Parallel()
	calls := 0
	assert.True(t, Try(func() bool {
		calls++
		if calls < 3 {
			ours().stalls.Add(1)
		}
		return calls == 3
	}))
	assert.Equal(t, 3, calls)
	assert.True(t, Try(func() bool { ours().stalls.Add(1); return true }))
	for stalls := int64(-1); stalls < Stalls(); { // again, if there is a real one
		stalls, calls = Stalls(), 0
		assert.False(t, Try(func() bool { calls++; return false }))
	}
	assert.Equal(t, 1, calls)
}

func TestAFreePortIsGivenOnce(t *testing.T) {
	t.Parallel()
	given := map[string]bool{}
	for range 20 {
		port := FreePort("127.0.0.1")
		assert.Less(t, port, "3") // below 30,000: five digits
		assert.Len(t, port, 5)
		assert.False(t, given[port])
		given[port] = true
		ln, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", port))
		if assert.NoError(t, err) {
			ln.Close()
		}
	}
}
