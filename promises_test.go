package failover_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover"
	"github.com/d365failover/failover/failovertest"
)

// Small promises that were once broken.

func TestReadingABodyAheadEndsWithTheContext(t *testing.T) {
	tell(t, failover.Config{}, func(s *story) {
		r, w := io.Pipe()
		defer w.Close()
		go w.Write([]byte("{"))
		ctx, cancel := context.WithTimeout(s.Context(), time.Second)
		defer cancel()
		body := &closeCounter{Reader: r}
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, orgURL+accounts, body)
		require.NoError(s, err)
		start := time.Now()
		_, err = s.transport.RoundTrip(req)
		assert.ErrorIs(s, err, context.DeadlineExceeded)
		assert.NotErrorIs(s, err, failover.ErrOutcomeUnknown, "nothing was sent")
		assert.Equal(s, time.Second, time.Since(start))
		assert.EqualValues(s, 1, body.closed.Load())
	})
}

func TestABodyThatWaitsForTheAnswerIsStreamed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, w := io.Pipe()
		defer w.Close()
		transport, err := failover.New(orgURL, &failover.Config{Base: roundTripper(func(req *http.Request) (*http.Response, error) {
			first := make([]byte, 1)
			_, err := io.ReadFull(req.Body, first)
			assert.NoError(t, err)
			assert.Equal(t, "{", string(first))
			go io.Copy(io.Discard, req.Body)
			return &http.Response{StatusCode: 204, Header: http.Header{}, Body: http.NoBody, Request: req}, nil
		})})
		require.NoError(t, err)
		defer transport.Close()
		go w.Write([]byte("{"))
		req, err := http.NewRequest(http.MethodPost, orgURL+accounts, r)
		require.NoError(t, err)
		resp, err := transport.RoundTrip(req)
		require.NoError(t, err)
		assert.Equal(t, 204, resp.StatusCode)
	})
}

func TestABodyThatCannotBeReadIsClosedOnce(t *testing.T) {
	t.Parallel()
	for _, getBody := range []bool{true, false} {
		transport, err := failover.New(orgURL, &failover.Config{Base: roundTripper(func(*http.Request) (*http.Response, error) { panic("nothing to send") })})
		require.NoError(t, err)
		defer transport.Close()
		body := &closeCounter{Reader: iotest.ErrReader(errors.New("disk failure"))}
		req, err := http.NewRequest(http.MethodPost, orgURL+accounts, body)
		require.NoError(t, err)
		if getBody {
			req.GetBody = func() (io.ReadCloser, error) { return body, nil }
		}
		_, err = transport.RoundTrip(req)
		assert.EqualError(t, err, "disk failure")
		assert.EqualValues(t, 1, body.closed.Load())
	}
}

func TestASlowSignInServiceIsNoFaultOfTheEndpoint(t *testing.T) {
	slow := func(*http.Request) error { time.Sleep(11 * time.Second); return nil }
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		org := failovertest.StartInMemory(&failovertest.Config{Anonymous: true})
		defer org.Close()
		client, transport, err := failover.Wrap(org.Client(), org.URL(), &failover.Config{AttemptTimeout: 10 * time.Second, Authorize: slow})
		require.NoError(t, err)
		defer transport.Close()
		resp, err := client.Post(org.URL()+accounts, "application/json", strings.NewReader(`{"name":"Contoso"}`))
		require.NoError(t, err)
		resp.Body.Close()
		assert.Equal(t, 204, resp.StatusCode)
		assert.Empty(t, transport.Status().Primary.Faults)
	})
}

func TestAuthorizeMaySignTheBody(t *testing.T) {
	var signed []string
	tell(t, failover.Config{Authorize: func(req *http.Request) error {
		if req.Body != nil {
			body, err := io.ReadAll(req.Body)
			signed = append(signed, string(body))
			return err
		}
		return nil
	}}, func(s *story) {
		s.create("Contoso") // is answered with 401
		assert.Equal(s, []string{`{"name":"Contoso"}`}, signed)
		require.Len(s, s.org.Primary().Deliveries(), 1)
		assert.NotEmpty(s, s.org.Primary().Deliveries()[0].BodyHash, "it was sent nevertheless")
	})
}

func TestAPinDoesNotCutThePauseShort(t *testing.T) {
	tell(t, failover.Config{RetryThrottled: 3 * time.Minute}, func(s *story) {
		s.org.Primary().FailNext(1, failovertest.Throttle(2*time.Minute))
		go func() {
			time.Sleep(time.Second)
			s.transport.Pin(failover.Primary)
			time.Sleep(time.Second)
			s.transport.Unpin()
		}()
		start := time.Now()
		assert.Equal(s, 200, s.get(accounts))
		assert.GreaterOrEqual(s, time.Since(start), 2*time.Minute)
	})
}

