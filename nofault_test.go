package failover_test

import (
	"context"
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

func TestWhatDoesNotCountMovesNothing(t *testing.T) {
	t.Parallel()
	answers := map[string]failovertest.Failure{
		"throttled":    failovertest.Throttle(7 * time.Second),
		"unauthorized": failovertest.Status(401, http.Header{"Www-Authenticate": {"Bearer"}}, ""),
		"a plug-in's 503": failovertest.Status(503, http.Header{"Content-Type": {"application/json"}},
			`{"error":{"code":"0x80040265","message":"The contoso plug-in wants a phone number."}}`),
		"validation as a 500": failovertest.Status(500, http.Header{"Content-Type": {"application/json"}},
			`{"error":{"code":"0x80040203","message":"Bad field."}}`),
		"not found": failovertest.Status(404, nil, ""),
	}
	for name, answer := range answers {
		t.Run(name, func(t *testing.T) {
			tell(t, failover.Config{}, func(s *story) {
				s.org.Alternate().Serve()
				s.org.Primary().Fail(answer)
				for range 10 {
					s.get(accounts)
				}
				assert.Empty(s, s.kinds())
				assert.Len(s, s.org.Primary().Deliveries(), 10, "sent once each")
				assert.Empty(s, s.org.Alternate().Deliveries())
			})
		})
	}
}

func TestACallerWhoGivesUpIsNoFault(t *testing.T) {
	tell(t, failover.Config{}, func(s *story) {
		s.org.Alternate().Serve()
		s.org.Primary().Fail(failovertest.Hang())
		for range 10 {
			ctx, cancel := context.WithCancel(s.Context())
			time.AfterFunc(time.Second, cancel)
			_, err := s.try(ctx, http.MethodGet, s.org.URL()+accounts, "")
			require.ErrorIs(s, err, context.Canceled)
			var failure *failover.Error
			require.ErrorAs(s, err, &failure)
			assert.Len(s, failure.Attempts, 1)
		}
		assert.Empty(s, s.kinds())
		assert.Equal(s, map[failover.Class]uint64{failover.ClassCanceled: 10}, s.transport.Status().Primary.Faults)
	})
}

func TestAnActionThatAlwaysFailsPagesNobody(t *testing.T) {
	tell(t, failover.Config{}, func(s *story) {
		s.org.Alternate().Serve()
		s.org.Primary().FailWhen(func(r *http.Request) bool { return r.URL.Path == accounts },
			failovertest.Status(500, http.Header{"Content-Type": {"application/json"}, "Odata-Version": {"4.0"}},
				`{"error":{"code":"","message":"An error has occurred.","innererror":{"message":"Exception occurred while executing action","type":"System.InvalidOperationException"}}}`))
		var again time.Duration // until the fault counts again
		began, probes := time.Now(), 0
		for range 200 {
			assert.Equal(s, 500, s.get(accounts))
			time.Sleep(5 * time.Second)
			n := deliveriesOf(s.org, whoAmI)
			if again == 0 && probes > 0 && n > probes {
				again = time.Since(began)
			}
			probes = n
		}
		assert.Equal(s, failover.Primary, s.active())
		assert.Zero(s, s.count(failover.EventTripped))
		assert.InDelta(s, 10*time.Minute, again, float64(11*time.Second), "explained by a probe that passed")
	})
}

func TestOnePoisonousQueryMovesNothing(t *testing.T) {
	tell(t, failover.Config{}, func(s *story) {
		s.org.Alternate().Serve()
		s.org.Primary().FailWhen(func(r *http.Request) bool { return r.URL.Path == accounts },
			failovertest.Status(504, nil, ""))
		for range 30 {
			assert.Equal(s, 504, s.get(accounts))
			time.Sleep(time.Second)
		}
		assert.Equal(s, failover.Primary, s.active())
		assert.Zero(s, s.count(failover.EventSwitched))
		probes := 0
		for _, r := range s.org.Primary().Deliveries() {
			if r.Path == whoAmI {
				probes++
			}
		}
		assert.NotZero(s, probes)
		assert.LessOrEqual(s, probes, 15, "one every few seconds")
	})
}

func TestAFaultFromBeforeTheSwitchChangesNothing(t *testing.T) {
	tell(t, failover.Config{}, func(s *story) {
		s.org.Primary().FailWhen(func(r *http.Request) bool { return r.URL.RawQuery == "slow" }, failovertest.Hang())
		ctx, cancel := context.WithTimeout(s.Context(), time.Minute)
		defer cancel()
		var late sync.WaitGroup
		for range 10 {
			late.Go(func() { s.try(ctx, http.MethodGet, s.org.URL()+accounts+"?slow", "") })
		}
		synctest.Wait()
		s.org.FailOver()
		s.get(accounts)
		require.Equal(s, failover.Alternate, s.active())
		late.Wait() // ten faults of the primary, from generation 0
		assert.Equal(s, failover.StateClosed, s.transport.Status().Alternate.State)
		assert.Equal(s, 1, s.count(failover.EventSwitched))
		assert.Equal(s, 1, s.count(failover.EventTripped))
	})
}
