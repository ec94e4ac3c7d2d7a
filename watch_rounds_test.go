package failover

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover/internal/rule"
)

var errRefused = errors.New("no route to host")

// While down, endpoints are probed at once for credentials that are new, though no sooner
// than a quarter of a second after the last probes, and once for all that come till then.
func TestNewCredentialsAreTriedWhileDown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var rounds []time.Time
		transport := newTestTransport(t, acknowledging, Config{FailFast: true, Probe: func(_ context.Context, _ *http.Client, u *url.URL) error {
			mu.Lock()
			defer mu.Unlock()
			if !strings.Contains(u.Host, "--s.") {
				rounds = append(rounds, time.Now())
			}
			return errRefused
		}})
		seen := func() (n int, last time.Time) {
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			return len(rounds), rounds[len(rounds)-1]
		}
		q, _ := transport.count(transport.state.Load(), unansweredAt(Primary), false)
		require.NotNil(t, q)
		<-q.done
		require.True(t, transport.state.Load().down)
		time.Sleep(time.Minute) // there are about eight seconds between rounds now

		before, _ := seen()
		n, begun := seen()
		for ; n == before; n, begun = seen() {
			time.Sleep(time.Millisecond)
		}
		for _, token := range []string{"Bearer 1", "Bearer 2"} {
			time.Sleep(20 * time.Millisecond)
			transport.lend(http.Header{"Authorization": {token}}, false)
		}
		time.Sleep(3 * time.Second)
		n, last := seen()
		assert.Equal(t, 250*time.Millisecond, last.Sub(begun))
		assert.Equal(t, before+2, n)
		time.Sleep(time.Second)
		req, err := http.NewRequest(http.MethodGet, "https://contoso.api.crm.dynamics.com/", nil)
		require.NoError(t, err)
		req.Header.Set("Authorization", "Bearer 3")
		_, err = transport.RoundTrip(req) // which is not sent, but lends its token
		require.ErrorIs(t, err, ErrUnavailable)
		_, last = seen()
		assert.Equal(t, time.Now(), last)
		transport.lend(http.Header{"Authorization": {"Bearer 3"}}, false) // known
		time.Sleep(6 * time.Second)
		n, _ = seen()
		assert.Equal(t, before+3, n)
	})
}

// What a round of probes does, and whether the next may follow soon, in each state.
func TestRoundsOfProbes(t *testing.T) {
	t.Parallel()
	down := func(transport *Transport) { goDown(transport) }
	away := func(transport *Transport) {
		transport.Pin(Alternate)
		transport.Unpin()
		transport.endpoints[Primary].reset()
		time.Sleep(time.Hour)
	}
	for name, row := range map[string]struct {
		prepare   func(*Transport)
		primary   error
		alternate error
		good      bool
		active    Endpoint
	}{
		"down, and up":              {prepare: down, good: true, active: Primary},
		"down, and stays":           {prepare: down, primary: errRefused, alternate: errRefused, active: Primary},
		"down, and moves":           {prepare: down, primary: errRefused, good: true, active: Alternate},
		"on trial, the left one up": {prepare: onTrial, good: true, active: Primary},
		"on trial, as it was":       {prepare: onTrial, primary: errRefused, active: Alternate},
		"away, the primary is well": {prepare: away, good: true, active: Primary},
		"away, the primary is not":  {prepare: away, primary: errRefused, active: Alternate},
	} {
		synctest.Test(t, func(t *testing.T) {
			ends := [2]error{row.primary, row.alternate}
			transport := tellAll(t, Config{ProbeInterval: -1, Probe: answersProbes(&ends)})
			row.prepare(transport.Transport)
			st := transport.state.Load()
			assert.Equal(t, row.good, transport.round(st), name)
			assert.Equal(t, row.active, transport.state.Load().active, name)
			if strings.HasPrefix(name, "on trial, the") {
				synctest.Wait()
				assert.Equal(t, "the primary passes its probe, and the alternate has not given a healthy answer", transport.events[len(transport.events)-2].Reason)
			}
		})
	}
}

