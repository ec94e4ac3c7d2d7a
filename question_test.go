package failover

import (
	"context"
	"errors"
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func unansweredAt(at Endpoint) *Fault {
	return &Fault{Class: ClassTransient, Endpoint: at, Err: context.DeadlineExceeded}
}

// A fault at the endpoint that is not active, where a redirect has led, is recorded but raises
// no question and trips nothing.
func TestAFaultWhereTheTrafficIsNot(t *testing.T) {
	t.Parallel()
	transport := newTestTransport(t, acknowledging, Config{ProbeInterval: -1, FailureThreshold: 1})
	aimed := (&redirection{transport, Alternate}).aim(transport.state.Load())
	q, decides := transport.count(aimed, unansweredAt(Alternate), false)
	assert.Nil(t, q)
	assert.False(t, decides)
	assert.False(t, transport.endpoints[Primary].suspect.Load() || transport.endpoints[Alternate].suspect.Load())
	assert.NotNil(t, transport.endpoints[Alternate].lastFault.Load())
}

// A question that ends while its probes are running makes no witness of their later results.
func TestAQuestionThatIsEndedMakesNoWitness(t *testing.T) {
	t.Parallel()
	for _, ended := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			refused := errors.New("no route to host")
			p := &probers{ends: [2]error{refused, refused}, takes: [2]time.Duration{time.Second, 5 * time.Second}}
			transport := member(t, Config{Probe: p.probe})
			q, decides := transport.count(transport.state.Load(), unansweredAt(Primary), false)
			require.NotNil(t, q)
			require.True(t, decides)
			time.Sleep(2 * time.Second)
			if ended {
				transport.Pin(Primary)
			} else {
				time.Sleep(3500 * time.Millisecond)
			}
			<-q.done
			transport.mu.Lock()
			defer transport.mu.Unlock()
			assert.Equal(t, !ended, transport.fleet.witnessed.After(time.Now()))
			assert.Equal(t, !ended, transport.rule.Down)
			transport.fleet = nil // no store to report the rest to
		})
	}
}

// Unless the active endpoint is known to fail, the traffic stays. The verdict is told once it
// is known, over the open connections if no new one led to an answer.
func TestAnAlarmWithoutAVerdictIsReported(t *testing.T) {
	t.Parallel()
	for _, slow := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			ends := [2]error{&Fault{Class: ClassLocal, Err: io.EOF}, errors.New("no route to host")}
			transport := tellAll(t, Config{ProbeInterval: -1, Probe: answersProbes(&ends)})
			before := transport.state.Load()
			f := unansweredAt(Primary)
			if slow {
				transport.suspect(before.pool)
			} else {
				transport.count(before, f, false)
			}
			synctest.Wait()
			var told []Event
			for _, e := range transport.events {
				if e.Kind == EventSwitchRefused {
					told = append(told, e)
				}
			}
			if slow {
				assert.Empty(t, told, "no request has failed")
			} else if assert.Len(t, told, 1) {
				assert.Equal(t, []any{Primary, Alternate, f}, []any{told[0].From, told[0].To, told[0].Fault})
				assert.Equal(t, "the probe of the primary is inconclusive: "+ends[Primary].Error(), told[0].Reason)
			}
			assert.Equal(t, slow, transport.endpoints[Primary].suspect.Load(), "after a fault it begins anew")
			assert.Same(t, before, transport.state.Load())
		})
	}
}

// Pinning overtakes a switch that waits for ConfirmSwitch, and nothing is refused any more.
func TestAPinOvertakesWhatIsToBeConfirmed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ends, asked := [2]error{errors.New("no route to host"), nil}, false
		transport := tellAll(t, Config{ProbeInterval: -1, Probe: answersProbes(&ends), ConfirmSwitch: func(ctx context.Context, _ Switch) error {
			asked = true
			<-ctx.Done()
			return ctx.Err()
		}})
		q, _ := transport.count(transport.state.Load(), unansweredAt(Primary), false)
		require.NotNil(t, q)
		synctest.Wait()
		require.True(t, asked)
		transport.Pin(Primary)
		<-q.done
		synctest.Wait()
		for _, e := range transport.events {
			assert.NotEqual(t, EventSwitchRefused, e.Kind, e.Reason)
		}
		assert.Equal(t, Primary, transport.state.Load().active)
	})
}

// An attempt that exceeds a time limit of the Transport decides; one that exceeds the caller's
// deadline does not.
func TestWhoseTimeWasUp(t *testing.T) {
	t.Parallel()
	for _, own := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			ends, cfg := [2]error{errors.New("no route to host"), nil}, Config{ProbeInterval: -1, SuspectAfter: -1, MaxAttempts: 1}
			cfg.Probe = answersProbes(&ends)
			ctx, cancel := t.Context(), context.CancelFunc(func() {})
			if own {
				ctx, cancel = context.WithTimeout(ctx, time.Second)
			} else {
				cfg.AttemptTimeout = time.Second
			}
			defer cancel()
			transport := newTestTransport(t, roundTripFunc(func(req *http.Request) (*http.Response, error) {
				<-req.Context().Done()
				return nil, context.Cause(req.Context())
			}), cfg)
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+contosoHosts[0]+"/", nil)
			require.NoError(t, err)
			_, err = transport.RoundTrip(req)
			assert.Error(t, err)
			time.Sleep(time.Second)
			want := Alternate
			if own {
				want = Primary
			}
			assert.Equal(t, want, transport.Status().Active)
		})
	}
}

// Where neither endpoint serves, a member is a witness of that, but asks no other: nothing is to be
// decided.
func TestNoOtherIsAskedWhereNothingServes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		refused := errors.New("no route to host")
		s := new(scripted)
		transport := s.member(t, Config{Quorum: 2, Probe: answersProbes(&[2]error{refused, refused})})
		witness := func() bool {
			transport.mu.Lock()
			defer transport.mu.Unlock()
			return transport.fleet.witnessed.After(time.Now())
		}
		q, _ := transport.count(transport.state.Load(), unansweredAt(Primary), false)
		require.NotNil(t, q)
		<-q.done
		st := transport.state.Load()
		require.True(t, st.down)
		assert.True(t, witness())
		transport.mu.Lock()
		transport.fleet.witnessed = time.Time{}
		transport.mu.Unlock()
		assert.False(t, transport.tryRecovery(st))
		assert.True(t, witness())
		assert.Empty(t, s.claims)
	})
}
