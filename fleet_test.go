package failover_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
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

// fleetStory is an organization in memory and the processes of a fleet, each
// with a network and a Transport of its own.
type fleetStory struct {
	*testing.T
	org   *failovertest.Org
	store *sharedtest.Memory
	cfg   failover.Config
	fleet []*process
	born  int // processes so far
}

type process struct {
	*failover.Transport
	s    *fleetStory
	name string
	cut  [2]atomic.Bool // its network does not reach the endpoint

	mu     sync.Mutex
	events []failover.Event
}

// tellOfAFleet runs a story with n processes in a bubble.
func tellOfAFleet(t *testing.T, n int, cfg failover.Config, plot func(*fleetStory)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &fleetStory{T: t, org: failovertest.StartInMemory(nil), store: new(sharedtest.Memory), cfg: cfg}
		defer s.org.Close()
		for range n {
			s.start()
		}
		defer func() {
			for _, p := range s.fleet {
				p.Close()
			}
		}()
		plot(s)
	})
}

// start adds a process to the fleet.
func (s *fleetStory) start() *process {
	p := &process{s: s, name: "process " + string(rune('A'+s.born))}
	s.born++
	cfg := s.cfg
	base := s.org.Transport()
	cfg.Base = roundTripper(func(req *http.Request) (*http.Response, error) {
		to := failover.Primary
		if req.URL.Host == s.org.Alternate().Host() {
			to = failover.Alternate
		}
		if p.cut[to].Load() {
			return nil, errors.New("no route to host")
		}
		return base.RoundTrip(req)
	})
	cfg.Authorize = s.org.Authorize
	cfg.Logger = slog.New(slog.DiscardHandler)
	cfg.OnEvent = func(e failover.Event) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.events = append(p.events, e)
	}
	if cfg.Shared == nil {
		cfg.Shared = s.store
	}
	cfg.Shared = &seat{cfg.Shared, p}
	var err error
	p.Transport, err = failover.New(s.org.URL(), &cfg)
	require.NoError(s, err)
	s.fleet = append(s.fleet, p)
	return p
}

// seat is a process's view of the store. All processes of a story are one to the
// operating system, so it is the seat that gives each a name of its own.
type seat struct {
	failover.Shared
	p *process
}

func (v *seat) Claim(ctx context.Context, organization, topic, member string, ttl time.Duration) ([]string, error) {
	if strings.HasPrefix(topic, "outage") {
		member = v.p.name
	}
	return v.Shared.Claim(ctx, organization, topic, member, ttl)
}

// get reads the accounts and returns the status, 0 if there is no answer.
func (p *process) get() int {
	client := &http.Client{Transport: p.Transport}
	resp, err := client.Get(p.s.org.URL() + accounts)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	io.Copy(io.Discard, resp.Body)
	return resp.StatusCode
}

func (p *process) active() failover.Endpoint { return p.Status().Active }

func (p *process) last(kind failover.EventKind) (failover.Event, int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var found failover.Event
	n := 0
	for _, e := range p.events {
		if e.Kind == kind {
			found, n = e, n+1
		}
	}
	return found, n
}

// record loads the fleet's record.
func (s *fleetStory) record() failover.Record {
	rec, _, err := s.store.Load(context.Background(), "contoso.api.crm.dynamics.com")
	require.NoError(s, err)
	return rec
}

// poison puts a record into the store that no process has made.
func (s *fleetStory) poison(rec failover.Record) {
	swapped, err := s.store.CompareAndSwap(context.Background(), "contoso.api.crm.dynamics.com", s.record().Generation, rec)
	require.NoError(s, err)
	require.True(s, swapped)
	synctest.Wait()
}

// allAt checks that every process is at an endpoint.
func (s *fleetStory) allAt(e failover.Endpoint) {
	s.Helper()
	synctest.Wait()
	for _, p := range s.fleet {
		assert.Equal(s, e, p.active(), p.name)
		assert.False(s, p.Status().Fleet.Apart, p.name)
	}
}

