package failover_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"reflect"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover"
	"github.com/d365failover/failover/failovertest"
)

const orgURL = "https://contoso.api.crm.dynamics.com"

// script is a Base that plays answers in turn and repeats the last one. It keeps the
// RoundTripper contract: it closes every body that it is given. Probes get answers of their
// own.
type script struct {
	answers []func(*http.Request) (*http.Response, error)
	probe   func(*http.Request) (*http.Response, error)
	sent    []sent
}

// sent is an attempt as Base saw it.
type sent struct {
	method, url, host, body string
	header                  http.Header
}

func (s *script) RoundTrip(req *http.Request) (*http.Response, error) {
	if strings.HasSuffix(req.URL.Path, "/WhoAmI") {
		return s.probe(req)
	}
	var body []byte
	if req.Body != nil {
		body, _ = io.ReadAll(req.Body)
		req.Body.Close()
	}
	answer := s.answers[min(len(s.sent), len(s.answers)-1)]
	s.sent = append(s.sent, sent{req.Method, req.URL.String(), req.Host, string(body), req.Header.Clone()})
	return answer(req)
}

func answer(status int, body string, header ...string) func(*http.Request) (*http.Response, error) {
	return func(req *http.Request) (*http.Response, error) {
		h := make(http.Header)
		for i := 0; i+1 < len(header); i += 2 {
			h.Set(header[i], header[i+1])
		}
		return &http.Response{
			StatusCode: status, Header: h, Request: req,
			Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)),
		}, nil
	}
}

func refuse(err error) func(*http.Request) (*http.Response, error) {
	return func(*http.Request) (*http.Response, error) { return nil, err }
}

var (
	errDial  = &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	errReset = &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", syscall.ECONNRESET)}
	fence    = answer(503, `{"error":{"code":"0x8004B065","message":"Not served here."}}`, "Content-Type", "application/json")
	serves   = answer(200, `{"OrganizationId":"11111111-2222-3333-4444-555555555555"}`, "Content-Type", "application/json")
)

// onlyAlternateServes answers probes as after a failover.
func onlyAlternateServes(req *http.Request) (*http.Response, error) {
	if strings.HasPrefix(req.URL.Host, "contoso--s.") {
		return serves(req)
	}
	return nil, errDial
}

// onlyPrimaryServes answers probes as in normal times.
func onlyPrimaryServes(req *http.Request) (*http.Response, error) {
	if strings.HasPrefix(req.URL.Host, "contoso--s.") {
		return fence(req)
	}
	return serves(req)
}

// closeCounter is a body that counts how often it is closed.
type closeCounter struct {
	io.Reader
	closed atomic.Int32
}

func (c *closeCounter) Close() error { c.closed.Add(1); return nil }

