package failover

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// An answer that ends an outage ends it even if the state changes at the same moment.
func TestAnAnswerEndsAnOutageThatChangesMeanwhile(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var broken, armed atomic.Bool
		var transport *Transport
		transport = newTestTransport(t, &http.Transport{}, Config{
			ProbeInterval: -1,
			Probe:         func(context.Context, *http.Client, *url.URL) error { return errors.New("no answer") },
			Instrument: func(http.RoundTripper) http.RoundTripper {
				if armed.Swap(false) { // between two looks at the state
					transport.Unpin()
				}
				return roundTripFunc(func(req *http.Request) (*http.Response, error) {
					if broken.Load() {
						return nil, errors.New("connection reset")
					}
					return acknowledging(req)
				})
			},
		})
		broken.Store(true)
		for !transport.Status().Down {
			post(t, transport, "/api/data/v9.2/accounts", "", "", "")
			time.Sleep(time.Second)
		}
		now := time.Now()
		transport.mu.Lock()
		transport.rule.Remember(now, []time.Time{now, now, now, now})
		transport.mu.Unlock()
		addresses := &transport.endpoints[Primary].addresses
		addresses.see(&net.TCPAddr{IP: net.IPv4(192, 0, 2, 1)}, now)
		addresses.settle()
		addresses.see(&net.TCPAddr{IP: net.IPv4(192, 0, 2, 9)}, now) // so that new connections are made
		require.True(t, transport.Status().Latched)
		broken.Store(false)
		armed.Store(true)
		transport.answered(transport.state.Load(), nil)
		assert.False(t, armed.Load())
		assert.False(t, transport.Status().Latched)
		assert.False(t, transport.Status().Down)
		transport.Close()
	})
}

// A fault that the next answer clears changes neither the connections nor what the fleet knows.
func TestAFaultThatIsClearedChangesNothing(t *testing.T) {
	t.Parallel()
	pools := 0
	transport := newTestTransport(t, &http.Transport{}, Config{ProbeInterval: -1, Instrument: func(base http.RoundTripper) http.RoundTripper {
		pools++
		return base
	}})
	transport.fleet = &fleet{wake: make(chan struct{}, 1)}
	st, e := transport.state.Load(), &transport.endpoints[Primary]
	transport.mu.Lock()
	e.fault(&Fault{Class: ClassTransient})
	transport.mu.Unlock()
	w := new(sendWatch) // which saw a new connection
	w.seen.Store(sawGotConn)
	transport.answered(st, w)
	assert.False(t, e.suspect.Load())
	assert.Equal(t, 1, pools)
	assert.Same(t, st, transport.state.Load())
	assert.False(t, transport.fleet.untold)
}

// A change of the state ends the question whose answer it is, and no other.
func TestWhatEndsAQuestion(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for name, row := range map[string]struct {
			change func(*Transport)
			ends   bool
		}{
			"nothing":   {func(*Transport) {}, false},
			"down":      {func(f *Transport) { f.rule.Down = true }, false},
			"a verdict": {func(f *Transport) { f.rule.Epoch++ }, true},
			"a pin":     {func(f *Transport) { f.rule.Pinned = true }, true},
		} {
			transport := newTestTransport(t, acknowledging, Config{ProbeInterval: -1})
			ended := false
			transport.mu.Lock()
			transport.question = &question{cancel: func() { ended = true }}
			row.change(transport)
			transport.publishLocked(nil)
			assert.Equal(t, row.ends, ended, name)
			transport.question, transport.rule.Down = nil, false
			transport.publishLocked(nil)
			transport.mu.Unlock()
			transport.Close()
		}
	})
}

// Of outages within ten minutes, those after the first three are not reported at once.
func TestTenMinutesAfterAnOutageTheNextOneIsReported(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for since, untold := range map[time.Duration]bool{downQuiet - 1: true, downQuiet: false} {
			transport := newTestTransport(t, acknowledging, Config{ProbeInterval: -1})
			transport.mu.Lock()
			now := time.Now()
			transport.downs = []time.Time{now.Add(-since), now, now}
			transport.downLocked([2]*Fault{})
			assert.Equal(t, untold, transport.outage.untold, since)
			transport.outage = nil
			transport.mu.Unlock()
			transport.Close()
		}
	})
}