func TestAFleetFollowsTheSwitchOfOneAtOnce(t *testing.T) {
	tellOfAFleet(t, 5, failover.Config{}, func(s *fleetStory) {
		s.org.FailOver()
		start := time.Now()
		assert.Equal(s, 200, s.fleet[0].get())
		s.allAt(failover.Alternate)
		assert.Zero(s, time.Since(start))

		rec := s.record()
		assert.EqualValues(s, 1, rec.Generation, "one switch, however many have followed")
		assert.Equal(s, failover.Alternate, rec.Active)
		assert.WithinDuration(s, start, rec.Since, 0)
		assert.Contains(s, rec.Reason, "the primary does not serve")
		assert.Equal(s, s.fleet[0].Status().Fleet.Member, rec.By)
		assert.Equal(s, rec, s.fleet[4].Status().Fleet.Record)

		e, n := s.fleet[4].last(failover.EventSwitched)
		require.Equal(s, 1, n)
		assert.Contains(s, e.Reason, "the fleet is at the alternate: the primary does not serve")
		assert.NotNil(s, e.Loss)
		assert.Equal(s, 200, s.fleet[4].get())
		assert.Equal(s, 1, deliveries(s.org.Primary(), http.MethodGet), "only the first call of all met the outage")
	})
}

func TestAProcessThatStartsBeginsWhereTheFleetIs(t *testing.T) {
	tellOfAFleet(t, 1, failover.Config{}, func(s *fleetStory) {
		s.org.FailOver()
		s.fleet[0].get()
		synctest.Wait()
		before := deliveries(s.org.Primary(), http.MethodGet)

		late := s.start()
		assert.Equal(s, failover.Alternate, late.active(), "before its first call")
		assert.Equal(s, 200, late.get())
		assert.Equal(s, before, deliveries(s.org.Primary(), http.MethodGet))
	})
}

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

// hanging is a store on a machine that has stopped.
type hanging struct{ failover.Shared }

func (hanging) Load(ctx context.Context, _ string) (failover.Record, time.Time, error) {
	<-ctx.Done()
	return failover.Record{}, time.Time{}, ctx.Err()
}

func (hanging) CompareAndSwap(ctx context.Context, _ string, _ uint64, _ failover.Record) (bool, error) {
	<-ctx.Done()
	return false, ctx.Err()
}

