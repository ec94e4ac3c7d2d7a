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

// A fleetStory is an organization in memory and the processes of a fleet, each with its own
// network and Transport.
type fleetStory struct {
	*testing.T
	org   *failovertest.Org
	store *sharedtest.Memory
	cfg   failover.Config
	fleet []*process
	born  int // number of processes so far
}

type process struct {
	*failover.Transport
	s    *fleetStory
	name string
	cut  [2]atomic.Bool // its network does not reach the endpoint
	// trouble, if set, is called for each call to the store. An error ends the call.
	trouble atomic.Pointer[func(context.Context) error]
	fenced  [2]atomic.Bool // the endpoint answers this process with the fence

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
		if p.fenced[to].Load() {
			return answer(403, `{"error":{"code":"0x8004B065","message":"not available"}}`, "Content-Type", "application/json", "OData-Version", "4.0")(req)
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

// A seat is one process's view of the store. To the operating system all of them are one
// process, so the seat gives each a name.
type seat struct {
	failover.Shared
	p *process
}

// through runs the trouble on the way to the store.
func (v *seat) through(ctx context.Context) error {
	if trouble := v.p.trouble.Load(); trouble != nil {
		return (*trouble)(ctx)
	}
	return nil
}

func (v *seat) Load(ctx context.Context, organization string) (failover.Record, time.Time, error) {
	if err := v.through(ctx); err != nil {
		return failover.Record{}, time.Time{}, err
	}
	return v.Shared.Load(ctx, organization)
}

func (v *seat) CompareAndSwap(ctx context.Context, organization string, version uint64, next failover.Record) (bool, error) {
	if err := v.through(ctx); err != nil {
		return false, err
	}
	return v.Shared.CompareAndSwap(ctx, organization, version, next)
}

func (v *seat) Claim(ctx context.Context, organization string, c failover.Claim) (failover.Holders, error) {
	if err := v.through(ctx); err != nil {
		return failover.Holders{}, err
	}
	if strings.HasPrefix(c.Topic, "outage") {
		c.Member = v.p.name
	}
	return v.Shared.Claim(ctx, organization, c)
}

// Kinds of trouble on the way to a store.
var (
	refuses = func(context.Context) error { return errors.New("connection refused") }
	hangs   = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
)

// takes returns a trouble that delays a call.
func takes(d time.Duration) func(context.Context) error {
	return func(ctx context.Context) error {
		select {
		case <-time.After(d):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// get reads the accounts and returns the status, or 0 without an answer.
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

// poison puts a record into the store that no process wrote. The zero Record is that of a
// store that restarted empty.
func (s *fleetStory) poison(rec failover.Record) {
	present := s.record().Version
	if rec.Generation != 0 {
		rec.Version = present + 1
	}
	swapped, err := s.store.CompareAndSwap(context.Background(), "contoso.api.crm.dynamics.com", present, rec)
	require.NoError(s, err)
	require.True(s, swapped)
	s.settle()
}

// settle waits for the followers.
func (s *fleetStory) settle() {
	time.Sleep(850 * time.Millisecond)
	synctest.Wait()
}

// allAt checks that every process is at an endpoint, after the time that it may take.
func (s *fleetStory) allAt(e failover.Endpoint) {
	s.Helper()
	s.settle()
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
		assert.Zero(s, time.Since(start), "the first waits for nobody")
		s.allAt(failover.Alternate)

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

func (hanging) Claim(ctx context.Context, _ string, _ failover.Claim) (failover.Holders, error) {
	<-ctx.Done()
	return failover.Holders{}, ctx.Err()
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
			p.Close() // the fleet ends there, and nobody sees the fail-back
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
		assert.False(s, status.Latched, "what is yet to come has not happened")
		assert.Len(s, status.Fleet.Record.Earlier, 4, "no more is kept")
		now := time.Now()
		s.poison(failover.Record{Generation: 1001, Since: now, Earlier: slices.Repeat([]time.Time{now}, 1000), By: "a stranger"})
		assert.True(s, s.fleet[0].Status().Latched)
		time.Sleep(61 * time.Minute)
		assert.False(s, s.fleet[0].Status().Latched)
	})
}

func TestARecordWithoutSenseIsAnErrorOfTheStore(t *testing.T) {
	tellOfAFleet(t, 1, failover.Config{}, func(s *fleetStory) {
		s.poison(failover.Record{Active: 7, Generation: 1})
		assert.ErrorContains(s, s.fleet[0].Status().Fleet.Err, "is invalid")
		s.org.FailOver()
		assert.Equal(s, 200, s.fleet[0].get())
	})
}

// probes counts the probes of an endpoint by one process.
func (p *process) probes(of failover.Endpoint) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range p.events {
		if e.Kind == failover.EventProbed && e.From == of {
			n++
		}
	}
	return n
}

// probes counts the probes of an endpoint by all processes.
func (s *fleetStory) probes(of failover.Endpoint) (n int) {
	synctest.Wait()
	for _, p := range s.fleet {
		n += p.probes(of)
	}
	return n
}

// suffer puts trouble between a process and the store; nil ends it.
func (p *process) suffer(trouble func(context.Context) error) {
	if trouble == nil {
		p.trouble.Store(nil)
		return
	}
	p.trouble.Store(&trouble)
}

func TestClocksThatDisagreeChangeNothing(t *testing.T) {
	for name, skew := range map[string]time.Duration{"store ahead": 3 * time.Hour, "store behind": -3 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			tellOfAFleet(t, 2, failover.Config{}, func(s *fleetStory) {
				s.store.Skew(skew)
				s.org.FailOver()
				start := time.Now()
				s.fleet[0].get()
				s.allAt(failover.Alternate)
				assert.WithinDuration(s, start.Add(skew), s.record().Since, 0, "by the store's clock")
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

func TestAManualSwitchMovesTheFleet(t *testing.T) {
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
		s.settle() // a process that is just trying to follow the stranger again hears of it after that
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

// readOnly is a store that this process may not write to.
type readOnly struct{ failover.Shared }

func (readOnly) CompareAndSwap(context.Context, string, uint64, failover.Record) (bool, error) {
	return false, errors.New("NOPERM")
}

func (readOnly) Claim(context.Context, string, failover.Claim) (failover.Holders, error) {
	return failover.Holders{}, errors.New("NOPERM")
}

func TestTwoProcessesThatSwitchAtOnceMakeOneSwitch(t *testing.T) {
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
		// A probe takes 5 s to find a black hole. The fleet is faster.
		s.org.Disaster(failovertest.BlackHole())
		var wg sync.WaitGroup
		start := time.Now()
		wg.Go(func() { assert.Equal(s, 200, s.fleet[0].get()) })
		time.Sleep(4 * time.Second) // it is still deciding
		require.NoError(s, s.fleet[1].Switch(s.Context(), failover.Alternate, "by hand"))
		wg.Wait()
		assert.Less(s, time.Since(start), 5*time.Second)
		s.allAt(failover.Alternate)
	})
}
