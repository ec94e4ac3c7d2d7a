package failover

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// RoundTrip sends a read without a call of its own only if nothing needs to be known about it,
// and nothing can happen to it except being sent.
func TestOnlyAReadThatNeedsNothingIsPlain(t *testing.T) {
	t.Parallel()
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	const path = "/api/data/v9.2/accounts"
	tests := []struct {
		name, reason string
		plain        bool
		cfg          Config
		state        func(*state)
		request      func(*http.Request) *http.Request
		suspect      bool          // the endpoint had a fault
		after        time.Duration // since the last answer
	}{
		{name: "GET", reason: "most calls", plain: true},
		{name: "no method", reason: "means GET", plain: true, request: method("")},
		{name: "HEAD", reason: "reads as well", plain: true, request: method(http.MethodHead)},
		{name: "a body that is none", reason: "net/http takes it for none", plain: true, request: func(req *http.Request) *http.Request {
			req.Body = http.NoBody
			return req
		}},
		{name: "pinned", reason: "moves nothing", plain: true, state: func(st *state) { st.pinned = true }},

		{name: "POST", reason: "writes are watched, and kept", request: method(http.MethodPost)},
		{name: "DELETE", reason: "the same, without a body", request: method(http.MethodDelete)},
		{name: "a GET that takes a message away", reason: "it must not be repeated", request: func(req *http.Request) *http.Request {
			req.URL.Path = "/api/connector/dequeue/1"
			return req
		}},
		{name: "a method in the header", reason: "it may be a write", request: func(req *http.Request) *http.Request {
			req.Header.Set("X-HTTP-Method-Override", "DELETE")
			return req
		}},
		{name: "a body", reason: "it has to be held, and closed", request: func(req *http.Request) *http.Request {
			req.Body = io.NopCloser(strings.NewReader("{}"))
			return req
		}},
		{name: "NoReplay", reason: "net/http would repeat it", request: func(req *http.Request) *http.Request {
			return req.WithContext(NoReplay(req.Context()))
		}},
		{name: "after a redirect", reason: "it may have to go where that leads", request: func(req *http.Request) *http.Request {
			req.Response = new(http.Response)
			return req
		}},
		{name: "an ended context", reason: "it is not sent", request: func(req *http.Request) *http.Request { return req.WithContext(ended) }},

		{name: "down", reason: "it may have to wait, and its answer ends the outage", state: func(st *state) { st.down = true }},
		{name: "on trial", reason: "its answer decides", state: func(st *state) { st.provisional = true }},
		{name: "after a fault", reason: "its connection says whether older ones lead elsewhere", suspect: true},
		{name: "silence", reason: "it must be possible to give it up", after: 3 * time.Second},

		{name: "Authorize", reason: "changes the request", cfg: Config{Authorize: func(*http.Request) error { return nil }}},
		{name: "Classify", reason: "judges healthy answers too", cfg: Config{Classify: Classify}},
		{name: "AttemptTimeout", reason: "takes a timer", cfg: Config{AttemptTimeout: time.Minute}},
	}
	seen := make(map[string]bool)
	for _, test := range tests {
		require.False(t, seen[test.name] || test.reason == "", "%q is there twice, or has no reason", test.name)
		seen[test.name] = true
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				transport := newTestTransport(t, roundTripFunc(func(*http.Request) (*http.Response, error) {
					return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody}, nil
				}), test.cfg)
				get := func() *http.Request {
					req, err := http.NewRequest(http.MethodGet, "https://contoso.api.crm.dynamics.com"+path, nil)
					require.NoError(t, err)
					return req
				}
				_, err := transport.RoundTrip(get())
				require.NoError(t, err)
				time.Sleep(test.after)
				transport.endpoints[Primary].suspect.Store(test.suspect)
				req, st := get(), *transport.state.Load()
				if test.request != nil {
					req = test.request(req)
				}
				if test.state != nil {
					test.state(&st)
				}
				assert.Equal(t, test.plain, transport.isPlainRead(&st, req), test.reason)
			})
		})
	}
}

func method(m string) func(*http.Request) *http.Request {
	return func(req *http.Request) *http.Request {
		req.Method = m
		return req
	}
}

// Only an *http.Transport is known to limit its connections.
func TestAReadThatMayWaitForAConnectionIsNotPlain(t *testing.T) {
	t.Parallel()
	for _, limit := range []int{0, 1} {
		transport := newTestTransport(t, &http.Transport{MaxConnsPerHost: limit}, Config{})
		st := transport.state.Load()
		st.pool.waits.armed.Store(true) // as right after an answer
		st.pool.waits.last.Store(st.pool.waits.tick.Load())
		req, err := http.NewRequest(http.MethodGet, "https://contoso.api.crm.dynamics.com/api/data/v9.2/accounts", nil)
		require.NoError(t, err)
		assert.Equal(t, limit == 0, transport.isPlainRead(st, req))
	}
}

// A plain read has the effects of any call: its wait is watched, its answer is a sign of life,
// and shows the protocol.
func TestAPlainReadIsTakenNoteOf(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		wait := time.Duration(0)
		transport := newTestTransport(t, roundTripFunc(func(*http.Request) (*http.Response, error) {
			time.Sleep(wait)
			return &http.Response{StatusCode: http.StatusOK, ProtoMajor: 2, Body: http.NoBody}, nil
		}), Config{Probe: func(context.Context, *http.Client, *url.URL) error { asked.Add(1); return nil }})
		read(t, transport, "")
		transport.protocols[Primary].version.Store(0)
		wait = 15 * time.Second
		read(t, transport, "")
		assert.NotZero(t, asked.Load(), "nobody has asked what it waits for")
		assert.Equal(t, time.Now(), transport.Status().Primary.LastSuccess)
		assert.True(t, transport.protocols[Primary].speaksHTTP2())
	})
}

// At the alternate, the response still names the caller's request, links name the primary, and
// what probes of the primary may need is kept.
func TestAPlainReadAtTheAlternate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const at = "https://contoso--s.api.crm.dynamics.com"
		transport := newTestTransport(t, roundTripFunc(func(req *http.Request) (*http.Response, error) {
			assert.Equal(t, at, req.URL.Scheme+"://"+req.URL.Host)
			assert.Empty(t, req.Host)
			return &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Location": {at + "/x"}}, Request: req, Body: http.NoBody}, nil
		}), Config{Probe: func(context.Context, *http.Client, *url.URL) error { return nil }, ProbeInterval: -1})
		require.NoError(t, transport.Switch(t.Context(), Alternate, "a rehearsal"))
		read(t, transport, "")
		req, resp := read(t, transport, "Bearer contoso")
		assert.Same(t, req, resp.Request)
		assert.Equal(t, "contoso.api.crm.dynamics.com", req.URL.Host)
		assert.Equal(t, "https://contoso.api.crm.dynamics.com/x", resp.Header.Get("Content-Location"))
		assert.Equal(t, "Bearer contoso", transport.credentials.pick(Primary))
		transport.lend(http.Header{"Authorization": {"Bearer unproven"}}, false)
		assert.Equal(t, "Bearer contoso", transport.credentials.pick(Primary), "it was answered in good health")
	})
}

func read(t *testing.T, transport *Transport, authorization string) (*http.Request, *http.Response) {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, "https://contoso.api.crm.dynamics.com/api/data/v9.2/accounts", nil)
	require.NoError(t, err)
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	resp, err := transport.RoundTrip(req)
	require.NoError(t, err)
	return req, resp
}
