package failover_test

import (
	"bytes"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover"
	"github.com/d365failover/failover/failovertest"
)

func TestEventsComeInOrderOneAtATime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		org := failovertest.StartInMemory(nil)
		defer org.Close()
		var kinds []failover.EventKind
		var transport *failover.Transport
		inside := 0
		transport, err := failover.New(org.URL(), &failover.Config{
			Base: org.Transport(), Authorize: org.Authorize, Logger: slog.New(slog.DiscardHandler),
			OnEvent: func(e failover.Event) {
				inside++
				assert.Equal(t, 1, inside)
				time.Sleep(time.Second) // slow, and calls back
				_ = transport.Status()
				transport.Unpin()
				inside--
				kinds = append(kinds, e.Kind)
			},
		})
		require.NoError(t, err)
		transport.Pin(failover.Alternate)
		transport.Pin(failover.Primary)
		require.NoError(t, transport.Close(), "Close waits for OnEvent")
		assert.Equal(t, []failover.EventKind{
			failover.EventPinned, failover.EventSwitched, failover.EventTokensSuspect,
			failover.EventPinned, failover.EventSwitched, failover.EventTokensSuspect,
		}, kinds[:6])
	})
}

func TestEveryStateChangeIsLogged(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		org := failovertest.StartInMemory(nil)
		defer org.Close()
		var out bytes.Buffer
		client, transport, err := failover.Wrap(org.Client(), org.URL(), &failover.Config{
			Authorize: org.Authorize, Logger: slog.New(slog.NewTextHandler(&out, nil)),
		})
		require.NoError(t, err)
		org.Disaster(failovertest.Refuse())
		resp, err := client.Get(org.URL() + accounts)
		require.NoError(t, err)
		resp.Body.Close()
		transport.Close()
		assert.Contains(t, out.String(), `msg="failover: tripped" organization=contoso.api.crm.dynamics.com`)
		assert.Contains(t, out.String(), `msg="failover: switched"`)
		assert.Contains(t, out.String(), "from=primary to=alternate")
	})
}

// The logger gets only lines of the levels that it wants.
func TestLevelsOfTheLoggerAreKept(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	transport, err := failover.New("https://contoso.api.crm.dynamics.com", &failover.Config{
		Logger: slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelWarn})), ProbeInterval: -1,
	})
	require.NoError(t, err)
	transport.Pin(failover.Alternate)
	transport.Unpin()
	require.NoError(t, transport.Close())
	assert.Contains(t, out.String(), "failover: switched")
	assert.NotContains(t, out.String(), "level=INFO")
	assert.NotContains(t, out.String(), "level=DEBUG")
}
