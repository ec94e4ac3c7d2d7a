package failover

import (
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Whatever floods a Transport that has a slow OnEvent: what is rare is told, and in order.
func TestAFloodOfEventsDropsNoneThatIsRare(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		var told []Event
		transport := newTestTransport(t, acknowledging, Config{OnEvent: func(e Event) { <-release; told = append(told, e) }})
		emit := func(kind EventKind, reason string) {
			transport.mu.Lock()
			transport.emit(Event{Kind: kind, Reason: reason})
			transport.mu.Unlock()
		}
		emit(EventPinned, "begins")
		synctest.Wait()
		for range 2 * maxEvents {
			emit(EventOutcomeUnknown, "")
		}
		emit(EventSwitched, "first")
		for range 2 * maxEvents {
			emit(EventOutcomeUnknown, "")
		}
		emit(EventSwitched, "second")
		assert.EqualValues(t, 3*maxEvents+2, transport.Status().EventsDropped)
		close(release)
		synctest.Wait()
		assert.Len(t, told, maxEvents+1)
		rare := slices.DeleteFunc(told, func(e Event) bool { return e.Kind == EventOutcomeUnknown })
		require.Len(t, rare, 3)
		assert.Equal(t, []string{"begins", "first", "second"}, []string{rare[0].Reason, rare[1].Reason, rare[2].Reason})
		transport.Close()
	})
}

// In every flood, the last event of each kind is among those that Status shows.
func TestTheLastEventOfEachKindIsKept(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 2))
	for range 5 {
		var recent []Event
		last := make(map[EventKind]uint64)
		kinds := 1 + rng.IntN(int(EventRenewed)+1)
		for i := range uint64(1000) {
			kind := EventKind(rng.IntN(kinds))
			if rng.IntN(3) > 0 {
				kind = EventKind(rng.IntN(min(kinds, 3))) // a brown-out
			}
			last[kind] = i
			recent = appendRecent(recent, Event{Kind: kind, Generation: i})
			require.True(t, slices.IsSortedFunc(recent, func(a, b Event) int { return int(a.Generation) - int(b.Generation) }))
		}
		kept := make(map[EventKind]uint64)
		for _, e := range recent {
			kept[e.Kind] = e.Generation
		}
		assert.Equal(t, last, kept)
	}
}
