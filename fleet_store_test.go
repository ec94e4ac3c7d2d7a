package failover_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover"
	"github.com/d365failover/failover/failovertest"
)

func TestWithoutTheStoreEveryProcessIsOnItsOwn(t *testing.T) {
	tellOfAFleet(t, 3, failover.Config{}, func(s *fleetStory) {
		s.store.Fail(errors.New("connection refused"))
		time.Sleep(2 * time.Minute)
		status := s.fleet[0].Status().Fleet
		assert.EqualError(s, status.Err, "connection refused")
		lost, n := s.fleet[0].last(failover.EventFleetLost)
		require.Equal(s, 1, n, "said once")
		assert.Error(s, lost.Err)

		s.org.FailOver()
		start := time.Now()
		for _, p := range s.fleet[:2] {
			assert.Equal(s, 200, p.get())
			assert.Equal(s, failover.Alternate, p.active())
			assert.True(s, p.Status().Fleet.Apart, "nobody knows")
		}
		assert.Zero(s, time.Since(start), "nothing waited for the store")
		assert.Equal(s, failover.Primary, s.fleet[2].active())
		starter := s.start()
		assert.Equal(s, 200, starter.get(), "the store is not needed to start")

		s.store.Fail(nil)
		time.Sleep(2 * time.Minute)
		s.allAt(failover.Alternate)
		assert.EqualValues(s, 1, s.record().Generation, "two have switched, one was first to say so")
		_, n = s.fleet[0].last(failover.EventFleetFound)
		assert.Equal(s, 1, n)
		assert.NoError(s, s.fleet[0].Status().Fleet.Err)
	})
}

func (hanging) Changes(context.Context, string) <-chan struct{} { return nil }

func TestAStoreThatHangsDelaysNoRequestAndNoSwitch(t *testing.T) {
	tellOfAFleet(t, 0, failover.Config{Shared: hanging{}, Quorum: 2}, func(s *fleetStory) {
		start := time.Now()
		p := s.start()
		assert.Equal(s, time.Second, time.Since(start), "New has waited")
		start = time.Now()
		assert.Equal(s, 200, p.get())
		s.org.FailOver()
		assert.Equal(s, 200, p.get())
		assert.Equal(s, failover.Alternate, p.active())
		assert.Zero(s, time.Since(start))
		s.org.FailBack()
		s.org.Alternate().Serve()
		time.Sleep(10 * time.Minute)
		assert.Equal(s, failover.Primary, p.active(), "it has probed by itself")
		start = time.Now()
		p.Close()
		assert.LessOrEqual(s, time.Since(start), time.Second)
	})
}

func TestARecordThatTheStoreHasLostIsRestored(t *testing.T) {
	tellOfAFleet(t, 2, failover.Config{}, func(s *fleetStory) {
		s.org.FailOver()
		s.fleet[0].get()
		s.allAt(failover.Alternate)
		s.poison(failover.Record{}) // as after a restart without persistence
		s.allAt(failover.Alternate)
		assert.Equal(s, failover.Alternate, s.record().Active)
		assert.EqualValues(s, 1, s.record().Generation, "there was no switch")
	})
}

func TestAStoreThatCannotBeWrittenToDoesNotFlap(t *testing.T) {
	tellOfAFleet(t, 0, failover.Config{}, func(s *fleetStory) {
		s.cfg.Shared = readOnly{s.store}
		p := s.start()
		s.org.FailOver()
		p.get()
		time.Sleep(time.Hour)
		_, lost := p.last(failover.EventFleetLost)
		_, found := p.last(failover.EventFleetFound)
		assert.Equal(s, []int{1, 0}, []int{lost, found})
		assert.EqualError(s, p.Status().Fleet.Err, "NOPERM")
	})
}

// The store is lost with the region and comes back empty. Meanwhile one process has switched.
// The records that the others restore do not hide that switch.
func TestARestoredRecordHidesNoSwitch(t *testing.T) {
	tellOfAFleet(t, 10, failover.Config{MinDwell: -1}, func(s *fleetStory) {
		s.org.FailOver()
		s.fleet[0].get()
		s.allAt(failover.Alternate)
		s.org.FailBack()
		s.org.Alternate().Serve()
		time.Sleep(2 * time.Minute)
		s.allAt(failover.Primary)
		require.EqualValues(s, 2, s.record().Generation)

		s.store.Fail(errors.New("connection refused"))
		time.Sleep(90 * time.Second)
		s.org.Disaster(failovertest.Refuse())
		assert.Equal(s, 200, s.fleet[3].get())
		time.Sleep(time.Minute)
		s.store.Fail(nil)
		s.poison(failover.Record{})
		time.Sleep(4 * time.Second)
		s.allAt(failover.Alternate)
		assert.EqualValues(s, 3, s.record().Generation, "one switch more, whoever has restored what")
		assert.Equal(s, failover.Alternate, s.start().active())
	})
}

// told is a store that reports a change as soon as it is watched.
type told struct{ failover.Shared }

func (told) Changes(context.Context, string) <-chan struct{} {
	c := make(chan struct{}, 1)
	c <- struct{}{}
	return c
}

// An early report of a change does not keep a process from starting where the fleet is.
func TestWordDoesNotDelayTheStart(t *testing.T) {
	tellOfAFleet(t, 0, failover.Config{}, func(s *fleetStory) {
		s.org.FailOver()
		s.poison(failover.Record{Active: failover.Alternate, Generation: 1, Since: time.Now()})
		s.cfg.Shared = told{s.store}
		assert.Equal(s, failover.Alternate, s.start().active())
	})
}

