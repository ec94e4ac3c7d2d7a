package failover

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptrace"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover/internal/rule"
)

// answering returns a response of a gateway, or an acknowledgement, with a body that tells
// what becomes of it.
func answering(req *http.Request, status int) (*http.Response, *tellingBody) {
	body := &tellingBody{Reader: strings.NewReader("contoso")}
	return &http.Response{StatusCode: status, Header: http.Header{"Odata-Version": {"4.0"}}, Body: body, Request: req}, body
}

// sendOnce sends a request with a body that can be read only once, or none.
func sendOnce(t *testing.T, ctx context.Context, transport *Transport, method string, body io.Reader) (*http.Response, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, method, "https://contoso.api.crm.dynamics.com/api/data/v9.2/accounts(1)", body)
	require.NoError(t, err)
	return transport.RoundTrip(req)
}

// What ends a call at once neither pauses nor asks for a repeat from the budget.
func TestACallThatMayNotGoOnDoesNotPause(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		down  bool
		spend func(*http.Request) // what Base does with the body
		after string              // Retry-After
		sends int
		takes time.Duration
	}{
		"goes on":              {sends: 2, spend: func(*http.Request) {}, takes: 50 * time.Millisecond},
		"down":                 {down: true, sends: 1, spend: func(*http.Request) {}},
		"the body is spent":    {sends: 1, spend: func(req *http.Request) { req.Body.Read(make([]byte, 1)) }},
		"down, and up by then": {down: true, sends: 1, spend: func(*http.Request) {}},
		"to be left alone":     {sends: 1, spend: func(*http.Request) {}, after: "1"},
		"the body is spent by then": {sends: 1, takes: 50 * time.Millisecond, spend: func(req *http.Request) {
			time.AfterFunc(10*time.Millisecond, func() { req.Body.Read(make([]byte, 1)) })
		}},
	} {
		synctest.Test(t, func(t *testing.T) {
			sends := 0
			var transport *Transport
			transport = newTestTransport(t, roundTripFunc(func(req *http.Request) (*http.Response, error) {
				sends++
				row.spend(req)
				resp, _ := answering(req, 503)
				if row.after != "" {
					resp.Header.Set("Retry-After", row.after)
				}
				if name == "down, and up by then" {
					up := *transport.state.Load()
					up.down = false
					up.epoch++
					transport.state.Store(&up)
				}
				return resp, nil
			}), Config{ProbeInterval: -1, RetryThrottled: 5 * time.Second, MaxAttempts: 2, MaxBody: -1, FailureThreshold: 9, SuspectAfter: -1, Probe: (&probers{}).probe})
			if row.down {
				goDown(transport)
			}
			budget, start := transport.budget.shares.Load(), time.Now()
			resp, err := sendOnce(t, t.Context(), transport, "PUT", &tellingBody{Reader: strings.NewReader("{}")})
			require.NoError(t, err, name)
			assert.Equal(t, 503, resp.StatusCode)
			resp.Body.Close()
			assert.Equal(t, row.sends, sends, name)
			assert.Equal(t, row.takes > 0, time.Since(start) >= 50*time.Millisecond, name)
			assert.Equal(t, row.takes > 0, transport.budget.shares.Load() < budget, name)
			time.Sleep(time.Second)
		})
	}
}

// A fault that decides is not followed by another attempt before there is a verdict, and a
// call that ends while it waits for one does not go on.
func TestACallWaitsForTheVerdict(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := &probers{ends: [2]error{errors.New("no route to host"), nil}, takes: [2]time.Duration{2 * time.Second, 2 * time.Second}}
		var hosts []string
		transport := newTestTransport(t, roundTripFunc(func(req *http.Request) (*http.Response, error) {
			hosts = append(hosts, req.URL.Host)
			if len(hosts) == 1 {
				resp, _ := answering(req, 503)
				return resp, nil
			}
			return acknowledging(req)
		}), Config{ProbeInterval: -1, FailureThreshold: 1, Probe: p.probe})
		resp, err := sendOnce(t, t.Context(), transport, "PUT", strings.NewReader("{}"))
		require.NoError(t, err)
		assert.Less(t, resp.StatusCode, 300)
		assert.Equal(t, []string{"contoso.api.crm.dynamics.com", "contoso--s.api.crm.dynamics.com"}, hosts)

		q := &question{done: make(chan struct{})}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		req, err := http.NewRequest("GET", "https://contoso.api.crm.dynamics.com/", nil)
		require.NoError(t, err)
		assert.False(t, (&call{req: req.WithContext(ended)}).await(q))
		canceledRequest := req.Clone(t.Context())
		over := make(chan struct{})
		close(over)
		canceledRequest.Cancel = over //lint:ignore SA1019 callers still set it
		assert.False(t, (&call{req: canceledRequest}).await(q))
		paused := &call{t: transport, req: canceledRequest}
		assert.False(t, paused.pause(transport.state.Load(), &Fault{}, false, nil))
		close(q.done)
		assert.True(t, (&call{req: req}).await(q))
	})
}