func TestADayOfRetryAfterIsNotWaitedForInPart(t *testing.T) {
	tell(t, failover.Config{RetryThrottled: 5 * time.Minute}, func(s *story) {
		s.org.Primary().Fail(failovertest.Throttle(24 * time.Hour))
		start := time.Now()
		assert.Equal(s, 429, s.get(accounts))
		assert.Zero(s, time.Since(start))
	})
}

func TestAWriteInProgressDuringTheSwitchIsReported(t *testing.T) {
	tell(t, failover.Config{}, func(s *story) {
		s.org.Alternate().Serve()
		s.org.Primary().FailWhen(func(r *http.Request) bool { return r.Method == http.MethodPost }, failovertest.Delay(10*time.Second))
		done := make(chan int)
		go func() {
			status, err := s.create("late")
			assert.NoError(s, err)
			done <- status
		}()
		time.Sleep(time.Second)
		require.NoError(s, s.transport.Switch(s.Context(), failover.Alternate, "by hand"))
		first := s.transport.Status().Loss
		assert.Empty(s, first.AtRisk)
		assert.Equal(s, 204, <-done, "the primary has acknowledged it")
		synctest.Wait()
		loss := s.transport.Status().Loss
		require.Len(s, loss.AtRisk, 1)
		assert.NotEmpty(s, loss.AtRisk[0].EntityID)
		assert.Empty(s, first.AtRisk, "what was given out does not change")
		assert.Equal(s, 1, s.count(failover.EventLossGrown))

		// The record may not exist here, so an update must not create a stub of it.
		_, err := s.try(s.Context(), http.MethodPatch, orgURL+loss.AtRisk[0].Entity, `{"name":"stub"}`)
		require.NoError(s, err)
		sent := s.org.Alternate().Deliveries()
		assert.Equal(s, "*", sent[len(sent)-1].Header.Get("If-Match"))
	})
}

func TestReadsAreNoWritesAtRisk(t *testing.T) {
	tell(t, failover.Config{}, func(s *story) {
		s.org.Alternate().Serve()
		s.send("POST", soapService, "application/soap+xml; charset=utf-8", soapWhoAmI)
		s.send("POST", "/api/data/v9.2/$batch", "multipart/mixed; boundary=b",
			"--b\r\nContent-Type: application/http\r\n\r\nGET /api/data/v9.2/accounts HTTP/1.1\r\n\r\n\r\n--b--\r\n")
		s.send("POST", soapService, "application/soap+xml; charset=utf-8", soapCreate)
		require.NoError(s, s.transport.Switch(s.Context(), failover.Alternate, "by hand"))
		loss := s.transport.Status().Loss
		assert.Len(s, loss.AtRisk, 1, "the create")
	})
}

func TestAWriteInDoubtHasNoStatusOfAnotherAttempt(t *testing.T) {
	tell(t, failover.Config{}, func(s *story) {
		record := accounts + "(" + failovertest.SeedID(1) + ")"
		s.org.Primary().FailNext(1, failovertest.Reset(failovertest.AfterApply))
		s.org.Primary().FailWhen(func(*http.Request) bool { return true }, failovertest.Throttle(time.Minute))
		status, err := s.try(s.Context(), http.MethodDelete, orgURL+record, "")
		require.NoError(s, err)
		assert.Equal(s, 429, status)
		s.org.Primary().Heal()
		s.org.Alternate().Serve()
		require.NoError(s, s.transport.Switch(s.Context(), failover.Alternate, "by hand"))
		require.Len(s, s.transport.Status().Loss.Unknown, 1)
		assert.Zero(s, s.transport.Status().Loss.Unknown[0].Status)
	})
}

// Not even a Config.Classify puts an unbounded text into a report.
func TestALongRequestIDIsCut(t *testing.T) {
	classify := func(resp *http.Response, err error) *failover.Fault {
		f := failover.Classify(resp, err)
		if f != nil {
			f.RequestID = strings.Repeat("id ", 50_000)
		}
		return f
	}
	tell(t, failover.Config{Classify: classify, MaxAttempts: 1}, func(s *story) {
		s.org.Primary().Fail(failovertest.Reset(failovertest.AfterApply))
		_, err := s.create("in doubt")
		require.ErrorIs(s, err, failover.ErrOutcomeUnknown)
		s.org.FailOver()
		require.NoError(s, s.transport.Switch(s.Context(), failover.Alternate, "drill"))
		writes := s.transport.Status().Loss.Unknown
		require.Len(s, writes, 1)
		assert.NotEmpty(s, writes[0].RequestID)
		assert.LessOrEqual(s, len(writes[0].RequestID), 128)
	})
}

