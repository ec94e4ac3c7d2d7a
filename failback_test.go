package failover_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover"
	"github.com/d365failover/failover/failovertest"
)

func TestFailBackWaitsForTheDwell(t *testing.T) {
	tell(t, failover.Config{MinDwell: 30 * time.Minute}, func(s *story) {
		s.org.Disaster(failovertest.Refuse())
		s.get(accounts)
		moved := s.transport.Status().Since
		s.org.Primary().Heal()
		s.org.Primary().Serve()
		time.Sleep(time.Hour)
		assert.Equal(s, failover.Primary, s.active())
		assert.Equal(s, 30*time.Minute, s.transport.Status().Since.Sub(moved))
	})
}

func TestTheDwellDoublesWithEveryFurtherSwitch(t *testing.T) {
	tell(t, failover.Config{MinDwell: 5 * time.Minute}, func(s *story) {
		var stays []time.Duration
		for range 2 {
			s.org.Disaster(failovertest.Refuse())
			s.get(accounts)
			require.Equal(s, failover.Alternate, s.active())
			moved := s.transport.Status().Since
			s.org.Primary().Heal()
			s.org.FailBack()
			s.org.Alternate().Serve() // both serve: only the dwell prevents the fail-back
			for s.active() == failover.Alternate {
				time.Sleep(time.Second)
			}
			stays = append(stays, s.transport.Status().Since.Sub(moved))
		}
		assert.Equal(s, []time.Duration{5 * time.Minute, 20 * time.Minute}, stays)
	})
}

// Both endpoints pass their probes, but answer requests with the fence.
func TestTwoFencesDoNotPassTrafficBackAndForth(t *testing.T) {
	tell(t, failover.Config{}, func(s *story) {
		s.org.Alternate().Serve()
		fence := failovertest.Status(503, http.Header{"Content-Type": {"application/json"}}, `{"error":{"code":"0x8004B065","message":"Not here."}}`)
		for _, side := range []*failovertest.Datacenter{s.org.Primary(), s.org.Alternate()} {
			side.FailWhen(func(r *http.Request) bool { return r.URL.Path == accounts }, fence)
		}
		for range 50 {
			assert.Equal(s, 503, s.get(accounts))
			time.Sleep(100 * time.Millisecond)
		}
		assert.EqualValues(s, 4, s.transport.Status().Generation)
	})
}

func TestTheFirstProbeOfAFailBackComesAfterTheInterval(t *testing.T) {
	tell(t, failover.Config{ProbeInterval: 10 * time.Second}, func(s *story) {
		s.org.FailOver()
		s.get(accounts)
		moved := time.Now()
		time.Sleep(13 * time.Second) // 10 s and up to a fifth more
		assert.InDelta(s, 10*time.Second, s.transport.Status().Primary.LastProbe.Sub(moved), float64(2*time.Second+1))
	})
}