// An answer that is kept is returned if none of the repeats gets any.
func TestTheAnswerBeforeRepeatsThatGetNone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		sends := 0
		var told []Attempt
		transport := newTestTransport(t, roundTripFunc(func(req *http.Request) (*http.Response, error) {
			if sends++; sends > 1 {
				return nil, io.ErrUnexpectedEOF
			}
			resp, _ := answering(req, 503)
			return resp, nil
		}), Config{ProbeInterval: -1, MaxAttempts: 4, FailureThreshold: 9, Probe: (&probers{}).probe, OnFault: func(_ context.Context, a Attempt) { told = append(told, a) }})
		resp, err := sendOnce(t, t.Context(), transport, "GET", nil)
		require.NoError(t, err)
		assert.Equal(t, 503, resp.StatusCode)
		assert.Equal(t, 4, sends)
		sends = 0
		_, err = sendOnce(t, t.Context(), transport, "POST", strings.NewReader("{}"))
		require.NoError(t, err)
		require.Len(t, told, 5)
		for i, a := range told {
			assert.Equal(t, i == 4, a.OutcomeUnknown, "a read is never in doubt")
			assert.Equal(t, i < 3, a.Again)
		}
	})
}

// A body that no attempt has read is closed if the call is canceled, also after an answer.
func TestTheBodyOfACallThatIsCanceledIsClosed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		sends := 0
		transport := newTestTransport(t, roundTripFunc(func(req *http.Request) (*http.Response, error) {
			if sends++; sends == 1 {
				resp, _ := answering(req, 503)
				return resp, nil
			}
			cancel()
			return nil, ctx.Err()
		}), Config{ProbeInterval: -1, MaxBody: -1, FailureThreshold: 9, Probe: (&probers{}).probe})
		body := &tellingBody{Reader: strings.NewReader("{}")}
		_, err := sendOnce(t, ctx, transport, "PUT", body)
		assert.ErrorIs(t, err, context.Canceled)
		assert.Equal(t, 2, sends)
		assert.Equal(t, int32(1), body.closed.Load())
	})
}

// What a GOAWAY has left out is sent again, as part of the same attempt.
func TestWhatAGoAwayHasLeftOutIsNoAttempt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		sends := 0
		transport := newTestTransport(t, roundTripFunc(func(req *http.Request) (*http.Response, error) {
			if sends++; sends == 1 {
				return nil, errors.New("http2: Transport: cannot retry err [http2: Transport received Server's graceful shutdown GOAWAY]" +
					" after Request.Body was written; define Request.GetBody to avoid this error")
			}
			return acknowledging(req)
		}), Config{ProbeInterval: -1, MaxAttempts: 1, OnFault: func(context.Context, Attempt) { t.Error("an attempt has failed") }})
		resp, err := sendOnce(t, t.Context(), transport, "POST", strings.NewReader("{}"))
		require.NoError(t, err)
		assert.Less(t, resp.StatusCode, 300)
		assert.Equal(t, 2, sends)
	})
}

// onTrial moves the traffic to the alternate on weak evidence.
func onTrial(transport *Transport) {
	p := transport.newPool()
	transport.mu.Lock()
	defer transport.unlock()
	transport.switchLocked(switchover{to: Alternate, provisional: true}, p, func(now time.Time) bool { return transport.rule.SwitchTo(now, rule.Alternate, true) })
}

// What an endpoint on trial answers to a write that may not be repeated reaches nobody. A
// deadline of the caller's own ends no trial.
func TestWhatATrialLeaves(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var last *tellingBody
		transport := newTestTransport(t, roundTripFunc(func(req *http.Request) (resp *http.Response, err error) {
			if req.Method == "GET" {
				<-req.Context().Done()
				return nil, req.Context().Err()
			}
			resp, last = answering(req, 503)
			return resp, nil
		}), Config{ProbeInterval: -1, SuspectAfter: -1, Probe: (&probers{ends: [2]error{errors.New("no route to host"), errors.New("no route to host")}}).probe})
		onTrial(transport)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second/10)
		defer cancel()
		_, err := sendOnce(t, ctx, transport, "GET", nil)
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Equal(t, Alternate, transport.state.Load().active)
		_, err = sendOnce(t, t.Context(), transport, "POST", strings.NewReader("{}"))
		assert.ErrorIs(t, err, ErrOutcomeUnknown)
		assert.Equal(t, Primary, transport.state.Load().active)
		require.NotNil(t, last)
		assert.Equal(t, int32(1), last.closed.Load())
	})
}

// A judgement may overtake an attempt before it is sent. Authorize gets the caller's own context,
// so that nothing which Authorize does in it is taken for the attempt.
func TestAnAttemptThatIsNotSentHasNoContext(t *testing.T) {
	t.Parallel()
	var contexts []context.Context
	var transport *Transport
	transport = newTestTransport(t, acknowledging, Config{ProbeInterval: -1, AttemptTimeout: time.Hour, Authorize: func(req *http.Request) error {
		if contexts = append(contexts, req.Context()); len(contexts) == 1 {
			transport.Pin(Alternate)
		}
		return nil
	}})
	resp, err := sendOnce(t, t.Context(), transport, "PUT", nil)
	require.NoError(t, err)
	assert.Equal(t, []context.Context{t.Context(), t.Context()}, contexts)
	require.NoError(t, resp.Body.Close())
}