// A trial that was confirmed is not taken back any more, and none of an older state is. What
// is taken back is told to no fleet as a switch that others follow.
func TestWhatIsTakenBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ends := [2]error{errRefused, errRefused}
		transport := newTestTransport(t, acknowledging, Config{ProbeInterval: -1, Probe: answersProbes(&ends)})
		onTrial(transport)
		trial := transport.state.Load()
		stale := *trial
		stale.epoch--
		transport.undoSwitch(&stale, "", nil)
		assert.Same(t, trial, transport.state.Load())
		transport.answered(trial, nil)
		assert.False(t, transport.state.Load().provisional)
		assert.False(t, transport.undoIfProvisional(trial, unansweredAt(Alternate), false))
		assert.Equal(t, Alternate, transport.state.Load().active)
	})
	synctest.Test(t, func(t *testing.T) {
		transport := member(t, Config{Probe: (&probers{}).probe})
		onTrial(transport)
		transport.fleet.untold = false
		transport.undoSwitch(transport.state.Load(), "", nil)
		assert.Equal(t, Primary, transport.state.Load().active)
		assert.False(t, transport.fleet.untold)
		transport.fleet = nil // there is no store to tell of the rest
	})
}

// An outage that was not told of is when it has lasted for half a minute, and why the
// traffic does not move if the other endpoint serves.
func TestWhenALongOutageIsTold(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		lasts     time.Duration
		alternate error
		want      []string
	}{
		{30*time.Second - 1, errRefused, nil},
		{30 * time.Second, errRefused, []string{"neither endpoint passes its probe"}},
		{30*time.Second - 1, nil, []string{"not confirmed: " + errObjection.Error()}},
		{30 * time.Second, nil, []string{"the primary does not pass its probe, and no switch is allowed", "not confirmed: " + errObjection.Error()}},
	} {
		synctest.Test(t, func(t *testing.T) {
			ends := [2]error{errRefused, row.alternate}
			transport := tellAll(t, Config{ProbeInterval: -1, Probe: answersProbes(&ends), ConfirmSwitch: func(context.Context, Switch) error { return errObjection }})
			st := goDown(transport.Transport)
			transport.outage.untold = true
			time.Sleep(row.lasts)
			assert.False(t, transport.tryRecovery(st))
			synctest.Wait()
			var told []string
			for _, e := range transport.events {
				if e.Kind == EventDown || e.Kind == EventSwitchRefused {
					told = append(told, e.Reason)
				}
			}
			assert.Equal(t, row.want, told)
		})
	}
}

// The primary gets the traffic back unless that is objected to, which names both endpoints,
// or there were four switches within the hour.
func TestWhyTheTrafficStaysAway(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		objects bool
		ago     time.Duration // four other switches, when the traffic leaves
		stays   time.Duration
		want    []string
	}{
		{true, 3 * time.Hour, time.Minute, []string{"alternate>primary: not confirmed: " + errObjection.Error()}},
		{false, 30 * time.Minute, time.Minute, []string{"alternate>primary: latched after 4 switches within an hour"}},
		{false, 61 * time.Minute, time.Minute, nil},
		{false, 50 * time.Minute, 10*time.Minute - time.Second, []string{"alternate>primary: latched after 4 switches within an hour"}},
		{false, 50 * time.Minute, 30 * time.Minute, nil},
	} {
		synctest.Test(t, func(t *testing.T) {
			transport := tellAll(t, Config{ProbeInterval: -1, MinDwell: time.Second, Probe: (&probers{}).probe, ConfirmSwitch: func(context.Context, Switch) error {
				if row.objects {
					return errObjection
				}
				return nil
			}})
			time.Sleep(3 * time.Hour)
			p := transport.newPool()
			var moves []time.Time
			for n := range 4 {
				moves = append(moves, time.Now().Add(-row.ago+time.Duration(n)))
			}
			transport.mu.Lock()
			transport.rule.Remember(time.Now(), moves)
			transport.switchLocked(switchover{to: Alternate}, p, func(now time.Time) bool { return transport.rule.SwitchTo(now, rule.Alternate, false) })
			transport.unlock()
			transport.endpoints[Primary].reset()
			time.Sleep(row.stays)
			assert.Equal(t, row.want == nil, transport.tryFailback(transport.state.Load()))
			synctest.Wait()
			var told []string
			for _, e := range transport.events {
				if e.Kind == EventSwitchRefused {
					told = append(told, e.From.String()+">"+e.To.String()+": "+e.Reason)
				}
			}
			assert.Equal(t, row.want, told)
		})
	}
}

