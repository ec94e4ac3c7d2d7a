package failover_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover"
	"github.com/d365failover/failover/failovertest"
)

func TestAQuorumKeepsAProcessFromMovingTheFleetAlone(t *testing.T) {
	tellOfAFleet(t, 3, failover.Config{Quorum: 2}, func(s *fleetStory) {
		s.org.Alternate().Serve() // to pass its probe
		alone := s.fleet[0]
		alone.cut[failover.Primary].Store(true)
		assert.Equal(s, 0, alone.get())
		assert.Equal(s, failover.Primary, alone.active())
		refused, n := alone.last(failover.EventSwitchRefused)
		require.Equal(s, 1, n)
		assert.Contains(s, refused.Reason, "seen by 1 of the 2 processes required")
		synctest.Wait()
		assert.Equal(s, []string{"process A"}, alone.Status().Fleet.Witnesses)
		time.Sleep(2 * time.Minute)
		assert.Empty(s, alone.Status().Fleet.Witnesses, "that was long ago")

		alone.get()
		s.fleet[1].cut[failover.Primary].Store(true)
		assert.Equal(s, 200, s.fleet[1].get(), "it is the second one")
		s.allAt(failover.Alternate)
	})
}

func TestTheWayOutOfDownNeedsItsQuorum(t *testing.T) {
	tellOfAFleet(t, 3, failover.Config{Quorum: 2}, func(s *fleetStory) {
		alone := s.fleet[0]
		alone.cut[failover.Primary].Store(true)
		alone.cut[failover.Alternate].Store(true)
		alone.get()
		require.True(s, alone.Status().Down)
		s.org.Alternate().Serve()
		alone.cut[failover.Alternate].Store(false)
		time.Sleep(5 * time.Minute)
		assert.True(s, alone.Status().Down, "its own network, and nobody else's")
		_, n := alone.last(failover.EventSwitchRefused)
		assert.Equal(s, 1, n, "said once")
		assert.Zero(s, s.record().Generation)
		assert.NotEmpty(s, alone.Status().Fleet.Witnesses, "still a witness")

		s.fleet[1].cut[failover.Primary].Store(true)
		assert.Equal(s, 200, s.fleet[1].get())
		s.allAt(failover.Alternate)
	})
}

func TestAFenceNeedsNoQuorum(t *testing.T) {
	tellOfAFleet(t, 1, failover.Config{Quorum: 3}, func(s *fleetStory) {
		s.org.FailOver()
		assert.Equal(s, 200, s.fleet[0].get())
		s.allAt(failover.Alternate)
	})
}

func TestAProcessAloneWithAnOutageCanBeRecognized(t *testing.T) {
	tellOfAFleet(t, 2, failover.Config{}, func(s *fleetStory) {
		s.fleet[0].cut[failover.Primary].Store(true)
		s.fleet[0].get()
		synctest.Wait()
		assert.True(s, s.fleet[0].Status().Down, "the standby does not serve")
		assert.Equal(s, []string{"process A"}, s.fleet[0].Status().Fleet.Witnesses)
		assert.Empty(s, s.fleet[1].Status().Fleet.Witnesses)
		assert.Equal(s, 200, s.fleet[1].get())

		s.fleet[1].cut[failover.Primary].Store(true)
		s.fleet[1].get()
		time.Sleep(30 * time.Second)
		assert.Equal(s, []string{"process A", "process B"}, s.fleet[0].Status().Fleet.Witnesses, "not alone any more")
	})
}

func TestAWitnessOfOneEndpointIsNoneOfTheOther(t *testing.T) {
	tellOfAFleet(t, 2, failover.Config{}, func(s *fleetStory) {
		s.org.Alternate().Serve()
		s.fleet[0].cut[failover.Primary].Store(true)
		assert.Equal(s, 200, s.fleet[0].get())
		s.allAt(failover.Alternate)
		time.Sleep(20 * time.Second)
		fleet := s.fleet[0].Status().Fleet
		assert.Equal(s, failover.Primary, fleet.Failed)
		assert.Equal(s, []string{"process A"}, fleet.Witnesses, "it was alone with it")
		others, err := s.store.Claim(s.Context(), "contoso.api.crm.dynamics.com", failover.Claim{Topic: "outage of the alternate", Member: "a test", TTL: time.Second})
		require.NoError(s, err)
		assert.Equal(s, []string{"a test"}, others.Names)
	})
}

func TestADecisionThatAPersonEndsMakesNoWitness(t *testing.T) {
	tellOfAFleet(t, 1, failover.Config{AttemptTimeout: time.Second}, func(s *fleetStory) {
		s.org.Disaster(failovertest.BlackHole())
		s.org.Alternate().Fail(failovertest.BlackHole())
		go s.fleet[0].get()
		time.Sleep(4 * time.Second)
		s.fleet[0].Pin(failover.Alternate)
		synctest.Wait()
		assert.Empty(s, s.fleet[0].Status().Fleet.Witnesses)
	})
}