func TestRoundTripperContract(t *testing.T) {
	t.Parallel()
	outcomes := []struct {
		name    string
		answers []func(*http.Request) (*http.Response, error)
		probe   func(*http.Request) (*http.Response, error)
		config  failover.Config
		prepare func(*failover.Transport, *http.Request) *http.Request
		status  int // 0: an error; -1: depends on the method and the body
	}{
		{name: "healthy", answers: answers(answer(200, "ok")), status: 200},
		{name: "no content", answers: answers(answer(204, "")), status: 204},
		{name: "application fault", answers: answers(answer(404, "no")), status: 404},
		{name: "503 for ever", answers: answers(answer(503, "down")), status: 503},
		{name: "503 once", answers: answers(answer(503, "down"), answer(200, "ok")), status: -1},
		{name: "fence, then the alternate", answers: answers(fence, answer(200, "ok")), probe: onlyAlternateServes, status: -1},
		{name: "refused, then the alternate", answers: answers(refuse(errDial), refuse(errDial), refuse(errDial), answer(200, "ok")), probe: onlyAlternateServes, status: -1},
		{name: "refused for ever", answers: answers(refuse(errDial)), probe: refuse(errDial)},
		{name: "reset", answers: answers(refuse(errReset))},
		{name: "neither response nor error", answers: answers(refuse(nil))},
		{name: "one attempt only", answers: answers(refuse(errDial)), config: failover.Config{MaxAttempts: -1}},
		{name: "authorization fails", answers: answers(answer(200, "ok")), config: failover.Config{
			Authorize: func(*http.Request) error { return errors.New("no token") }}},
		{name: "authorized", answers: answers(answer(200, "ok")), status: 200, config: failover.Config{
			Authorize: func(req *http.Request) error { req.Header.Set("Authorization", "Bearer contoso"); return nil }}},
		{name: "attempt timeout set", answers: answers(answer(200, "ok")), status: 200, config: failover.Config{AttemptTimeout: time.Minute}},
		{name: "attempt timeout set, reset", answers: answers(refuse(errReset)), config: failover.Config{AttemptTimeout: time.Minute}},
		{name: "canceled", answers: answers(refuse(context.Canceled)), prepare: func(_ *failover.Transport, req *http.Request) *http.Request {
			ctx, cancel := context.WithCancel(req.Context())
			cancel()
			return req.WithContext(ctx)
		}},
		{name: "closed", answers: answers(answer(200, "ok")), prepare: func(t *failover.Transport, req *http.Request) *http.Request {
			t.Close()
			return req
		}},
		{name: "marked never to repeat", answers: answers(answer(503, "down")), status: 503, prepare: func(_ *failover.Transport, req *http.Request) *http.Request {
			return req.WithContext(failover.NoReplay(req.Context()))
		}},
		{name: "marked safe to repeat", answers: answers(answer(503, "down"), answer(200, "ok")), status: -1, prepare: func(_ *failover.Transport, req *http.Request) *http.Request {
			return req.WithContext(failover.WithReplay(req.Context()))
		}},
	}
	bodies := []string{"none", "NoBody", "GetBody", "small stream", "large stream", "large stream of unknown length"}
	methods := []string{http.MethodGet, http.MethodPost, http.MethodPatch, http.MethodDelete}

	for _, o := range outcomes {
		for _, kind := range bodies {
			for _, method := range methods {
				t.Run(fmt.Sprintf("%s/%s/%s", o.name, kind, method), func(t *testing.T) {
					t.Parallel()
					synctest.Test(t, func(t *testing.T) {
						base := &script{answers: o.answers, probe: o.probe}
						if base.probe == nil {
							base.probe = onlyPrimaryServes
						}
						cfg := o.config
						cfg.Base, cfg.MaxBody, cfg.Logger = base, 100, slog.New(slog.DiscardHandler)
						transport, err := failover.New(orgURL, &cfg)
						require.NoError(t, err)
						defer transport.Close()

						req, content, closes := newRequest(t, method, kind)
						if o.prepare != nil {
							req = o.prepare(transport, req)
						}
						before, body := req.Clone(req.Context()), req.Body
						resp, err := transport.RoundTrip(req)

						assert.NotEqual(t, resp == nil, err == nil, "a response or an error, not both")
						switch {
						case o.status == 0:
							assert.Error(t, err)
						case o.status > 0:
							require.NoError(t, err)
							assert.Equal(t, o.status, resp.StatusCode)
						}
						if resp != nil {
							require.NotNil(t, resp.Body)
							_, err := io.ReadAll(resp.Body)
							assert.NoError(t, err)
							assert.NoError(t, resp.Body.Close())
							if _, inDoubt := failover.InDoubt(resp, nil); !inDoubt {
								assert.Same(t, req, resp.Request)
							}
							assert.Same(t, req.URL, resp.Request.URL)
						}
						assert.EqualValues(t, 1, closes(), "the body is closed once")
						for _, s := range base.sent {
							assert.Equal(t, content, s.body, "every attempt has the whole body")
							assert.Equal(t, method, s.method)
						}
						assert.Equal(t, body, req.Body)
						before.Body, before.GetBody, req.GetBody = req.Body, nil, nil
						assert.True(t, reflect.DeepEqual(before, req), "the request is as it was")
					})
				})
			}
		}
	}
}

func answers(all ...func(*http.Request) (*http.Response, error)) []func(*http.Request) (*http.Response, error) {
	return all
}

// newRequest returns a request with a kind of body, the content of that body, and a function
// that returns how often each body handed out was closed: 1 if once each.
func newRequest(t *testing.T, method, kind string) (req *http.Request, content string, closes func() int32) {
	req, err := http.NewRequest(method, orgURL+"/api/data/v9.2/accounts?$top=1", nil)
	require.NoError(t, err)
	req.Header.Set("Prefer", "return=representation")
	var handedOut []*closeCounter
	open := func() io.ReadCloser {
		c := &closeCounter{Reader: strings.NewReader(content)}
		handedOut = append(handedOut, c)
		return c
	}
	closes = func() int32 {
		for _, c := range handedOut {
			if n := c.closed.Load(); n != 1 {
				return n
			}
		}
		return 1
	}
	switch kind {
	case "none":
		return req, "", closes
	case "NoBody":
		req.Body = http.NoBody
		return req, "", closes
	case "GetBody":
		content = `{"name":"Contoso"}`
		req.GetBody = func() (io.ReadCloser, error) { return open(), nil }
	case "small stream":
		content = `{"name":"Contoso"}`
	default:
		content = strings.Repeat("x", 1000)
	}
	req.Body, req.ContentLength = open(), int64(len(content))
	if kind == "large stream of unknown length" {
		req.ContentLength = -1
	}
	return req, content, closes
}

