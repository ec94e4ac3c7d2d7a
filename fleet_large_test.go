package failover_test

import (
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover"
	"github.com/d365failover/failover/failovertest"
	"github.com/d365failover/failover/sharedtest"
)

// All of 200 processes have traffic, and the service handles 52 requests at a time. A failover
// and a fail-back fail no request.
func TestALargeBusyFleetLosesNoRequest(t *testing.T) {
	const n = 200
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &fleetStory{T: t, org: failovertest.StartInMemory(&failovertest.Config{MaxConcurrent: 52}), store: new(sharedtest.Memory)}
		defer s.org.Close()
		for range n {
			s.start()
		}
		s.org.Primary().SetLatency(50 * time.Millisecond)
		s.org.Alternate().SetLatency(50 * time.Millisecond)
		var done atomic.Bool
		var wg sync.WaitGroup
		var statuses [600]atomic.Int64
		for i, p := range s.fleet {
			random := rand.New(rand.NewPCG(1, uint64(i)))
			wg.Go(func() {
				for !done.Load() {
					time.Sleep(time.Duration(random.Int64N(int64(4 * time.Second))))
					statuses[p.get()].Add(1)
				}
			})
		}
		defer func() {
			done.Store(true)
			wg.Wait()
			for _, p := range s.fleet {
				p.Close()
			}
		}()
		count := func(when string) {
			s.Helper()
			for status := range statuses {
				if made := statuses[status].Swap(0); made > 0 {
					s.Logf("%s: %d requests ended with %d", when, made, status)
					assert.Equal(s, 200, status, when)
				}
			}
		}
		time.Sleep(5 * time.Second)
		count("before")
		s.org.FailOver()
		time.Sleep(10 * time.Second)
		count("there")
		s.allAt(failover.Alternate)
		s.org.FailBack()
		time.Sleep(10 * time.Second)
		count("back")
		s.allAt(failover.Primary)
	})
}

// A record with the largest generation is a record like any other. Deleting it is enough to be
// rid of it.
func TestNoGenerationIsTheLast(t *testing.T) {
	for name, poison := range map[string]failover.Record{
		"agreed":  {Active: failover.Primary, Generation: math.MaxUint64},
		"a lie":   {Active: failover.Alternate, Generation: math.MaxUint64},
		"halfway": {Active: failover.Primary, Generation: 1 << 62},
		"behind":  {Active: failover.Primary, Generation: 1<<63 + 5},
	} {
		t.Run(name, func(t *testing.T) {
			tellOfAFleet(t, 3, failover.Config{}, func(s *fleetStory) {
				poison.By, poison.Since = "a stranger", time.Now()
				s.poison(poison)
				s.poison(failover.Record{}) // the key is deleted
				time.Sleep(2 * time.Minute)
				s.allAt(failover.Primary)
				s.org.FailOver()
				assert.Equal(s, 200, s.fleet[0].get())
				s.allAt(failover.Alternate)

				s.poison(failover.Record{Active: failover.Alternate, Generation: math.MaxUint64, Since: time.Now()}) // not deleted
				s.org.FailBack()
				s.org.Alternate().Fence()
				assert.Equal(s, 200, s.fleet[1].get())
				s.allAt(failover.Primary)
				assert.NoError(s, s.fleet[2].Status().Fleet.Err)
			})
		})
	}
}

func TestAFrozenFleetMovesByHandOnly(t *testing.T) {
	tellOfAFleet(t, 3, failover.Config{}, func(s *fleetStory) {
		require.NoError(s, s.fleet[2].Freeze(s.Context(), "migration"))
		s.settle()
		s.org.FailOver()
		assert.NotEqual(s, 200, s.fleet[0].get())
		s.settle()
		refused, n := s.fleet[0].last(failover.EventSwitchRefused)
		require.Positive(s, n)
		assert.Equal(s, "the fleet is frozen: migration", refused.Reason)
		late := s.start()
		assert.NotEqual(s, 200, late.get())
		s.poison(failover.Record{}) // the store loses its record
		s.allAt(failover.Primary)
		time.Sleep(2 * time.Minute)
		assert.Equal(s, "migration", s.record().Frozen)
		assert.Equal(s, "migration", s.fleet[1].Status().Fleet.Record.Frozen)

		require.NoError(s, s.fleet[1].Switch(s.Context(), failover.Alternate, "by hand"))
		s.allAt(failover.Alternate)
		s.org.FailBack()
		s.org.Alternate().Serve()
		time.Sleep(20 * time.Minute)
		s.allAt(failover.Alternate)
		require.NoError(s, late.Unfreeze(s.Context()))
		time.Sleep(time.Minute)
		s.allAt(failover.Primary)

		s.fleet[0].suffer(refuses)
		assert.ErrorContains(s, s.fleet[0].Freeze(s.Context(), ""), "connection refused")
		s.fleet[1].Close()
		assert.ErrorIs(s, s.fleet[1].Unfreeze(s.Context()), failover.ErrClosed)
	})
}

// 200 processes follow one, there and back, while the service handles 52 requests at a time:
// it turns none away.
func TestALargeFleetFollowsWithoutAStampede(t *testing.T) {
	const n = 200
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &fleetStory{T: t, org: failovertest.StartInMemory(&failovertest.Config{MaxConcurrent: 52}), store: new(sharedtest.Memory)}
		defer s.org.Close()
		for range n {
			s.start()
		}
		defer func() {
			for _, p := range s.fleet {
				p.Close()
			}
		}()
		s.org.Primary().SetLatency(50 * time.Millisecond)
		s.org.Alternate().SetLatency(50 * time.Millisecond)
		check := func(to failover.Endpoint, from time.Time) {
			s.Helper()
			var probed []time.Time
			for i, p := range s.fleet {
				assert.Equal(s, to, p.active(), p.name)
				moved := p.Status().Since.Sub(from)
				assert.LessOrEqual(s, moved, time.Second, p.name)
				for _, e := range p.Status().Events {
					assert.NotEqual(s, failover.EventSwitchRefused, e.Kind, "%s: %v", p.name, e.Reason)
				}
				p.mu.Lock()
				for _, e := range p.events {
					if i > 0 && e.Kind == failover.EventProbed && !e.Time.Before(from) {
						probed = append(probed, e.Time)
						assert.NoError(s, e.Err)
					}
				}
				p.mu.Unlock()
			}
			assert.GreaterOrEqual(s, len(probed), n-1)
			slices.SortFunc(probed, time.Time.Compare)
			for i := range probed {
				within := 0
				for ; i+within < len(probed) && probed[i+within].Sub(probed[i]) < 100*time.Millisecond; within++ {
				}
				assert.LessOrEqual(s, within, 50, "probes within 100 ms")
			}
		}
		s.org.FailOver()
		assert.Equal(s, 200, s.fleet[0].get())
		start := s.fleet[0].Status().Since
		time.Sleep(time.Second)
		synctest.Wait()
		check(failover.Alternate, start)
		for _, p := range s.fleet {
			assert.Equal(s, 200, p.get())
		}

		s.org.FailBack()
		s.org.Alternate().Serve()
		require.NoError(s, s.fleet[0].Switch(s.Context(), failover.Primary, "home"))
		start = s.fleet[0].Status().Since
		time.Sleep(time.Second)
		synctest.Wait()
		check(failover.Primary, start)
		for _, p := range s.fleet {
			assert.Equal(s, 200, p.get())
		}
	})
}
