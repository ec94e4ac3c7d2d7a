package failover

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

// A hundred writes in doubt are one trouble; the switch that led to them is to be seen.
func TestTheLastEventsKeepWhatIsRare(t *testing.T) {
	t.Parallel()
	var recent []Event
	for _, kind := range []EventKind{EventTripped, EventSwitched, EventTokensSuspect} {
		recent = appendRecent(recent, Event{Kind: kind})
	}
	for i := range 10 * maxRecent {
		recent = appendRecent(recent, Event{Kind: EventOutcomeUnknown, Generation: uint64(i)})
		assert.LessOrEqual(t, len(recent), maxRecent)
	}
	assert.Equal(t, EventTripped, recent[0].Kind)
	assert.Equal(t, EventSwitched, recent[1].Kind)
	assert.EqualValues(t, 10*maxRecent-1, recent[maxRecent-1].Generation, "the newest one is there")
	assert.EqualValues(t, 10*maxRecent-2, recent[maxRecent-2].Generation, "in order")
}
