package failover

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover/internal/rule"
)

// refusals returns the reasons of the switches that were refused.
func (r *telling) refusals() (reasons []string) {
	synctest.Wait()
	for _, e := range r.events {
		if e.Kind == EventSwitchRefused {
			reasons = append(reasons, e.Reason)
		}
	}
	return reasons
}

var errObjection = errors.New("contoso closes its books")

// A fence that comes while a switch is being confirmed is stronger evidence, and so the
// switch is proposed once more. Without it, an objection stands, and is told.
func TestAFenceProposesASwitchOnceMore(t *testing.T) {
	t.Parallel()
	for _, fenced := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			ends, asked := [2]error{errors.New("no route to host"), nil}, 0
			var transport *telling
			transport = tellAll(t, Config{ProbeInterval: -1, Probe: answersProbes(&ends), ConfirmSwitch: func(context.Context, Switch) error {
				if asked++; asked > 1 {
					return nil
				}
				if fenced {
					transport.count(transport.state.Load(), &Fault{Class: ClassUnavailable, Definitive: true, Status: 503}, false)
				}
				return errObjection
			}})
			f := answeredBy503()
			f.RetryAfter = 5 * time.Second // one fault is no alarm, and decides all the same
			q, decides := transport.count(transport.state.Load(), f, false)
			require.NotNil(t, q)
			assert.True(t, decides)
			<-q.done
			if fenced {
				assert.Equal(t, 2, asked)
				assert.Empty(t, transport.refusals())
				assert.Equal(t, Alternate, transport.state.Load().active)
				return
			}
			assert.Equal(t, 1, asked)
			assert.Equal(t, []string{"not confirmed: " + errObjection.Error()}, transport.refusals())
			assert.Equal(t, Primary, transport.state.Load().active)
		})
	}
}

// What has overtaken a switch that is to be confirmed is no refusal, and the switch is not
// made, whatever ConfirmSwitch returns.
func TestASwitchThatIsOvertakenIsNotMade(t *testing.T) {
	t.Parallel()
	for name, overtake := range map[string]func(*testing.T, *telling){
		"pinned":         func(_ *testing.T, r *telling) { r.Pin(Primary) },
		"moved by hand":  func(t *testing.T, r *telling) { assert.NoError(t, r.Switch(t.Context(), Alternate, "by hand")) },
		"closed":         func(_ *testing.T, r *telling) { st := r.state.Load(); go r.Close(); <-st.changed },
		"moved and back": func(_ *testing.T, r *telling) { r.Pin(Alternate); r.Pin(Primary); r.Unpin() },
	} {
		for _, confirmed := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				ends := [2]error{errors.New("no route to host"), nil}
				var transport *telling
				transport = tellAll(t, Config{ProbeInterval: -1, Probe: answersProbes(&ends), ConfirmSwitch: func(context.Context, Switch) error {
					overtake(t, transport)
					if confirmed {
						return nil
					}
					return errObjection
				}})
				st := transport.state.Load()
				q, _ := transport.count(st, unansweredAt(Primary), false)
				require.NotNil(t, q)
				<-q.done
				assert.Empty(t, transport.refusals(), name)
				automatic := transport.Status().Active == Alternate && name != "moved by hand"
				assert.False(t, automatic, name)
			})
		}
	}
	synctest.Test(t, func(t *testing.T) {
		var transport *Transport
		transport = newTestTransport(t, acknowledging, Config{ProbeInterval: -1, ConfirmSwitch: func(context.Context, Switch) error {
			transport.Pin(Primary)
			return nil
		}})
		err := transport.propose(t.Context(), transport.state.Load(), switchover{to: Alternate}, damping)
		assert.Equal(t, errOvertaken, err)
		assert.Equal(t, Primary, transport.state.Load().active)
	})
}

// An overtaken question refuses nothing, and is not what the evidence of now is about.
func TestAnOvertakenQuestionRefusesNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ends := [2]error{}
		transport := tellAll(t, Config{ProbeInterval: -1, Probe: answersProbes(&ends), ConfirmSwitch: func(context.Context, Switch) error { return errObjection }})
		q, _ := transport.count(transport.state.Load(), &Fault{Class: ClassUnavailable, Definitive: true, Status: 503}, false)
		require.NotNil(t, q)
		before := &question{number: q.number - 1, st: q.st}
		assert.True(t, transport.definite(q))
		assert.False(t, transport.definite(before))
		<-q.done
		told := len(transport.refusals())
		transport.proposeSwitch(t.Context(), before, findings{Findings: rule.Findings{Active: rule.Failed, Other: rule.Passed}})
		assert.Len(t, transport.refusals(), told)
	})
}

// What an early question has found serves one that decides. Another early one asks itself.
func TestWhoseFindingsAreKept(t *testing.T) {
	t.Parallel()
	for _, decides := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			p := &probers{ends: [2]error{errors.New("no route to host"), nil}}
			transport := newTestTransport(t, acknowledging, Config{ProbeInterval: -1, FailureThreshold: 5, Probe: p.probe})
			st := transport.state.Load()
			q, _ := transport.count(st, answeredBy503(), false)
			require.NotNil(t, q)
			<-q.done
			assert.True(t, q.toSwitch)
			time.Sleep(1300 * time.Millisecond) // which is longer than no question follows
			p.mu.Lock()
			p.ends[Primary] = nil
			p.mu.Unlock()
			f := answeredBy503()
			if decides {
				f.RetryAfter = time.Second
			}
			again, _ := transport.count(st, f, false)
			require.NotNil(t, again)
			require.NotSame(t, q, again)
			<-again.done
			assert.False(t, again.toSwitch)
			synctest.Wait() // the verdict does not wait for the second probe
			want := map[bool]int{false: 2, true: 1}[decides]
			assert.Equal(t, [2]int{want, want}, p.begun)
			assert.Equal(t, decides, transport.state.Load().active == Alternate)
		})
	}
}

// Why the traffic stays is told: what the endpoint answers, its probe or requests.
func TestWhatTheEndpointAnswersIsTold(t *testing.T) {
	t.Parallel()
	for _, requests := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			p := &probers{ends: [2]error{nil, errors.New("no route to host")}, takes: [2]time.Duration{2 * time.Second, time.Second}}
			want := []string{"the primary answers its probe"}
			if requests {
				p.ends[Primary] = context.DeadlineExceeded
				want = []string{"the primary answers requests"}
			}
			transport := tellAll(t, Config{ProbeInterval: -1, Probe: p.probe})
			time.Sleep(time.Minute)
			q, _ := transport.count(transport.state.Load(), unansweredAt(Primary), false)
			require.NotNil(t, q)
			transport.mu.Lock()
			transport.endpoints[Primary].lastWhole = time.Since(transport.started) + time.Second
			transport.mu.Unlock()
			<-q.done
			synctest.Wait()
			var told []string
			for _, e := range transport.events {
				if e.Kind == EventSwitchRefused || e.Kind == EventRenewed {
					told = append(told, e.Reason)
				}
			}
			if !requests {
				require.Len(t, told, 1)
				told[0] = told[0][:len(want[0])]
			}
			assert.Equal(t, want, told)
		})
	}
}