// However a store fails, it is lost once and found once.
func TestAStoreIsLostOnceAndFoundOnce(t *testing.T) {
	var n atomic.Int64
	for name, trouble := range map[string]func(context.Context) error{
		"gone":  refuses,
		"hangs": hangs,
		"slow":  takes(700 * time.Millisecond),
		"at times too slow": func(ctx context.Context) error {
			return takes(700*time.Millisecond + time.Duration(n.Add(1)%4)*150*time.Millisecond)(ctx)
		},
		"one call in three fails": func(ctx context.Context) error {
			if rand.IntN(3) == 0 {
				return refuses(ctx)
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			tellOfAFleet(t, 3, failover.Config{}, func(s *fleetStory) {
				s.org.FailOver()
				s.fleet[0].get()
				s.allAt(failover.Alternate)
				s.outOfOrder(func(p *process) { p.suffer(trouble) }, func(p *process) { p.suffer(nil) })
			})
		})
	}
	t.Run("deletes, and does not write", func(t *testing.T) {
		var full atomic.Bool
		tellOfAFleet(t, 0, failover.Config{}, func(s *fleetStory) {
			s.cfg.Shared = outOfMemory{s.store, &full}
			for range 3 {
				s.start()
			}
			s.org.FailOver()
			s.fleet[0].get()
			s.allAt(failover.Alternate)
			s.outOfOrder(func(*process) { full.Store(true) }, func(*process) { full.Store(false) })
		})
	})
}

// A store is found after it has worked for 15 s without an error. Each relapse doubles that
// time, up to two minutes.
func TestHowLongAStoreWorksUntilItIsFound(t *testing.T) {
	for relapses, want := range []time.Duration{15 * time.Second, 30 * time.Second, time.Minute, 2 * time.Minute, 2 * time.Minute} {
		t.Run(fmt.Sprint(relapses), func(t *testing.T) {
			tellOfAFleet(t, 1, failover.Config{}, func(s *fleetStory) {
				var fails atomic.Bool
				var good atomic.Int64 // when the first call after the latest error ended
				p := s.fleet[0]
				p.suffer(func(context.Context) error {
					if fails.Load() {
						good.Store(0)
						return errors.New("connection refused")
					}
					good.CompareAndSwap(0, time.Now().UnixNano())
					return nil
				})
				fails.Store(true)
				time.Sleep(2 * time.Minute)
				fails.Store(false)
				for range relapses {
					time.Sleep(10 * time.Second)
					fails.Store(true)
					time.Sleep(10 * time.Second)
					fails.Store(false)
				}
				for p.Status().Fleet.Err != nil {
					time.Sleep(10 * time.Millisecond)
				}
				took := time.Since(time.Unix(0, good.Load()))
				assert.GreaterOrEqual(s, took, want)
				assert.LessOrEqual(s, took, want+2600*time.Millisecond, "it is used every 2 to 2.5 s")
			})
		})
	}
}

// outOfOrder makes the processes of a fleet that has failed over suffer for some minutes.
func (s *fleetStory) outOfOrder(begin, end func(*process)) {
	s.Helper()
	for _, p := range s.fleet {
		begin(p)
	}
	for range 150 {
		s.fleet[0].get()
		time.Sleep(time.Second)
	}
	for _, p := range s.fleet {
		end(p)
	}
	time.Sleep(150 * time.Second)
	for _, p := range s.fleet {
		_, lost := p.last(failover.EventFleetLost)
		_, found := p.last(failover.EventFleetFound)
		assert.LessOrEqual(s, lost, 1, p.name)
		assert.Equal(s, lost, found, p.name)
		assert.NoError(s, p.Status().Fleet.Err)
	}
}

// outOfMemory is a store that is full: it deletes, but does not write.
type outOfMemory struct {
	failover.Shared
	full *atomic.Bool
}

func (o outOfMemory) CompareAndSwap(ctx context.Context, organization string, version uint64, next failover.Record) (bool, error) {
	if o.full.Load() {
		return false, errors.New("OOM")
	}
	return o.Shared.CompareAndSwap(ctx, organization, version, next)
}

func (o outOfMemory) Claim(ctx context.Context, organization string, c failover.Claim) (failover.Holders, error) {
	if o.full.Load() && c.TTL > 0 {
		return failover.Holders{}, errors.New("OOM")
	}
	return o.Shared.Claim(ctx, organization, c)
}

// Neither a store that hangs, nor a black hole without a probe timeout, delays New and Close
// beyond a bound.
func TestNewAndCloseAreBounded(t *testing.T) {
	tellOfAFleet(t, 0, failover.Config{ProbeTimeout: -1}, func(s *fleetStory) {
		s.poison(failover.Record{Active: failover.Alternate, Generation: 1})
		s.org.Alternate().Fail(failovertest.BlackHole())
		var slowest time.Duration
		timed := func(f func()) {
			start := time.Now()
			f()
			slowest = max(slowest, time.Since(start))
		}
		for i := range 50 {
			if i == 25 {
				s.cfg.Shared = hanging{}
			}
			timed(func() { s.start() })
		}
		time.Sleep(2 * time.Minute)
		for _, p := range s.fleet {
			timed(func() { p.Close() })
		}
		assert.LessOrEqual(s, slowest, 2*time.Second)
	})
}