// A broken network often cuts off the store as well. A process that then switches alone does
// not take the others along when the store is back; nor does one whose store is slow.
func TestASwitchMadeAloneIsNotFollowed(t *testing.T) {
	for name, trouble := range map[string]func(context.Context) error{
		"refused": refuses, "hangs": hangs, "slow": takes(1200 * time.Millisecond),
	} {
		t.Run(name, func(t *testing.T) {
			tellOfAFleet(t, 10, failover.Config{Quorum: 3}, func(s *fleetStory) {
				s.org.Alternate().Serve()
				alone, others := s.fleet[0], s.fleet[1:]
				alone.cut[failover.Primary].Store(true)
				alone.suffer(trouble)
				alone.get()
				for range 20 {
					alone.get()
					time.Sleep(3 * time.Second)
				}
				assert.Equal(s, failover.Alternate, alone.active(), "on its own")
				alone.suffer(nil)
				for range 40 {
					alone.get()
					time.Sleep(3 * time.Second)
				}
				for _, p := range others {
					assert.Equal(s, failover.Primary, p.active(), p.name)
				}
				assert.Zero(s, s.record().Generation, "nothing was told")
				assert.True(s, alone.Status().Fleet.Apart)

				alone.cut[failover.Primary].Store(false)
				time.Sleep(90 * time.Second)
				s.allAt(failover.Primary)
			})
		})
	}
}

// The others learn of a switch that a process made alone once enough of them have seen the
// same outage.
func TestASwitchMadeAloneIsAnnouncedOnceThereIsAQuorum(t *testing.T) {
	tellOfAFleet(t, 5, failover.Config{Quorum: 3}, func(s *fleetStory) {
		s.fleet[0].suffer(refuses)
		time.Sleep(2 * time.Minute)
		s.org.Disaster(failovertest.Refuse())
		assert.Equal(s, 200, s.fleet[0].get())
		s.fleet[0].suffer(nil)
		time.Sleep(10 * time.Second)
		s.allAt(failover.Alternate)
		assert.EqualValues(s, 1, s.record().Generation)
	})
}

// One process has traffic, and nine have none. They are asked, and probe for themselves.
func TestAQuorumIsThereWithoutTraffic(t *testing.T) {
	for name, quorum := range map[string]int{"two": 2, "all": 10} {
		t.Run(name, func(t *testing.T) {
			tellOfAFleet(t, 10, failover.Config{Quorum: quorum}, func(s *fleetStory) {
				s.org.Disaster(failovertest.Refuse())
				start := time.Now()
				assert.Equal(s, 200, s.fleet[0].get())
				assert.LessOrEqual(s, time.Since(start), 3*time.Second)
				s.allAt(failover.Alternate)
				assert.EqualValues(s, 1, s.record().Generation)
				for _, p := range s.fleet[1:] {
					assert.LessOrEqual(s, p.probes(failover.Primary), 1, p.name)
				}
			})
		})
	}
}

// In a black hole, the others take as long to see the outage as the first one.
func TestAQuorumFindsABlackHole(t *testing.T) {
	tellOfAFleet(t, 10, failover.Config{Quorum: 2, AttemptTimeout: 2 * time.Second}, func(s *fleetStory) {
		s.org.Disaster(failovertest.BlackHole())
		start := time.Now()
		for s.fleet[0].get() != 200 && time.Since(start) < time.Minute {
			time.Sleep(100 * time.Millisecond)
		}
		assert.Less(s, time.Since(start), 30*time.Second)
		s.allAt(failover.Alternate)
	})
}

// A process whose own network is broken asks the others, who see no outage. It asks at growing
// intervals, so that it does not burden them for ever.
func TestAProcessAloneWithAnOutageDoesNotKeepAsking(t *testing.T) {
	tellOfAFleet(t, 10, failover.Config{Quorum: 3}, func(s *fleetStory) {
		s.org.Alternate().Serve()
		s.fleet[0].cut[failover.Primary].Store(true)
		for range 600 {
			s.fleet[0].get()
			time.Sleep(time.Second)
		}
		for _, p := range s.fleet[1:] {
			assert.LessOrEqual(s, p.probes(failover.Primary), 18, p.name)
			assert.Equal(s, failover.Primary, p.active())
		}
	})
}

// A process that follows late, just as the fleet returns to the primary, must not take its own
// switch for a contradiction.
func TestALateFollowerAnnouncesNothing(t *testing.T) {
	for i := range 20 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			tellOfAFleet(t, 5, failover.Config{MinDwell: -1, Rise: 2, ProbeInterval: 500 * time.Millisecond, MaxProbeInterval: time.Second}, func(s *fleetStory) {
				late := s.fleet[3]
				late.cut[failover.Alternate].Store(true)
				s.org.Disaster(failovertest.Refuse())
				s.fleet[0].get()
				time.Sleep(1200 * time.Millisecond)
				late.cut[failover.Alternate].Store(false)
				assert.Equal(s, 200, late.get())
				time.Sleep(time.Duration(i) * 10 * time.Millisecond)
				s.org.Primary().Heal()
				s.org.FailBack()
				time.Sleep(10 * time.Second)
				s.allAt(failover.Primary)
				assert.EqualValues(s, 2, s.record().Generation, "there and back")
			})
		})
	}
}