// A stream can still be sent if no attempt has begun to read it; once read from, it cannot be
// obtained again.
func TestAStreamIsSentAgainOnlyIfItWasNotTouched(t *testing.T) {
	t.Parallel()
	for _, touched := range []bool{false, true} {
		t.Run(fmt.Sprint("touched ", touched), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				attempts := 0
				base := roundTripper(func(req *http.Request) (*http.Response, error) {
					if strings.HasSuffix(req.URL.Path, "WhoAmI") {
						return onlyAlternateServes(req)
					}
					defer req.Body.Close()
					if attempts++; strings.HasPrefix(req.URL.Host, "contoso--s.") {
						body, err := io.ReadAll(req.Body)
						assert.NoError(t, err)
						assert.Len(t, body, 5000)
						return answer(204, "")(req)
					}
					if touched {
						req.Body.Read(make([]byte, 1))
					}
					return nil, errDial
				})
				transport, err := failover.New(orgURL, &failover.Config{Base: base, MaxBody: 1000, Logger: slog.New(slog.DiscardHandler)})
				require.NoError(t, err)
				defer transport.Close()
				body := &closeCounter{Reader: strings.NewReader(strings.Repeat("x", 5000))}
				req, err := http.NewRequest(http.MethodPost, orgURL+"/api/data/v9.2/accounts", body)
				require.NoError(t, err)
				resp, err := transport.RoundTrip(req)
				if touched {
					require.ErrorIs(t, err, syscall.ECONNREFUSED)
					assert.Equal(t, 1, attempts)
				} else {
					require.NoError(t, err)
					assert.Equal(t, 204, resp.StatusCode)
					assert.Equal(t, 4, attempts)
				}
				assert.EqualValues(t, 1, body.closed.Load())
			})
		})
	}
}

func TestTheCallersOwnBrokenBodyIsNoFault(t *testing.T) {
	t.Parallel()
	broken := errors.New("disk gone")
	for _, size := range []int{10, 5000} {
		base := &script{probe: onlyPrimaryServes, answers: answers(func(req *http.Request) (*http.Response, error) { return nil, broken })}
		transport, err := failover.New(orgURL, &failover.Config{Base: base, MaxBody: 1000, Logger: slog.New(slog.DiscardHandler)})
		require.NoError(t, err)
		defer transport.Close()
		for range 5 {
			body := io.MultiReader(strings.NewReader(strings.Repeat("x", size)), iotest.ErrReader(broken))
			req, err := http.NewRequest(http.MethodPut, orgURL+"/api/data/v9.2/accounts", body)
			require.NoError(t, err)
			_, err = transport.RoundTrip(req)
			require.ErrorIs(t, err, broken)
		}
		status := transport.Status()
		assert.Equal(t, failover.StateClosed, status.Primary.State)
		assert.Zero(t, status.Primary.Faults[failover.ClassTransient])
	}
}

func TestTheErrorNamesEveryAttempt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		base := &script{probe: refuse(errDial), answers: answers(refuse(errDial))}
		transport, err := failover.New(orgURL, &failover.Config{Base: base, Logger: slog.New(slog.DiscardHandler)})
		require.NoError(t, err)
		defer transport.Close()
		req, err := http.NewRequest(http.MethodGet, orgURL+"/api/data/v9.2/accounts?token=canary", nil)
		require.NoError(t, err)
		_, err = transport.RoundTrip(req)
		var failure *failover.Error
		require.ErrorAs(t, err, &failure)
		assert.Equal(t, http.MethodGet, failure.Method)
		assert.Equal(t, orgURL+"/api/data/v9.2/accounts", failure.URL)
		require.Len(t, failure.Attempts, 4, "three attempts, and why the other endpoint does not serve")
		assert.Equal(t, failover.Alternate, failure.Attempts[3].Endpoint)
		for _, f := range failure.Attempts {
			assert.Equal(t, failover.NotSent, f.Delivery)
			assert.Equal(t, failover.ClassUnavailable, f.Class)
		}
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
		require.ErrorIs(t, err, failover.ErrUnavailable)
		assert.NotErrorIs(t, err, failover.ErrOutcomeUnknown)
		assert.NotContains(t, err.Error(), "canary")
	})
}

func TestCloseIdleConnectionsIsForwarded(t *testing.T) {
	t.Parallel()
	base := new(idleCloser)
	client, transport, err := failover.Wrap(&http.Client{Transport: base}, orgURL, nil)
	require.NoError(t, err)
	defer transport.Close()
	client.CloseIdleConnections()
	assert.Equal(t, 1, base.closed)
}

type idleCloser struct {
	http.RoundTripper
	closed int
}

func (c *idleCloser) CloseIdleConnections() { c.closed++ }

