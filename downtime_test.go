package failover_test

import (
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover"
	"github.com/d365failover/failover/failovertest"
)

// goDown takes down the primary's region while the alternate is still fenced.
func (s *story) goDown() {
	s.Helper()
	s.org.Primary().Fail(failovertest.Refuse())
	_, err := s.try(s.Context(), http.MethodGet, s.org.URL()+accounts, "")
	require.ErrorIs(s, err, failover.ErrUnavailable)
	require.True(s, s.transport.Status().Down)
}

func TestTimeDownGrowsWhileDownAndEndsWithIt(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		reason string
		end    func(*story)
	}{
		"up":       {"the active endpoint passes its probe", func(s *story) { s.org.Primary().Heal() }},
		"switched": {"the other endpoint passes its probe", func(s *story) { s.org.FailOver() }},
		"pinned":   {"nothing is down while pinned", func(s *story) { s.transport.Pin(failover.Primary) }},
		"moved":    {"a pin that moves the traffic ends it once", func(s *story) { s.transport.Pin(failover.Alternate) }},
		"closed":   {"nobody is kept waiting by a closed Transport", func(s *story) { s.transport.Close() }},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			tell(t, failover.Config{}, func(s *story) {
				time.Sleep(time.Minute)
				assert.Zero(s, s.transport.Status().TimeDown)
				s.goDown()
				before := s.transport.Status().TimeDown
				time.Sleep(time.Minute)
				assert.Equal(s, before+time.Minute, s.transport.Status().TimeDown)

				test.end(s)
				time.Sleep(time.Minute) // longer than a round of probes
				sum := s.transport.Status().TimeDown
				assert.GreaterOrEqual(s, sum, before+time.Minute, test.reason)
				assert.Less(s, sum, before+time.Minute+10*time.Second, test.reason)
				time.Sleep(time.Hour)
				assert.Equal(s, sum, s.transport.Status().TimeDown, test.reason)
			})
		})
	}
}

func TestTimeDownIsTheSumOfOutages(t *testing.T) {
	tell(t, failover.Config{}, func(s *story) {
		for range 3 {
			s.goDown()
			time.Sleep(time.Minute)
			s.org.Primary().Heal()
			time.Sleep(time.Minute)
			require.False(s, s.transport.Status().Down)
		}
		assert.InDelta(s, 3*time.Minute, s.transport.Status().TimeDown, float64(3*10*time.Second))
	})
}

func TestEventsThatOnEventIsTooSlowForAreCounted(t *testing.T) {
	t.Parallel()
	org := failovertest.StartInMemory(nil)
	defer org.Close()
	release := make(chan struct{})
	told := 0
	transport, err := failover.New(org.URL(), &failover.Config{
		Base: org.Transport(), Authorize: org.Authorize, Logger: quiet,
		OnEvent: func(failover.Event) { told++; <-release },
	})
	require.NoError(t, err)
	var once sync.Once
	free := func() { once.Do(func() { close(release) }) }
	defer free()

	const switches = 800
	for i := range switches {
		transport.Pin(failover.Endpoint(1 - i%2))
		transport.Unpin()
	}
	lost := transport.Status().EventsDropped
	assert.LessOrEqual(t, lost, uint64(4*switches-1024), "1,024 wait")
	assert.GreaterOrEqual(t, lost, uint64(4*switches-2*1024), "and those at the most that OnEvent has begun with")
	free()
	transport.Close() // waits for OnEvent
	assert.EqualValues(t, 4*switches, uint64(told)+lost, "pinned, switched, tokens suspect, unpinned; Unpin keeps it from being latched")
}
