package failover

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/d365failover/failover/internal/rule"
)

// errWeak is the result of a probe that passes only by a 401 or 429.
var errWeak = errors.New("passes weakly")

// answersProbes returns a Config.Probe with the given results, by endpoint.
func answersProbes(ends *[2]error) func(context.Context, *http.Client, *url.URL) error {
	return func(ctx context.Context, _ *http.Client, endpoint *url.URL) error {
		err := ends[Primary]
		if strings.Contains(endpoint.Host, "--s.") {
			err = ends[Alternate]
		}
		if err == errWeak {
			ctx.Value(probeTermsKey{}).(*probeTerms).weak.Store(true)
			return nil
		}
		return err
	}
}

// goDown makes a Transport believe that neither endpoint serves, and returns that state.
func goDown(transport *Transport) *state {
	transport.mu.Lock()
	defer transport.mu.Unlock()
	transport.rule.Down, transport.outage = true, &outage{since: time.Now()}
	down := *transport.state.Load()
	down.down = true
	transport.state.Store(&down)
	return &down
}

// How an outage ends, and where the traffic goes then. The process is a witness against an
// active endpoint only if that has failed. Only then is the endpoint left, and the reads that
// wait there are abandoned: at once on a passed probe, after a healthy answer on weak
// evidence.
func TestTheWaysOutOfDown(t *testing.T) {
	t.Parallel()
	failed, unclear, local := errors.New("no route to host"), &Fault{Class: ClassApplication, Status: 404}, &Fault{Class: ClassLocal, Err: io.EOF}
	const up, down, moved, trial = "up", "down", "moved", "on trial"
	for _, row := range []struct {
		active, other error
		want          string
		witness       bool
	}{
		{nil, nil, up, false}, {nil, failed, up, false}, {nil, errWeak, up, false}, {errWeak, failed, up, false}, {errWeak, nil, up, false},
		{unclear, nil, up, false}, {unclear, failed, up, false},
		{local, nil, down, false}, {local, failed, down, false}, {local, errWeak, down, false}, {local, local, down, false},
		{failed, failed, down, true}, {failed, unclear, down, true}, {failed, local, down, true},
		{failed, nil, moved, true}, {failed, errWeak, trial, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			ends := [2]error{row.active, row.other}
			transport := newTestTransport(t, acknowledging, Config{ProbeInterval: -1, Probe: answersProbes(&ends)})
			if row.want != up { // the end of an outage is reported to a store
				transport.fleet = &fleet{wake: make(chan struct{}, 1)}
			}
			st := goDown(transport)
			var cause error
			st.pool.waits.list(&waitingRead{cancel: func(err error) { cause = err }})
			assert.Equal(t, row.want != down, transport.tryRecovery(st), "%v, %v", row.active, row.other)
			transport.mu.Lock()
			defer transport.mu.Unlock()
			now := transport.state.Load()
			got := up
			switch {
			case transport.rule.Down:
				got = down
				assert.NotNil(t, transport.outage.faults[Primary])
				if row.active == failed { // otherwise the other probe is not waited for
					assert.NotNil(t, transport.outage.faults[Alternate])
				}
			case now.provisional:
				got = trial
			case now.active == Alternate:
				got = moved
			}
			assert.Equal(t, row.want, got, "%v, %v", row.active, row.other)
			assert.Equal(t, got == moved || got == trial, now.active == Alternate)
			assert.Equal(t, row.witness, transport.fleet != nil && transport.fleet.witnessed.After(time.Now()), "%v, %v", row.active, row.other)
			assert.Equal(t, got == moved, cause == errAbandoned)
			assert.Equal(t, got == trial, transport.leftProvisionally == st.pool)
			transport.fleet = nil // no store to report the rest to
		})
	}
}

// A recovery that ConfirmSwitch refuses does not happen, and is reported.
func TestAWayOutOfDownMayBeRefused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ends := [2]error{errors.New("no route to host"), nil}
		transport := tellAll(t, Config{ProbeInterval: -1, Probe: answersProbes(&ends),
			ConfirmSwitch: func(context.Context, Switch) error { return errors.New("contoso closes its books") }})
		st := goDown(transport.Transport)
		texts := transport.locked(func() {
			transport.mu.Unlock()
			defer transport.mu.Lock()
			assert.False(t, transport.tryRecovery(st))
		})
		assert.Equal(t, []string{"switch refused primary>alternate: not confirmed: contoso closes its books"}, texts)
		assert.True(t, transport.state.Load().down)
		assert.Equal(t, Primary, transport.state.Load().active)
		transport.Close()
		assert.False(t, transport.tryRecovery(st), "closed")
	})
}

// While pinned, every endpoint is probed.
func TestARoundOfProbesWhilePinned(t *testing.T) {
	t.Parallel()
	refused := errors.New("no route to host")
	for _, row := range []struct {
		ends      [2]error
		alternate string
		probed    int
		good      bool
	}{
		{alternate: NoAlternate, probed: 1, good: true}, {ends: [2]error{refused, nil}, alternate: NoAlternate, probed: 1},
		{probed: 2, good: true}, {ends: [2]error{refused, nil}, probed: 2}, {ends: [2]error{nil, refused}, probed: 2},
	} {
		probed, probe := 0, answersProbes(&row.ends)
		transport := newTestTransport(t, acknowledging, Config{ProbeInterval: -1, Alternate: row.alternate, Probe: func(ctx context.Context, c *http.Client, u *url.URL) error {
			probed++
			return probe(ctx, c, u)
		}})
		assert.Equal(t, row.good, transport.round(&state{pinned: true}))
		assert.Equal(t, row.probed, probed)
	}
}

// A probe of the primary that began before a judgement does not count.
func TestAProbeOfBeforeDoesNotCount(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		transport := newTestTransport(t, acknowledging, Config{ProbeInterval: -1, Rise: 1, MinDwell: time.Minute})
		before, p := transport.state.Load(), transport.newPool()
		transport.mu.Lock()
		transport.switchLocked(switchover{to: Alternate}, p, func(now time.Time) bool { return transport.rule.SwitchTo(now, rule.Alternate, false) })
		transport.unlock()
		time.Sleep(time.Hour)
		assert.False(t, transport.readyToFailBack(before))
		assert.Equal(t, StateHalfOpen, transport.endpoints[Primary].breaker.state())
		assert.True(t, transport.readyToFailBack(transport.state.Load()))
		assert.Equal(t, StateClosed, transport.endpoints[Primary].breaker.state())
	})
}
