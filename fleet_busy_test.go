package failover_test

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/d365failover/failover"
	"github.com/d365failover/failover/failovertest"
	"github.com/d365failover/failover/sharedtest"
)

// All of 200 processes have traffic, and the service carries out 52 requests at a time:
// a failover and a fail-back fail no request.
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
