package failover

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// member returns a Transport of a fleet without the goroutine that keeps it in step.
func member(t *testing.T, cfg Config) *Transport {
	cfg.ProbeInterval, cfg.Logger = -1, slog.New(slog.DiscardHandler)
	transport := newTestTransport(t, acknowledging, cfg)
	transport.fleet = &fleet{wake: make(chan struct{}, 1), status: FleetStatus{Member: "contoso"}}
	return transport
}

// What is to be done about a record, in every situation.
func TestWhatARecordAsksFor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		transport := member(t, Config{})
		f := transport.fleet
		flags := []bool{false, true}
		clock := time.Now()
		for _, known := range []Record{{}, {Version: 3, Generation: 0}, {Version: 3, Generation: 5}} {
			for _, generation := range []uint64{0, 4, 5, 6} {
				for _, version := range []uint64{0, 4} {
					for n := range 64 {
						away, untold, insisted := flags[n&1], flags[n>>1&1], flags[n>>2&1]
						pinned, closed, fenced := flags[n>>3&1], flags[n>>4&1], flags[n>>5&1]
						rec := Record{Version: version, Generation: generation, Since: clock}
						if away {
							rec.Active = Alternate
						}
						st := *transport.state.Load()
						st.pinned, st.closed = pinned, closed
						transport.state.Store(&st)
						f.known, f.untold, f.insisted, f.alone = known, untold, insisted, true
						transport.endpoints[rec.Active].fenced = fenced

						forgotten := known.Version != 0 && version == 0 || generation < known.Generation
						newer := generation > known.Generation
						_, next := transport.nextStep(rec, clock)
						switch {
						case closed:
							require.Equal(t, rest, next)
						case !away && !forgotten:
							require.Equal(t, rest, next, "in step")
							require.Equal(t, rec, f.known)
							require.False(t, f.untold || f.insisted || f.alone, "the fleet knows")
						case forgotten && !untold && !insisted:
							require.Equal(t, restore, next)
						case pinned:
							require.Equal(t, rest, next)
						case insisted || untold && !newer:
							require.Equal(t, tell, next)
						default:
							require.Equal(t, follow, next)
							require.Equal(t, fenced && !newer, transport.endpoints[rec.Active].fenced, "one of the fleet has seen more")
						}
						if next != rest {
							require.Equal(t, known, f.known)
							require.Equal(t, []bool{untold, insisted, true}, []bool{f.untold, f.insisted, f.alone})
						}
					}
				}
			}
		}
		open := *transport.state.Load()
		open.closed = false
		transport.state.Store(&open)
	})
}

// A store is lost with its first error, in reading or writing, and found once it has
// answered without one, each time within half a second, for 15 s.
func TestWhenAStoreIsLostAndFound(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var told []Event
		transport := member(t, Config{OnEvent: func(e Event) { told = append(told, e) }})
		refused := errors.New("connection refused")
		kinds := func() (kinds []EventKind) {
			synctest.Wait()
			for _, e := range told {
				kinds = append(kinds, e.Kind)
			}
			told = nil
			return kinds
		}
		use := func(note func(time.Time, error), after, takes time.Duration, err error) {
			time.Sleep(after)
			began := time.Now()
			time.Sleep(takes)
			note(began, err)
		}
		lost := func() bool {
			transport.mu.Lock()
			defer transport.mu.Unlock()
			return transport.fleet.status.Err != nil
		}
		const half, good = fleetTimeout / 2, foundAfter
		for _, way := range []struct{ bad, other func(time.Time, error) }{
			{transport.noteRead, transport.noteWrite}, {transport.noteWrite, transport.noteRead},
		} {
			use(way.other, 0, 0, nil)
			use(way.bad, 0, 2*fleetTimeout, nil)
			assert.Empty(t, kinds(), "slow is not lost")
			use(way.bad, 0, 0, refused)
			require.Equal(t, []EventKind{EventFleetLost}, kinds())
			assert.Len(t, transport.fleet.wake, 1, "it is looked at soon")
			<-transport.fleet.wake
			use(way.other, 0, 0, nil)
			use(way.other, 2*good, 0, nil)
			assert.True(t, lost(), "one of both works")
			use(way.bad, 0, 0, refused)
			assert.Empty(t, transport.fleet.wake)

			use(way.bad, 0, half+1, nil) // the time does not begin
			use(way.bad, 2*good, half, nil)
			assert.True(t, lost(), "from here on")
			use(way.other, good-1, 0, nil)
			assert.True(t, lost(), "not yet")
			use(way.bad, 0, half+1, nil)
			use(way.bad, good, 0, nil)
			assert.True(t, lost(), "it was slow, and the time began anew")
			use(way.other, good-half, half, nil)
			assert.False(t, lost())
			assert.Equal(t, []EventKind{EventFleetFound}, kinds())

			for n, want := range []time.Duration{2 * good, 4 * good, 8 * good, 8 * good} { // up to two minutes
				if n == 0 {
					use(way.bad, time.Hour, 0, refused)
				}
				use(way.bad, 0, 0, nil)
				use(way.bad, time.Second, 0, refused)
				use(way.bad, time.Second, 0, refused) // it did not answer well in between
				use(way.bad, time.Second, 0, nil)
				if n == 3 {
					use(way.bad, want-1, 0, nil)
					assert.True(t, lost(), "%d", n)
					use(way.bad, 1, 0, nil)
					assert.False(t, lost(), "%d", n)
				} else {
					use(way.bad, want-1, 0, nil)
					assert.True(t, lost(), "%d", n)
					use(way.bad, 0, half+1, nil) // or it would be found
					use(way.bad, 0, 0, refused)
				}
			}
			assert.Equal(t, []EventKind{EventFleetLost, EventFleetFound}, kinds())
		}
		transport.mu.Lock()
		assert.NoError(t, transport.fleet.failing())
		transport.mu.Unlock()
		transport.cancel()
		transport.noteRead(time.Now(), context.Canceled)
		assert.False(t, lost(), "the end of the Transport proves nothing")
		assert.NoError(t, transport.fleet.unread)
	})
}