func TestWhoMeetsTheOutageKnowsWhenToTryAgain(t *testing.T) {
	tell(t, failover.Config{}, func(s *story) {
		s.org.Primary().Fail(failovertest.Refuse())
		_, err := s.try(s.Context(), http.MethodGet, orgURL+accounts, "")
		require.ErrorIs(s, err, failover.ErrUnavailable)
		var failure *failover.Error
		require.ErrorAs(s, err, &failure)
		assert.NotZero(s, failure.RetryAfter)
	})
}

func TestARefusedFailBackIsReportedOnce(t *testing.T) {
	var asked atomic.Int32
	tell(t, failover.Config{ConfirmSwitch: func(context.Context, failover.Switch) error {
		asked.Add(1)
		return errors.New("month-end closing")
	}}, func(s *story) {
		s.org.Alternate().Serve()
		require.NoError(s, s.transport.Switch(s.Context(), failover.Alternate, "by hand"))
		time.Sleep(time.Hour)
		assert.Greater(s, asked.Load(), int32(10))
		assert.Equal(s, 1, s.count(failover.EventSwitchRefused))
	})
}

// A failed probe of the primary starts its Rise again, even if it was made only for Status.
func TestAPrimaryThatFailsWhilePinnedStartsItsRiseAgain(t *testing.T) {
	tell(t, failover.Config{}, func(s *story) {
		s.org.Alternate().Serve()
		require.NoError(s, s.transport.Switch(s.Context(), failover.Alternate, "by hand"))
		time.Sleep(3 * time.Minute)
		require.Equal(s, failover.StateClosed, s.transport.Status().Primary.State, "all that is missing is the dwell")
		s.transport.Pin(failover.Alternate)
		s.org.Primary().Fail(failovertest.Refuse())
		time.Sleep(time.Hour)
		s.org.Primary().Heal()
		s.transport.Unpin()
		probes := map[time.Time]bool{}
		for s.active() == failover.Alternate {
			probes[s.transport.Status().Primary.LastProbe] = true
			time.Sleep(time.Second)
		}
		assert.Len(s, probes, 3, "the last bad one, and two good ones before the one that moves the traffic")
	})
}

func TestABreakerClosesWithoutFailBackProbesToo(t *testing.T) {
	tell(t, failover.Config{ProbeInterval: -1, ConfirmSwitch: func(context.Context, failover.Switch) error { return errors.New("no") }}, func(s *story) {
		s.org.FailOver()
		s.get(accounts)
		require.Equal(s, failover.StateOpen, s.transport.Status().Primary.State)
		s.org.FailBack()
		time.Sleep(time.Minute)
		for range 3 {
			assert.Equal(s, 200, s.get(accounts))
		}
		assert.Equal(s, failover.StateClosed, s.transport.Status().Primary.State)
	})
}

// When a decision is overtaken, its call of ConfirmSwitch is cancelled, and the next decision
// does not wait for it.
func TestAFenceDoesNotWaitForAnOvertakenQuestion(t *testing.T) {
	var asked atomic.Bool
	tell(t, failover.Config{ConfirmSwitch: func(ctx context.Context, _ failover.Switch) error {
		if !asked.Swap(true) {
			<-ctx.Done() // nobody at the desk
			return ctx.Err()
		}
		return nil
	}}, func(s *story) {
		s.org.FailOver()
		go s.try(s.Context(), http.MethodGet, orgURL+accounts, "") // leads to ConfirmSwitch
		time.Sleep(time.Second)
		require.NoError(s, s.transport.Switch(s.Context(), failover.Alternate, "by hand"))
		s.org.FailBack()
		s.org.Alternate().Fence()
		start := time.Now()
		assert.Equal(s, 200, s.get(accounts))
		assert.Equal(s, failover.Primary, s.active())
		assert.Less(s, time.Since(start), time.Second)
	})
}

func TestSwitchSaysWhenItsContextHasEnded(t *testing.T) {
	t.Parallel()
	transport, err := failover.New(orgURL, &failover.Config{
		Base:  roundTripper(func(*http.Request) (*http.Response, error) { return nil, errors.New("no network") }),
		Probe: func(ctx context.Context, _ *http.Client, _ *url.URL) error { <-ctx.Done(); return ctx.Err() },
	})
	require.NoError(t, err)
	defer transport.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	assert.Equal(t, context.Canceled, transport.Switch(ctx, failover.Alternate, "by hand"))
}