// A probe of the primary counts for the fleet. Down, an endpoint that fails is left once
// enough of the fleet have seen that; one that says itself that it does not serve, at once.
func TestRoundsOfAMemberOfAFleet(t *testing.T) {
	t.Parallel()
	for _, end := range []error{nil, errRefused} {
		synctest.Test(t, func(t *testing.T) {
			away := Record{Version: 1, Active: Alternate, Generation: 7, Risen: 1}
			s := &scripted{record: away}
			transport := s.member(t, Config{Probe: (&probers{ends: [2]error{end, nil}}).probe})
			transport.Pin(Alternate)
			transport.Unpin()
			transport.fleet.known, transport.fleet.holds, transport.fleet.status.Record = away, failbackTopic, away
			transport.tryFailback(transport.state.Load())
			assert.Equal(t, end == nil, s.record.Risen == 2)
			assert.Equal(t, end != nil, s.record.Risen == 0)
			transport.fleet.holds = ""
		})
	}
	for _, fenced := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s := &scripted{holds: Holders{Count: 1}}
			ends := [2]error{errRefused, nil}
			if fenced {
				ends[Primary] = &Fault{Class: ClassUnavailable, Definitive: true, Status: 503}
			}
			transport := s.member(t, Config{Quorum: 2, Probe: answersProbes(&ends)})
			assert.Equal(t, fenced, transport.tryRecovery(goDown(transport)))
			assert.Equal(t, fenced, transport.state.Load().active == Alternate)
			if !fenced {
				transport.mu.Lock()
				transport.endOutageLocked(time.Now())
				transport.mu.Unlock()
			}
		})
	}
}

// While another member probes, this one looks every ProbeInterval whether that still does, also
// after a long time. While down, all members look at growing intervals.
func TestHowOftenATurnIsAskedFor(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		prepare func(*Transport)
		longest float64 // time between two claims in the end, in seconds
	}{
		"away": {func(transport *Transport) {
			p := transport.newPool()
			transport.mu.Lock()
			defer transport.unlock()
			transport.switchLocked(switchover{to: Alternate}, p, func(now time.Time) bool { return transport.rule.SwitchTo(now, rule.Alternate, false) })
		}, 5},
		"down": {func(transport *Transport) { goDown(transport); transport.wg.Go(transport.watch) }, 8},
	} {
		synctest.Test(t, func(t *testing.T) {
			var claims []time.Time
			s := &turning{scripted: &scripted{holds: Holders{Count: 1, Names: []string{"another"}}}}
			s.onClaim = func(int) { claims = append(claims, time.Now()) }
			transport := s.member(t, Config{Probe: answersProbes(&[2]error{errRefused, errRefused})})
			transport.cfg.ProbeInterval, transport.cfg.MaxProbeInterval = 5*time.Second, time.Hour
			row.prepare(transport)
			time.Sleep(20 * time.Minute)
			transport.Close()
			transport.fleet = nil // there is no store to tell of the rest
			require.Greater(t, len(claims), 100, name)
			for i := range claims[50:] {
				assert.InDelta(t, row.longest, claims[50+i].Sub(claims[49+i]).Seconds(), row.longest*probeJitter+0.001, name)
			}
		})
	}
}
