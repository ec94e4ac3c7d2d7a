package failover_test

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover"
	"github.com/d365failover/failover/failovertest"
)

func TestOneProcessAtATimeProbesForTheFailBack(t *testing.T) {
	tellOfAFleet(t, 4, failover.Config{}, func(s *fleetStory) {
		s.org.FailOver()
		s.fleet[0].get()
		s.allAt(failover.Alternate)
		before := s.probes(failover.Primary)
		time.Sleep(10 * time.Minute)
		assert.LessOrEqual(s, s.probes(failover.Primary)-before, 40, "one in a turn of 15 s, whose ever it is")
		for _, p := range s.fleet { // whose turn it is depends on chance
			for minutes := 0; p.probes(failover.Primary) < 2; minutes++ {
				require.Less(s, minutes, 120, "the turn goes round")
				time.Sleep(time.Minute)
			}
		}

		s.org.FailBack()
		s.org.Alternate().Serve()
		time.Sleep(15 * time.Minute)
		s.allAt(failover.Primary)
		assert.EqualValues(s, 2, s.record().Generation)
	})
}

func TestTheTurnPassesWhenItsHolderDies(t *testing.T) {
	for _, death := range []string{"crash", "close"} {
		t.Run(death, func(t *testing.T) {
			tellOfAFleet(t, 3, failover.Config{MinDwell: 20 * time.Minute}, func(s *fleetStory) {
				s.org.FailOver()
				s.fleet[0].get()
				s.allAt(failover.Alternate)
				s.org.FailBack()
				s.org.Alternate().Serve()
				time.Sleep(10 * time.Minute)
				holder := -1
				for i, p := range s.fleet {
					if p.Status().Primary.State == failover.StateClosed {
						require.Equal(s, -1, holder, "one holder")
						holder = i
					}
				}
				require.NotEqual(s, -1, holder, "good probes keep the turn")
				if death == "close" {
					s.fleet[holder].Close()
				} else {
					s.fleet[holder].cut[failover.Primary].Store(true)
					s.fleet[holder].Pin(failover.Alternate) // it stops probing and claiming
				}
				time.Sleep(20 * time.Minute)
				for i, p := range s.fleet {
					if i != holder {
						assert.Equal(s, failover.Primary, p.active(), p.name)
					}
				}
			})
		})
	}
}

func TestAProcessThatIsNotToGoBackDoesNotKeepTheFleetAway(t *testing.T) {
	tellOfAFleet(t, 0, failover.Config{}, func(s *fleetStory) {
		s.cfg.ManualFailback = true
		s.start()
		s.org.FailOver()
		s.fleet[0].get()
		s.org.FailBack()
		s.org.Alternate().Serve()
		time.Sleep(20 * time.Minute) // its turn ends now and then
		s.cfg.ManualFailback = false
		s.start()
		time.Sleep(20 * time.Minute)
		s.allAt(failover.Primary)
	})
}

func TestAProcessThatCannotReachThePrimaryDoesNotKeepTheFleetAway(t *testing.T) {
	tellOfAFleet(t, 3, failover.Config{}, func(s *fleetStory) {
		s.org.FailOver()
		s.fleet[0].get()
		s.allAt(failover.Alternate)
		s.fleet[0].cut[failover.Primary].Store(true)
		s.org.FailBack()
		s.org.Alternate().Serve()
		time.Sleep(20 * time.Minute)
		assert.Equal(s, failover.Alternate, s.fleet[0].active(), "it cannot follow")
		assert.True(s, s.fleet[0].Status().Fleet.Apart)
		assert.Equal(s, failover.Primary, s.fleet[1].active())
		assert.Equal(s, failover.Primary, s.fleet[2].active())
		assert.EqualValues(s, 2, s.record().Generation, "and it does not drag the fleet back")

		s.fleet[0].cut[failover.Primary].Store(false)
		time.Sleep(2 * time.Minute)
		s.allAt(failover.Primary)
	})
}

func TestDwellAndLatchCountForTheFleet(t *testing.T) {
	tellOfAFleet(t, 2, failover.Config{MinDwell: -1, ProbeInterval: time.Second, MaxProbeInterval: time.Second}, func(s *fleetStory) {
		s.org.Alternate().Serve()
		s.store.Skew(3 * time.Hour)
		for i := range 2 { // each process is the first to switch once
			s.org.Primary().Fail(failovertest.Refuse())
			assert.Equal(s, 200, s.fleet[i].get())
			s.allAt(failover.Alternate)
			s.org.Primary().Heal()
			time.Sleep(time.Minute)
			s.allAt(failover.Primary)
		}
		assert.EqualValues(s, 4, s.record().Generation)
		assert.Len(s, s.record().Earlier, 3)
		late := s.start()
		s.org.Primary().Fail(failovertest.OutagePage())
		for _, p := range s.fleet {
			assert.True(s, p.Status().Latched, p.name)
			assert.Equal(s, 503, p.get(), p.name)
			assert.Equal(s, failover.Primary, p.active(), p.name)
		}
		require.NoError(s, late.Switch(s.Context(), failover.Alternate, "by hand"))
		s.allAt(failover.Alternate)
		for _, p := range s.fleet {
			assert.False(s, p.Status().Latched, "a hand has cleared it for all")
		}
	})
}

func TestTheDwellGoesOnWhereTheProcessThatCountedItEnds(t *testing.T) {
	tellOfAFleet(t, 1, failover.Config{}, func(s *fleetStory) {
		s.org.FailOver()
		s.fleet[0].get()
		synctest.Wait()
		start := time.Now()
		s.org.FailBack()
		s.org.Alternate().Serve()
		time.Sleep(4 * time.Minute)
		s.fleet[0].Close()
		late := s.start()
		require.Equal(s, failover.Alternate, late.active())
		for late.active() == failover.Alternate {
			time.Sleep(time.Second)
		}
		assert.InDelta(s, 5, time.Since(start).Minutes(), 0.8)
	})
}

