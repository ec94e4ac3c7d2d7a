package failover_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/d365failover/failover"
)

var (
	fleetSeed      = flag.Uint64("fleet.seed", 1, "seed of the first random schedule of a fleet")
	fleetSchedules = flag.Int("fleet.schedules", 40, "how many random schedules of a fleet are run")
)

// Whatever happens to the processes, their networks and the store: soon after the trouble is
// over, the whole fleet is at the endpoint that serves, and the record says so.
func TestAFleetComesTogetherAgain(t *testing.T) {
	t.Parallel()
	for n := range *fleetSchedules {
		seed := *fleetSeed + uint64(n)
		t.Run(fmt.Sprintf("-fleet.seed=%d", seed), func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 0))
			tellOfAFleet(t, 3, failover.Config{Quorum: random.IntN(3), AttemptTimeout: 2 * time.Second}, func(s *fleetStory) {
				for range 40 {
					s.anything(random)
				}
				s.comeTogether(random.IntN(2) == 0)
			})
		})
	}
}

// anything causes one random kind of trouble.
func (s *fleetStory) anything(random *rand.Rand) {
	p := s.fleet[random.IntN(len(s.fleet))]
	e := failover.Endpoint(random.IntN(2))
	switch random.IntN(17) {
	case 0:
		s.org.FailOver()
	case 1:
		s.org.FailBack()
		s.org.Alternate().Fence()
	case 2:
		p.cut[e].Store(true)
	case 3:
		p.cut[e].Store(false)
	case 4:
		s.store.Fail(errors.New("connection refused"))
	case 5:
		s.store.Fail(nil)
	case 6: // the store comes back empty
		s.store.Fail(nil)
		s.poison(failover.Record{})
	case 7:
		s.store.Fail(nil)
		s.poison(failover.Record{Active: e, Generation: max(1, s.record().Generation+uint64(random.IntN(3))), Since: time.Now(), By: "a stranger"})
	case 8:
		p.Close()
		s.fleet = slices.DeleteFunc(s.fleet, func(other *process) bool { return other == p })
		s.start()
	case 9:
		p.Switch(context.Background(), e, "by hand")
	case 10:
		p.Pin(e)
	case 11:
		p.Unpin()
	case 12:
		s.store.Skew(time.Duration(random.IntN(7200)-3600) * time.Second)
	case 13: // on its way to the store
		p.suffer([]func(context.Context) error{refuses, hangs, takes(700 * time.Millisecond), takes(1200 * time.Millisecond)}[random.IntN(4)])
	case 14:
		p.suffer(nil)
	case 15:
		p.Freeze(context.Background(), "by hand")
	case 16:
		p.Unfreeze(context.Background())
	}
	for _, p := range s.fleet {
		if random.IntN(2) == 0 {
			p.get()
		}
	}
	time.Sleep(time.Duration(random.ExpFloat64() * float64(time.Minute)))
}

// comeTogether ends all trouble, with the organization at one of its endpoints, and checks
// that the fleet finds it.
func (s *fleetStory) comeTogether(failedOver bool) {
	s.store.Fail(nil)
	home := failover.Primary
	if s.org.FailBack(); failedOver {
		s.org.FailOver()
		home = failover.Alternate
	} else {
		s.org.Alternate().Fence()
	}
	for _, p := range s.fleet {
		p.cut[failover.Primary].Store(false)
		p.cut[failover.Alternate].Store(false)
		p.Unpin()
		p.suffer(nil)
	}
	assert.NoError(s, s.fleet[0].Unfreeze(context.Background()))
	for range 40 { // of these requests, some fail until the fence is found
		time.Sleep(3 * time.Second)
		for _, p := range s.fleet {
			p.get()
		}
	}
	for _, p := range s.fleet {
		assert.Equal(s, 200, p.get(), p.name)
	}
	synctest.Wait()
	for _, p := range s.fleet {
		assert.Equal(s, home, p.active(), p.name)
		assert.NoError(s, p.Status().Fleet.Err, p.name)
	}
	s.allAt(home)
}