func (hanging) Claim(ctx context.Context, _, _, _ string, _ time.Duration) ([]string, error) {
	<-ctx.Done()
	return nil, ctx.Err()
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

func TestARecordThatTheEndpointDoesNotBearOutMovesNobody(t *testing.T) {
	tellOfAFleet(t, 2, failover.Config{}, func(s *fleetStory) {
		s.org.Alternate().Fail(failovertest.Refuse())
		s.poison(failover.Record{Active: failover.Alternate, Generation: 41, Reason: "because\nI say so", By: "a stranger"})
		s.poison(failover.Record{Active: failover.Alternate, Generation: 42, Reason: "because\nI say so", By: "a stranger"})
		time.Sleep(time.Hour)
		for _, p := range s.fleet {
			assert.Equal(s, failover.Primary, p.active())
			assert.True(s, p.Status().Fleet.Apart)
			refused, n := p.last(failover.EventSwitchRefused)
			assert.Equal(s, 2, n, "said once for each record")
			assert.Contains(s, refused.Reason, "a stranger")
			assert.Error(s, refused.Err)
			assert.Equal(s, 200, p.get())
		}
		assert.LessOrEqual(s, s.org.Alternate().Dials(), 2*75, "probed once a minute at the most")
		assert.Equal(s, failover.Primary, s.start().active())

		s.org.Alternate().Heal()
		s.org.FailOver() // now it is true
		assert.Equal(s, 200, s.fleet[0].get())
		time.Sleep(2 * time.Minute)
		s.allAt(failover.Alternate)
	})
}

func TestARecordThatTheEndpointItselfDeniesIsCorrected(t *testing.T) {
	tellOfAFleet(t, 2, failover.Config{}, func(s *fleetStory) {
		s.org.FailOver()
		s.fleet[0].get()
		s.allAt(failover.Alternate)
		for _, p := range s.fleet {
			p.Close() // the fleet stops there, and nobody sees the fail-back
		}
		s.fleet = nil
		s.org.FailBack()
		s.org.Alternate().Fence()
		s.start()
		s.start()
		s.allAt(failover.Primary)
		assert.Equal(s, failover.Primary, s.record().Active)
		assert.Equal(s, "the alternate says that it does not serve", s.record().Reason)
	})
}

func TestARecordOfTimesToComeLatchesForAnHourAtTheMost(t *testing.T) {
	tellOfAFleet(t, 1, failover.Config{}, func(s *fleetStory) {
		tomorrow := time.Now().Add(24 * time.Hour)
		s.poison(failover.Record{Generation: 1000, Since: tomorrow, Earlier: slices.Repeat([]time.Time{tomorrow}, 1000), By: "a stranger"})
		status := s.fleet[0].Status()
		assert.True(s, status.Latched)
		assert.Len(s, status.Fleet.Record.Earlier, 4, "no more is kept")
		time.Sleep(61 * time.Minute)
		assert.False(s, s.fleet[0].Status().Latched)
	})
}

func TestARecordWithoutSenseIsAnErrorOfTheStore(t *testing.T) {
	tellOfAFleet(t, 1, failover.Config{}, func(s *fleetStory) {
		s.poison(failover.Record{Active: 7, Generation: 1})
		assert.ErrorContains(s, s.fleet[0].Status().Fleet.Err, "makes no sense")
		s.org.FailOver()
		assert.Equal(s, 200, s.fleet[0].get())
	})
}

// probesOfPrimary counts the probes that reached the primary.
func (s *fleetStory) probesOfPrimary() (n int) {
	for _, d := range s.org.Primary().Deliveries() {
		if d.Path == whoAmI {
			n++
		}
	}
	return n
}

func TestOneProcessAtATimeProbesForTheFailBack(t *testing.T) {
	tellOfAFleet(t, 4, failover.Config{}, func(s *fleetStory) {
		s.org.FailOver()
		s.fleet[0].get()
		s.allAt(failover.Alternate)
		before := s.probesOfPrimary()
		time.Sleep(10 * time.Minute)
		// The turn goes round all the same.
		assert.InDelta(s, 10, s.probesOfPrimary()-before, 6, "as many as a single process makes")

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
					s.fleet[holder].Pin(failover.Alternate) // it probes and claims no more
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
		time.Sleep(20 * time.Minute) // its turn is over now and then
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
		for i := range 2 { // each process leads the way once
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

func TestClocksThatDisagreeChangeNothing(t *testing.T) {
	for name, skew := range map[string]time.Duration{"store ahead": 3 * time.Hour, "store behind": -3 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			tellOfAFleet(t, 2, failover.Config{}, func(s *fleetStory) {
				s.store.Skew(skew)
				s.org.FailOver()
				s.fleet[0].get()
				s.allAt(failover.Alternate)
				assert.WithinDuration(s, time.Now().Add(skew), s.record().Since, 0, "by the store's clock")
				s.org.FailBack()
				s.org.Alternate().Serve()
				time.Sleep(4 * time.Minute)
				s.allAt(failover.Alternate)
				time.Sleep(6 * time.Minute)
				s.allAt(failover.Primary)
			})
		})
	}
}

func TestAQuorumKeepsAProcessFromMovingTheFleetAlone(t *testing.T) {
	tellOfAFleet(t, 3, failover.Config{Quorum: 2}, func(s *fleetStory) {
		s.org.Alternate().Serve() // so that its probe passes
		alone := s.fleet[0]
		alone.cut[failover.Primary].Store(true)
		assert.Equal(s, 0, alone.get())
		assert.Equal(s, failover.Primary, alone.active())
		refused, n := alone.last(failover.EventSwitchRefused)
		require.Equal(s, 1, n)
		assert.Contains(s, refused.Reason, "seen by 1 of the 2 processes that it takes")
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

func TestAProcessThatIsAloneWithAnOutageCanBeTold(t *testing.T) {
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
		others, err := s.store.Claim(s.Context(), "contoso.api.crm.dynamics.com", "outage of the alternate", "a test", time.Second)
		require.NoError(s, err)
		assert.Equal(s, []string{"a test"}, others)
	})
}

func TestAHandMovesTheFleet(t *testing.T) {
	tellOfAFleet(t, 3, failover.Config{}, func(s *fleetStory) {
		s.org.Alternate().Serve()
		require.NoError(s, s.fleet[1].Switch(s.Context(), failover.Alternate, "drill"))
		s.allAt(failover.Alternate)
		require.NoError(s, s.fleet[2].Switch(s.Context(), failover.Primary, "end of drill"))
		s.allAt(failover.Primary)

		s.org.Alternate().Fail(failovertest.Refuse())
		s.poison(failover.Record{Active: failover.Alternate, Generation: 9, By: "a stranger"})
		assert.True(s, s.fleet[0].Status().Fleet.Apart)
		require.NoError(s, s.fleet[0].Switch(s.Context(), failover.Primary, "we stay"))
		s.allAt(failover.Primary)
		assert.Equal(s, "we stay", s.record().Reason)
	})
}

func TestAPinIsTheProcesssOwn(t *testing.T) {
	tellOfAFleet(t, 2, failover.Config{}, func(s *fleetStory) {
		s.org.Alternate().Serve()
		s.fleet[0].Pin(failover.Alternate)
		time.Sleep(5 * time.Minute)
		assert.Equal(s, failover.Primary, s.fleet[1].active())
		assert.Zero(s, s.record().Generation)
		s.fleet[0].Unpin()
		time.Sleep(time.Minute)
		s.allAt(failover.Primary)

		s.fleet[0].Pin(failover.Primary)
		s.org.FailOver()
		s.fleet[1].get()
		synctest.Wait()
		assert.Equal(s, failover.Alternate, s.fleet[1].active())
		assert.Equal(s, failover.Primary, s.fleet[0].active())
		s.fleet[0].Unpin()
		s.allAt(failover.Alternate)
	})
}

func TestAStoreThatHasLostItsMemoryIsTold(t *testing.T) {
	tellOfAFleet(t, 2, failover.Config{}, func(s *fleetStory) {
		s.org.FailOver()
		s.fleet[0].get()
		s.allAt(failover.Alternate)
		s.poison(failover.Record{}) // as after a restart without persistence
		s.allAt(failover.Alternate)
		assert.Equal(s, failover.Alternate, s.record().Active)
		assert.EqualValues(s, 2, s.record().Generation)
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

// readOnly is a store that this process may not write to.
type readOnly struct{ failover.Shared }

func (readOnly) CompareAndSwap(context.Context, string, uint64, failover.Record) (bool, error) {
	return false, errors.New("NOPERM")
}

func (readOnly) Claim(context.Context, string, string, string, time.Duration) ([]string, error) {
	return nil, errors.New("NOPERM")
}

func TestADecisionThatAHandEndsMakesNoWitness(t *testing.T) {
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

func TestTwoWhoSwitchAtOnceAreOneSwitch(t *testing.T) {
	tellOfAFleet(t, 8, failover.Config{}, func(s *fleetStory) {
		s.org.FailOver()
		var wg sync.WaitGroup
		for _, p := range s.fleet {
			wg.Go(func() { assert.Equal(s, 200, p.get()) })
		}
		wg.Wait()
		s.allAt(failover.Alternate)
		assert.EqualValues(s, 1, s.record().Generation)
	})
}

func TestAHealthyFleetLeavesTheStoreAlone(t *testing.T) {
	tellOfAFleet(t, 10, failover.Config{}, func(s *fleetStory) {
		before := s.store.Calls()
		for _, p := range s.fleet {
			p.get()
		}
		assert.Equal(s, before, s.store.Calls(), "requests do not touch it")
		time.Sleep(time.Hour)
		assert.LessOrEqual(s, s.store.Calls()-before, 10*76, "once a minute, jittered by a fifth")
		assert.GreaterOrEqual(s, s.store.Calls()-before, 10*49)
	})
}

func TestFollowersOvertakeTheirOwnDecision(t *testing.T) {
	tellOfAFleet(t, 2, failover.Config{AttemptTimeout: time.Second}, func(s *fleetStory) {
		// A black hole: to see it takes a probe 5 s. The fleet is faster.
		s.org.Disaster(failovertest.BlackHole())
		var wg sync.WaitGroup
		start := time.Now()
		wg.Go(func() { assert.Equal(s, 200, s.fleet[0].get()) })
		time.Sleep(4 * time.Second) // its decision is under way
		require.NoError(s, s.fleet[1].Switch(s.Context(), failover.Alternate, "by hand"))
		wg.Wait()
		assert.Less(s, time.Since(start), 5*time.Second)
		s.allAt(failover.Alternate)
	})
}