func TestNewReportsEveryBadFieldAtOnce(t *testing.T) {
	t.Parallel()
	_, err := failover.New("https://user:canary@contoso.api.crm.dynamics.com", &failover.Config{
		Alternate: "https://", ProbeInterval: time.Minute, MaxProbeInterval: time.Second, Runbook: "runbook?canary",
	})
	require.Error(t, err)
	assert.ErrorContains(t, err, "organization URL")
	assert.ErrorContains(t, err, "alternate URL")
	assert.ErrorContains(t, err, "MaxProbeInterval")
	assert.ErrorContains(t, err, "Runbook")
	assert.NotContains(t, err.Error(), "canary")
}

func TestWrapLeavesTheClientAlone(t *testing.T) {
	t.Parallel()
	base := new(idleCloser)
	client := &http.Client{Transport: base, Timeout: time.Minute}
	wrapped, transport, err := failover.Wrap(client, orgURL, nil)
	require.NoError(t, err)
	defer transport.Close()
	assert.Same(t, base, client.Transport)
	assert.Same(t, transport, wrapped.Transport)
	assert.Equal(t, time.Minute, wrapped.Timeout)
}

// The values in the context of a request reach Base, its hooks are called, and its
// cancellation ends the attempt.
func TestTheContextOfAWriteIsTheCallers(t *testing.T) {
	t.Parallel()
	type key struct{}
	arrived := make(chan bool, 1)
	transport, err := failover.New(orgURL, &failover.Config{Base: roundTripper(func(req *http.Request) (*http.Response, error) {
		assert.Equal(t, 7, req.Context().Value(key{}))
		select {
		case arrived <- true:
		default:
		}
		httptrace.ContextClientTrace(req.Context()).GotConn(httptrace.GotConnInfo{})
		<-req.Context().Done()
		return nil, context.Cause(req.Context())
	})})
	require.NoError(t, err)
	defer transport.Close()
	enough := errors.New("enough")
	for _, traced := range []bool{true, false} {
		ctx, cancel := context.WithCancelCause(context.WithValue(t.Context(), key{}, 7))
		called := false
		if traced {
			ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { called = true; cancel(enough) }})
		} else {
			<-arrived // the first request
			go func() { <-arrived; cancel(enough) }()
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, orgURL+accounts, strings.NewReader("{}"))
		require.NoError(t, err)
		_, err = transport.RoundTrip(req)
		assert.ErrorIs(t, err, enough)
		assert.ErrorIs(t, err, failover.ErrOutcomeUnknown, "it got a connection")
		assert.Equal(t, traced, called)
	}
}

func TestOnFaultTellsWhatBecomesOfEveryFault(t *testing.T) {
	t.Parallel()
	type told struct {
		attempt failover.Attempt
		caller  any
	}
	var all []told
	type key struct{}
	synctest.Test(t, func(t *testing.T) {
		s := newStory(t, nil, failover.Config{OnFault: func(ctx context.Context, a failover.Attempt) {
			all = append(all, told{a, ctx.Value(key{})})
		}})
		defer s.close()
		ctx := context.WithValue(t.Context(), key{}, "mine")
		s.get(accounts)
		assert.Empty(t, all, "a healthy answer is no fault")

		s.org.Disaster(failovertest.Refuse())
		_, err := s.try(ctx, http.MethodGet, s.org.URL()+accounts, "")
		require.NoError(t, err)
		require.Len(t, all, 3)
		for i, one := range all {
			assert.Equal(t, "mine", one.caller)
			assert.Equal(t, i+1, one.attempt.Number)
			assert.Equal(t, http.MethodGet, one.attempt.Method)
			assert.Equal(t, failover.ClassUnavailable, one.attempt.Fault.Class)
			assert.True(t, one.attempt.Again)
			assert.False(t, one.attempt.OutcomeUnknown)
			assert.Equal(t, i == 2, one.attempt.To == failover.Alternate, "the third trips")
		}

		all = nil
		s.org.Alternate().FailNext(1, failovertest.Reset(failovertest.AfterApply))
		_, err = s.create("in doubt")
		require.ErrorIs(t, err, failover.ErrOutcomeUnknown)
		require.Len(t, all, 1)
		assert.False(t, all[0].attempt.Again)
		assert.Equal(t, failover.Alternate, all[0].attempt.To)
		assert.Equal(t, failover.Unknown, all[0].attempt.Fault.Delivery)
		assert.True(t, all[0].attempt.OutcomeUnknown)

		all = nil
		synctest.Wait() // for the probes that the reset caused
		s.org.Alternate().FailNext(1, failovertest.OutagePage())
		status, err := s.create("in doubt, with an answer")
		require.NoError(t, err)
		assert.Equal(t, 503, status)
		require.Len(t, all, 1)
		assert.True(t, all[0].attempt.OutcomeUnknown, "the response does not say so")
	})
}