// A write that is answered by 300 is neither acknowledged nor in doubt.
func TestWhichAnswersAcknowledge(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for status, want := range map[int]int{200: 1, 299: 1, 300: 0, 304: 0} {
			var writes []Write
			transport := newTestTransport(t, roundTripFunc(func(req *http.Request) (*http.Response, error) {
				resp, _ := answering(req, status)
				return resp, nil
			}), Config{ProbeInterval: -1, OnWrite: func(w Write) { writes = append(writes, w) }})
			resp, err := sendOnce(t, t.Context(), transport, "POST", strings.NewReader("{}"))
			require.NoError(t, err)
			resp.Body.Close()
			synctest.Wait()
			assert.Len(t, writes, want, status)
		}
	})
}

// Both the error of a context that has ended and its cause are found in the error of the
// call, whichever of them Base has returned.
func TestWhyAContextHasEndedIsFound(t *testing.T) {
	t.Parallel()
	cause := errors.New("contoso closes its books")
	for _, own := range []bool{false, true} {
		ctx, cancel := context.WithCancelCause(t.Context())
		transport := newTestTransport(t, roundTripFunc(func(req *http.Request) (*http.Response, error) {
			cancel(cause)
			if own {
				return nil, cause
			}
			return nil, ctx.Err()
		}), Config{ProbeInterval: -1})
		_, err := sendOnce(t, ctx, transport, "GET", nil)
		assert.ErrorIs(t, err, cause)
		assert.ErrorIs(t, err, context.Canceled)
	}
}

// A write in whose attempt Base panics is in doubt if it may have been sent.
func TestAWriteThatHasPanicked(t *testing.T) {
	t.Parallel()
	for _, got := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			var told []Event
			transport := newTestTransport(t, roundTripFunc(func(req *http.Request) (*http.Response, error) {
				hooks := httptrace.ContextClientTrace(req.Context())
				hooks.GetConn("contoso.api.crm.dynamics.com:443")
				if got {
					hooks.GotConn(httptrace.GotConnInfo{})
				}
				panic("contoso")
			}), Config{ProbeInterval: -1, OnEvent: func(e Event) { told = append(told, e) }})
			transport.connections.direct = true // so that hooks are about the whole of the attempt
			assert.Panics(t, func() { sendOnce(t, t.Context(), transport, "POST", strings.NewReader("{}")) })
			synctest.Wait()
			require.Equal(t, got, len(told) == 1)
			if got {
				assert.Equal(t, EventOutcomeUnknown, told[0].Kind)
				assert.Equal(t, ClassTransient, told[0].Fault.Class)
			}
		})
	}
}

// A call whose time is up makes no further attempt, even if the traffic has switched meanwhile.
func TestACallWhoseTimeIsUpDoesNotFollowASwitch(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var told []Attempt
		var transport *Transport
		transport = newTestTransport(t, roundTripFunc(func(req *http.Request) (*http.Response, error) {
			transport.Pin(Alternate)
			<-ctx.Done()
			return nil, ctx.Err()
		}), Config{ProbeInterval: -1, OnFault: func(_ context.Context, a Attempt) { told = append(told, a) }})
		_, err := sendOnce(t, ctx, transport, "GET", nil)
		var e *Error
		require.ErrorAs(t, err, &e)
		assert.Len(t, e.Attempts, 1)
		require.Len(t, told, 1)
		assert.False(t, told[0].Again)
	})
}

// A call that met a trial goes on at the endpoint that was left, even if that is down by then.
func TestACallGoesOnAfterATrialAlthoughTheTransportIsDown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		refused, fails := errors.New("no route to host"), make(chan struct{})
		asked := 0
		transport := newTestTransport(t, roundTripFunc(func(req *http.Request) (*http.Response, error) {
			switch {
			case strings.Contains(req.URL.Host, "--s."):
				if asked++; asked == 1 {
					<-fails
				}
			case asked == 2:
				resp, _ := answering(req, 503)
				return resp, nil
			default:
				resp, _ := answering(req, 200)
				return resp, nil
			}
			return nil, refused
		}), Config{ProbeInterval: -1, SuspectAfter: -1, FailureThreshold: 1, MaxAttempts: 2, Probe: (&probers{ends: [2]error{refused, refused}}).probe})
		onTrial(transport)
		statuses := make(chan int, 1)
		go func() {
			resp, err := sendOnce(t, t.Context(), transport, "GET", nil)
			if assert.NoError(t, err) {
				resp.Body.Close()
				statuses <- resp.StatusCode
			}
			close(statuses)
		}()
		synctest.Wait()
		resp, err := sendOnce(t, t.Context(), transport, "GET", nil) // ends the trial
		require.NoError(t, err)
		assert.Equal(t, 503, resp.StatusCode)
		synctest.Wait()
		st := transport.state.Load()
		require.True(t, st.down)
		require.Equal(t, Primary, st.active)
		asked++
		close(fails)
		assert.Equal(t, 200, <-statuses)
	})
}
