package failover

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover/internal/rule"
)

// Manual actions that change nothing are not reported, and after Close there is no action.
func TestManualActionsThatChangeNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var told []string
		var asked context.Context
		transport := newTestTransport(t, new(closings), Config{ProbeInterval: -1, ProbeTimeout: -1, MinDwell: time.Hour,
			Probe: func(ctx context.Context, _ *http.Client, _ *url.URL) error { asked = ctx; return nil },
			OnEvent: func(e Event) {
				if e.Kind != EventProbed && e.Kind != EventTokensSuspect {
					told = append(told, fmt.Sprintf("%v at the %v %.10s", e.Kind, e.To, e.Reason))
				}
				assert.LessOrEqual(t, len(e.Reason), maxErrorText)
			}})
		defer transport.Close()
		events := func() []string {
			synctest.Wait()
			list := told
			told = nil
			return list
		}
		transport.Pin(7)
		transport.Unpin()
		assert.EqualError(t, transport.Switch(t.Context(), 7, "drill"), "failover: no such endpoint: 7")
		assert.Empty(t, events())
		assert.Equal(t, Primary, transport.Status().Active)

		transport.Pin(Primary)
		transport.Pin(Primary)
		assert.Equal(t, []string{"pinned at the primary by hand"}, events())
		transport.Pin(Alternate)
		transport.Pin(Alternate)
		assert.Equal(t, []string{"pinned at the alternate by hand", "switched at the alternate pinned by "}, events())
		transport.Unpin()
		transport.Unpin()
		assert.Equal(t, []string{"unpinned at the alternate by hand"}, events())

		long := "drill" + strings.Repeat(" drill", maxErrorText)
		require.NoError(t, transport.Switch(t.Context(), Primary, long))
		assert.Equal(t, []string{"switched at the primary drill dril"}, events())
		assert.Error(t, asked.Err(), "nothing is left of the probe")

		transport.Pin(Primary)
		events()
		transport.Close()
		before := transport.Status()
		transport.Unpin()
		transport.Pin(Alternate)
		assert.Equal(t, ErrClosed, transport.Switch(t.Context(), Alternate, "drill"))
		transport.mu.Lock()
		transport.emit(Event{Kind: EventTripped})
		transport.mu.Unlock()
		assert.Equal(t, before, transport.Status())
		assert.True(t, before.Pinned && before.Closed)
		assert.Empty(t, events())
	})
}

// Switching by hand to the endpoint of a provisional switch confirms it.
func TestASwitchToWhereTheTrafficIsConfirmsIt(t *testing.T) {
	t.Parallel()
	transport := newTestTransport(t, new(closings), Config{ProbeInterval: -1, Probe: func(context.Context, *http.Client, *url.URL) error { return nil }})
	transport.mu.Lock()
	transport.rule.SwitchTo(time.Now(), rule.Alternate, true)
	transport.publishLocked(nil)
	transport.mu.Unlock()
	require.True(t, transport.Status().Provisional)
	require.NoError(t, transport.Switch(t.Context(), Alternate, "drill"))
	assert.False(t, transport.Status().Provisional)
}

// A Transport that is closed during a manual switch no longer switches.
func TestCloseInTheMiddleOfASwitch(t *testing.T) {
	t.Parallel()
	var transport *Transport
	calls := 0
	transport = newTestTransport(t, new(http.Transport), Config{ProbeInterval: -1,
		Probe: func(context.Context, *http.Client, *url.URL) error { return nil },
		Instrument: func(rt http.RoundTripper) http.RoundTripper {
			if calls++; calls == 2 { // the connections of the endpoint to be switched to
				transport.Close()
			}
			return rt
		}})
	assert.Equal(t, ErrClosed, transport.Switch(t.Context(), Alternate, "drill"))
	assert.Equal(t, Primary, transport.Status().Active)
	assert.Equal(t, 2, calls)
}

// Status shares no memory with the state of the fleet, and lists witnesses for a minute. A
// manual switch of a pinned Transport is not imposed on the fleet.
func TestStatusOfAFleetIsACopy(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		transport := newTestTransport(t, new(closings), Config{ProbeInterval: -1, Probe: func(context.Context, *http.Client, *url.URL) error { return nil }})
		f := &fleet{witnessed: time.Now().Add(time.Minute), status: FleetStatus{
			Record: Record{Active: Alternate, Earlier: []time.Time{time.Now()}}, Failed: Primary, Witnesses: []string{"a", "b"}, WitnessCount: 2,
		}}
		transport.fleet = f
		status := transport.Status().Fleet
		assert.True(t, status.Apart)
		status.Apart = false
		assert.Equal(t, f.status, *status)
		status.Record.Earlier[0], status.Witnesses[0] = time.Time{}, "x"
		assert.NotEqual(t, f.status, *status)
		assert.Equal(t, "a", f.status.Witnesses[0])
		assert.False(t, f.status.Record.Earlier[0].IsZero())
		time.Sleep(time.Minute - 1)
		assert.Equal(t, 2, transport.Status().Fleet.WitnessCount)
		time.Sleep(time.Nanosecond)
		status = transport.Status().Fleet
		assert.Zero(t, status.WitnessCount)
		assert.Empty(t, status.Witnesses)

		for _, pinned := range []bool{true, false} {
			if transport.rule.Unpin(); pinned {
				transport.Pin(Primary)
			}
			f.insisted = false
			require.NoError(t, transport.Switch(t.Context(), Primary, "drill"))
			assert.Equal(t, !pinned, f.insisted)
		}
		transport.fleet = nil
		transport.Close()
	})
}

// A pool is retired once, however often its Transport is closed.
func TestClosingAgainDoesNothing(t *testing.T) {
	t.Parallel()
	transport := newTestTransport(t, nil, Config{ProbeInterval: -1})
	require.NoError(t, transport.Close())
	st := transport.state.Load()
	closing := st.pool.closing
	require.NotNil(t, closing)
	require.NoError(t, transport.Close())
	assert.Same(t, st, transport.state.Load())
	assert.Same(t, closing, st.pool.closing)
}
