package failover

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Whoever releases the latch, and why, is told; an Unpin that changes nothing is not.
func TestUnpinTellsWhenItReleasesTheLatch(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var told []string
		transport := newTestTransport(t, acknowledging, Config{ProbeInterval: -1, OnEvent: func(e Event) {
			if e.Kind == EventUnpinned {
				told = append(told, e.Reason)
			}
		}})
		transport.unpin("changes nothing")
		now := time.Now()
		transport.mu.Lock()
		transport.rememberLocked([]time.Time{now, now, now, now})
		transport.mu.Unlock()
		require.True(t, transport.Status().Latched)
		transport.unpin("INC-4711")
		assert.False(t, transport.Status().Latched)
		transport.unpin("changes nothing")
		transport.Pin(Primary)
		transport.unpin("INC-4712")
		synctest.Wait()
		assert.Equal(t, []string{"INC-4711", "INC-4712"}, told)
		transport.Close()
	})
}
