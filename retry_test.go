package failover_test

import (
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover"
	"github.com/d365failover/failover/failovertest"
)

func TestAWriteInDoubtIsNotRepeatedAndSaysSo(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]failovertest.Failure{
		"reset after it was applied": failovertest.Reset(failovertest.AfterApply),
		"reset before the answer":    failovertest.Reset(failovertest.BeforeAnswer),
	} {
		t.Run(name, func(t *testing.T) {
			tell(t, failover.Config{}, func(s *story) {
				s.org.Alternate().Serve()
				s.org.Primary().Fail(f)
				_, err := s.create("Contoso")
				require.ErrorIs(s, err, failover.ErrOutcomeUnknown)
				assert.Equal(s, 1, deliveries(s.org.Primary(), http.MethodPost))
				assert.Equal(s, 0, deliveries(s.org.Alternate(), http.MethodPost))
				assert.Equal(s, 1, s.count(failover.EventOutcomeUnknown))
			})
		})
	}
}

func TestAThrottledRequestIsRepeatedIfTheWaitIsAllowed(t *testing.T) {
	tell(t, failover.Config{RetryThrottled: 30 * time.Second}, func(s *story) {
		s.org.Primary().FailNext(1, failovertest.Throttle(7*time.Second))
		start := time.Now()
		status, err := s.create("Contoso")
		require.NoError(s, err)
		assert.Equal(s, 204, status)
		assert.Equal(s, 7*time.Second, time.Since(start))

		s.org.Primary().FailNext(1, failovertest.Throttle(time.Minute))
		status, err = s.create("Contoso")
		require.NoError(s, err)
		assert.Equal(s, 429, status, "longer than allowed")
	})
}

func TestRepeatsAtOneEndpointAreBounded(t *testing.T) {
	tell(t, failover.Config{FailureThreshold: -1}, func(s *story) {
		s.org.Primary().Fail(failovertest.Status(503, nil, ""))
		for range 100 {
			assert.Equal(s, 503, s.get(accounts))
		}
		assert.Equal(s, 110, deliveries(s.org.Primary(), http.MethodGet), "a burst of ten repeats")

		s.org.Primary().Heal()
		for range 50 {
			s.get(accounts)
		}
		s.org.Primary().Fail(failovertest.Status(503, nil, ""))
		for range 100 {
			s.get(accounts)
		}
		assert.Equal(s, 110+50+105, deliveries(s.org.Primary(), http.MethodGet), "one more for ten good requests")
	})
}

func TestA503WithRetryAfterIsNotRepeatedHereButLeadsToADecision(t *testing.T) {
	tell(t, failover.Config{}, func(s *story) {
		s.org.Disaster(failovertest.Status(503, http.Header{"Retry-After": {"120"}}, ""))
		assert.Equal(s, 200, s.get(accounts))
		assert.Equal(s, 1, deliveries(s.org.Primary(), http.MethodGet))
		assert.Equal(s, failover.Alternate, s.active())
	})
}

func TestARequestThatIsAuthorizedDuringASwitchGoesToTheNewEndpoint(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var s *story
		s = newStory(t, nil, failover.Config{Authorize: func(req *http.Request) error {
			if req.Method == http.MethodPost {
				time.Sleep(time.Minute) // the token service is slow
			}
			return s.org.Authorize(req)
		}})
		defer s.close()
		var writer sync.WaitGroup
		writer.Go(func() {
			status, err := s.create("Contoso")
			assert.NoError(t, err)
			assert.Equal(t, 204, status)
		})
		synctest.Wait()
		s.org.FailOver()
		require.Equal(t, 200, s.get(accounts))
		require.Equal(t, failover.Alternate, s.active())
		writer.Wait()
		assert.Equal(t, 0, deliveries(s.org.Primary(), http.MethodPost))
		assert.Equal(t, 1, deliveries(s.org.Alternate(), http.MethodPost))
	})
}