// Processes that live for 30 s and are then killed bring the traffic back together, although
// none of them sees Rise passed probes.
func TestShortLivesDoNotKeepTheFleetAway(t *testing.T) {
	tellOfAFleet(t, 0, failover.Config{}, func(s *fleetStory) {
		lives := make(map[*process]time.Time)
		tend := func() { // three at a time, a new one every ten seconds
			for p, born := range lives {
				if time.Since(born) >= 30*time.Second { // killed, not closed
					p.suffer(refuses)
					p.cut[failover.Primary].Store(true)
					p.cut[failover.Alternate].Store(true)
					p.Close()
					delete(lives, p)
				}
			}
			lives[s.start()] = time.Now()
		}
		tend()
		s.org.FailOver()
		start := time.Now()
		assert.Equal(s, 200, s.fleet[0].get())
		for time.Since(start) < 2*time.Minute {
			time.Sleep(10 * time.Second)
			tend()
		}
		s.org.FailBack()
		s.org.Alternate().Serve()
		for s.record().Active == failover.Alternate && time.Since(start) < 10*time.Minute {
			time.Sleep(10 * time.Second)
			tend()
		}
		assert.LessOrEqual(s, time.Since(start), 6*time.Minute, "dwell and a minute")
		last := start
		var times []time.Time
		for _, p := range s.fleet {
			p.mu.Lock()
			for _, e := range p.events {
				if e.Kind == failover.EventProbed && e.From == failover.Primary && e.Time.After(start) {
					times = append(times, e.Time)
				}
			}
			p.mu.Unlock()
		}
		slices.SortFunc(times, time.Time.Compare)
		// The worst: an interval (10 s and jitter) after its probe, a process takes the turn (15 s)
		// again and is killed before it probes, and the others look an interval later.
		const longest = 12*time.Second + 15*time.Second + 12*time.Second
		for _, at := range times {
			assert.LessOrEqual(s, at.Sub(last), longest, "between two probes")
			last = at
		}
	})
}

// Forty members have ManualFailback and one has not: it returns when the time has come.
func TestThoseWhoStayDoNotKeepTheFleetAway(t *testing.T) {
	tellOfAFleet(t, 0, failover.Config{ManualFailback: true}, func(s *fleetStory) {
		for range 40 {
			s.start()
		}
		s.cfg.ManualFailback = false
		s.start()
		s.org.FailOver()
		start := time.Now()
		s.fleet[0].get()
		s.allAt(failover.Alternate)
		s.org.FailBack()
		s.org.Alternate().Serve()
		for s.record().Active == failover.Alternate && time.Since(start) < time.Hour {
			time.Sleep(time.Second)
		}
		assert.LessOrEqual(s, time.Since(start), 6*time.Minute, "dwell and a minute")
		s.allAt(failover.Primary)
	})
}

// While neither endpoint serves, one process probes for all and tells them the result.
func TestAFleetThatIsDownProbesOnceASecond(t *testing.T) {
	tellOfAFleet(t, 30, failover.Config{}, func(s *fleetStory) {
		s.org.Primary().Fail(failovertest.OutagePage())
		for _, p := range s.fleet {
			p.get()
			require.True(s, p.Status().Down)
		}
		time.Sleep(10 * time.Second)
		before := [2]int{s.probes(failover.Primary), s.probes(failover.Alternate)}
		calls := s.store.Calls()
		const seconds = 120
		time.Sleep(seconds * time.Second)
		for e, n := range before {
			made := s.probes(failover.Endpoint(e)) - n
			assert.LessOrEqual(s, made, seconds)
			assert.GreaterOrEqual(s, made, seconds/2, "and not much less")
		}
		assert.LessOrEqual(s, s.store.Calls()-calls, seconds*len(s.fleet), "one script a second for each")

		s.org.Primary().Heal()
		time.Sleep(5 * time.Second)
		for _, p := range s.fleet {
			assert.False(s, p.Status().Down, p.name)
		}
	})
}

// One endpoint answers half of the processes with the fence, and the other endpoint answers
// the other half with it. They must not drag each other back and forth.
func TestAFleetThatDisagreesStaysApartQuietly(t *testing.T) {
	for _, n := range []int{4, 40} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			tellOfAFleet(t, n, failover.Config{}, func(s *fleetStory) {
				s.org.Alternate().Serve()
				for i, p := range s.fleet {
					p.fenced[i%2].Store(true)
				}
				s.fleet[0].get()
				time.Sleep(time.Minute)
				for _, busy := range []bool{false, true} {
					probes := s.probes(failover.Primary) + s.probes(failover.Alternate)
					calls, generation := s.store.Calls(), s.record().Generation
					const minutes = 10
					for range minutes * 60 {
						if busy {
							for _, p := range s.fleet[:4] {
								p.get()
							}
						}
						time.Sleep(time.Second)
					}
					assert.LessOrEqual(s, s.record().Generation-generation, uint64(8*minutes), "generations, busy: %t", busy)
					assert.LessOrEqual(s, s.store.Calls()-calls, minutes*60*n, "scripts, busy: %t", busy)
					probes = s.probes(failover.Primary) + s.probes(failover.Alternate) - probes
					assert.LessOrEqual(s, probes, minutes*60*n/2, "probes, busy: %t", busy)
					s.Logf("busy %t: %d generations, %.2f scripts and %.2f probes a second for each", busy, s.record().Generation-generation, float64(s.store.Calls()-calls)/float64(minutes*60*n), float64(probes)/float64(minutes*60*n))
				}
			})
		})
	}
}
