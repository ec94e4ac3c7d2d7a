package failover

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// closings counts how often the idle connections of a pool are closed.
type closings struct{ n atomic.Int32 }

func (c *closings) RoundTrip(*http.Request) (*http.Response, error) { return nil, io.EOF }
func (c *closings) CloseIdleConnections()                           { c.n.Add(1) }

// When an answer has ended, healthy or not, with or without a body, the context of its attempt
// is released, and a retired pool closes the connection.
func TestTheEndOfAnAnswerFreesWhatItHeld(t *testing.T) {
	t.Parallel()
	bodies := map[string]func() io.ReadCloser{
		"no body":  func() io.ReadCloser { return nil },
		"no bytes": func() io.ReadCloser { return http.NoBody },
		"bytes":    func() io.ReadCloser { return io.NopCloser(strings.NewReader("contoso")) },
		"unread":   func() io.ReadCloser { return io.NopCloser(strings.NewReader("contoso")) },
		"unclosed": func() io.ReadCloser { return io.NopCloser(strings.NewReader("contoso")) }, // read to the end, but not closed
	}
	for name, body := range bodies {
		for _, healthy := range []bool{true, false} {
			c := attempted(t, accountA, "", "", 0)
			closer := new(closings)
			c.st.pool = &pool{closer: closer, closing: time.NewTimer(time.Hour)}
			c.st.pool.retired.Store(true)
			defer c.st.pool.closing.Stop()
			ctx := c.sending.context(t.Context(), time.Hour)
			resp := &http.Response{StatusCode: 200, Body: body()}
			if healthy {
				c.t.watchBody(resp, c.st, c.req, c.sending.canceler(), nil)
			} else {
				c.releaseWith(resp)
			}
			if name == "bytes" || name == "unread" || name == "unclosed" {
				assert.NoError(t, ctx.Err())
				assert.Zero(t, closer.n.Load())
				if name != "unread" {
					text, err := io.ReadAll(resp.Body)
					assert.Equal(t, "contoso", string(text))
					assert.NoError(t, err)
				}
				if name != "unclosed" {
					assert.NoError(t, resp.Body.Close())
				}
			}
			assert.ErrorIs(t, ctx.Err(), context.Canceled, "%s, healthy %v", name, healthy)
			assert.Equal(t, int32(1), closer.n.Load(), "%s, healthy %v", name, healthy)
		}
	}
	bare := &releasingBody{ReadCloser: http.NoBody}
	assert.NoError(t, bare.Close())
}

// If a repeat gets no answer, the answer before it is returned. The exception is an answer
// saying that a write was not carried out, because the repeat may have been.
func TestTheAnswerBeforeARepeatIsKept(t *testing.T) {
	t.Parallel()
	refused := &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	for name, row := range map[string]struct {
		method string
		status int
		body   string
		cancel bool
		err    error // of the repeat, before the deadline
		want   bool
	}{
		"read":           {http.MethodGet, 502, "contoso", false, nil, true},
		"write":          {http.MethodPut, 502, "contoso", false, nil, true},
		"no body":        {http.MethodGet, 502, "", false, nil, true},
		"long":           {http.MethodGet, 502, strings.Repeat("x", maxDrain), false, nil, true},
		"too long":       {http.MethodGet, 502, strings.Repeat("x", maxDrain+1), false, nil, false},
		"canceled":       {http.MethodGet, 502, "contoso", true, nil, false},
		"reset":          {http.MethodGet, 502, "contoso", false, syscall.ECONNRESET, true},
		"write, reset":   {http.MethodPut, 502, "contoso", false, syscall.ECONNRESET, true},
		"Request.Cancel": {http.MethodGet, 502, "contoso", true, syscall.ECONNRESET, false},
		"refused":        {http.MethodGet, 502, "contoso", false, refused, true},
		"not applied":    {http.MethodPost, 429, "contoso", false, nil, false},
		"then reset":     {http.MethodPost, 429, "contoso", false, syscall.ECONNRESET, false},
		"then refused":   {http.MethodPost, 429, "contoso", false, refused, true},
		"throttled read": {http.MethodGet, 429, "contoso", false, syscall.ECONNRESET, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			calls, gone := 0, make(chan struct{})
			transport := newTestTransport(t, roundTripFunc(func(req *http.Request) (*http.Response, error) {
				if strings.HasSuffix(req.URL.Path, "/WhoAmI") {
					return nil, io.ErrUnexpectedEOF // a probe
				}
				if calls++; calls == 1 {
					header := http.Header{"X-Contoso": {"7"}}
					if row.status == http.StatusTooManyRequests {
						header.Set("Retry-After", "1")
					}
					return &http.Response{StatusCode: row.status, ContentLength: -1, Header: header, Body: io.NopCloser(strings.NewReader(row.body)), Request: req}, nil
				}
				if row.err != nil {
					if row.cancel {
						close(gone)
					}
					return nil, row.err
				}
				<-req.Context().Done()
				return nil, req.Context().Err()
			}), Config{ProbeInterval: -1, SuspectAfter: -1, MaxBody: 1, MaxAttempts: 2, RetryThrottled: time.Second})
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			if row.cancel && row.err == nil {
				time.AfterFunc(time.Second, cancel)
			}
			sent := &breaking{err: io.EOF}
			req, err := http.NewRequestWithContext(ctx, row.method, "https://contoso.crm.dynamics.com/api/data/v9.2/accounts", nil)
			require.NoError(t, err)
			if row.method != http.MethodGet {
				req.Body, req.ContentLength = sent, 7
			}
			//lint:ignore SA1019 callers may still set it
			req.Cancel = gone
			resp, err := transport.RoundTrip(req)
			assert.Equal(t, 2, calls, name)
			_, inDoubt := InDoubt(resp, err)
			assert.Equal(t, row.method != http.MethodGet && row.err != refused, inDoubt, name)
			if !row.want {
				assert.ErrorIs(t, err, cmp.Or(row.err, ctx.Err()), name)
				return
			}
			require.NoError(t, err, name)
			text, err := io.ReadAll(resp.Body)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			assert.Equal(t, row.body, string(text), name)
			assert.Equal(t, row.status, resp.StatusCode)
			assert.Equal(t, "7", resp.Header.Get("X-Contoso"))
			if row.method != http.MethodGet {
				assert.Equal(t, 1, sent.closed, "no attempt has taken charge of it")
			}
		})
	}
}

// The answer of a failed provisional switch is neither returned nor kept.
func TestTheAnswerBeforeAProvisionalSwitchIsKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var met []string
		transport := newTestTransport(t, roundTripFunc(func(req *http.Request) (*http.Response, error) {
			alternate, probe := strings.Contains(req.URL.Host, "--s"), strings.HasSuffix(req.URL.Path, "/WhoAmI")
			if !probe {
				met = append(met, req.URL.Host)
			}
			switch {
			case alternate:
				return &http.Response{StatusCode: 401, Header: http.Header{"Www-Authenticate": {"Bearer"}}, Body: http.NoBody, Request: req}, nil
			case probe || len(met) > 1:
				return nil, syscall.ECONNRESET
			default:
				return &http.Response{StatusCode: 503, Body: http.NoBody, Request: req}, nil
			}
		}), Config{FailureThreshold: 1})
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://contoso.crm.dynamics.com/api/data/v9.2/accounts", nil)
		require.NoError(t, err)
		resp, err := transport.RoundTrip(req)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		assert.Equal(t, 503, resp.StatusCode)
		assert.Equal(t, []string{"contoso.crm.dynamics.com", "contoso--s.crm.dynamics.com", "contoso.crm.dynamics.com"}, met)
	})
}

// Over HTTP/2 an answer may end before its request does. Ending the context would cut the
// request off.
func TestTheEndOfAnAnswerCutsNoRequestOff(t *testing.T) {
	t.Parallel()
	for protocol, want := range map[int]error{1: context.Canceled, 2: nil} {
		c := attempted(t, accountA, "application/json", "{}", 0)
		ctx := c.sending.context(t.Context(), time.Hour)
		resp := &http.Response{StatusCode: 200, ProtoMajor: protocol, Request: c.req, Body: io.NopCloser(strings.NewReader("contoso"))}
		c.t.watchBody(resp, c.st, c.req, c.sending.canceler(), nil)
		_, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		assert.Equal(t, want, ctx.Err(), "HTTP/%d", protocol)
		require.NoError(t, resp.Body.Close())
		assert.Equal(t, context.Canceled, ctx.Err())
	}
}

// An upgraded connection is the caller's: only what belongs to the attempt is released.
func TestAnUpgradeReleasesTheAttemptOnly(t *testing.T) {
	t.Parallel()
	c := attempted(t, accountA, "", "", 0)
	ctx := c.sending.context(t.Context(), time.Hour)
	body := io.NopCloser(strings.NewReader("contoso"))
	resp := &http.Response{StatusCode: http.StatusSwitchingProtocols, Body: body}
	c.t.watchBody(resp, c.st, c.req, c.sending.canceler(), nil)
	assert.ErrorIs(t, ctx.Err(), context.Canceled)
	assert.Equal(t, body, resp.Body)
}

// breaking is a body that ends with a given error.
type breaking struct {
	err    error
	closed int
}

func (b *breaking) Read([]byte) (int, error) { return 0, b.err }
func (b *breaking) Close() error             { b.closed++; return nil }

// An answer that breaks off is one fault of the endpoint that sent it, unless the caller has
// given it up.
func TestHowAnAnswerEnds(t *testing.T) {
	t.Parallel()
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	expired, stop := context.WithDeadline(t.Context(), time.Now())
	defer stop()
	for name, row := range map[string]struct {
		ctx    context.Context
		cancel chan struct{} // Request.Cancel
		err    error
		fault  bool
	}{
		"whole":            {t.Context(), nil, io.EOF, false},
		"broken":           {t.Context(), nil, io.ErrUnexpectedEOF, true},
		"given up":         {canceled, nil, context.Canceled, false},
		"out of time":      {expired, nil, context.DeadlineExceeded, true},
		"canceled":         {t.Context(), closed(), io.ErrUnexpectedEOF, false},
		"client's Timeout": {overdue{t.Context()}, closed(), io.ErrUnexpectedEOF, true},
	} {
		transport := newTestTransport(t, new(closings), Config{ProbeInterval: -1, SuspectAfter: -1})
		st := transport.state.Load()
		body := &breaking{err: row.err}
		c := &call{t: transport, st: st}
		c.req = (&http.Request{Method: "GET", Header: http.Header{}}).WithContext(row.ctx)
		c.cancel(row.cancel)
		c.out = c.req
		resp := &http.Response{StatusCode: 206, Body: body}
		c.t.watchBody(resp, c.st, c.req, c.sending.canceler(), nil)
		for range 3 {
			_, err := resp.Body.Read(make([]byte, 1))
			assert.Equal(t, row.err, err)
		}
		assert.NoError(t, resp.Body.Close())
		assert.Equal(t, 1, body.closed)
		last := transport.endpoints[Primary].lastFault.Load()
		if assert.Equal(t, row.fault, last != nil, name) && row.fault {
			assert.Equal(t, Primary, last.Endpoint)
			assert.Equal(t, 206, last.Status)
			assert.Equal(t, Answered, last.Delivery)
			assert.True(t, errors.Is(last.Err, row.err))
			assert.Equal(t, 1, transport.Status().Primary.Recent.Faults[last.Class], "it is counted once")
		}
	}
}

// The rest of an unwanted answer is read if it is short, so that the connection can be reused.
// The body is closed in any case.
func TestWhatNobodyWantsIsReadIfItIsShort(t *testing.T) {
	t.Parallel()
	for length, read := range map[int64]bool{0: true, 10: true, 64 << 10: true, 64<<10 + 1: false, 1 << 30: false, -1: true} {
		body := &counted{left: max(length, 100)}
		discard(&http.Response{Body: body, ContentLength: length})
		assert.Equal(t, read, body.left == 0 || body.read > 0, "%d", length)
		assert.Equal(t, 1, body.closed)
		if read {
			assert.Zero(t, body.left, "%d", length)
		}
	}
	endless := &counted{left: 1 << 30}
	discard(&http.Response{Body: endless, ContentLength: -1})
	assert.Equal(t, int64(64<<10), endless.read)
	discard(nil)
	discard(new(http.Response))
}

type counted struct {
	left, read int64
	closed     int
}

func (c *counted) Read(p []byte) (int, error) {
	if c.left == 0 {
		return 0, io.EOF
	}
	n := min(int64(len(p)), c.left)
	c.left, c.read = c.left-n, c.read+n
	return int(n), nil
}

func (c *counted) Close() error { c.closed++; return nil }

// A doubt belongs to one endpoint and one generation. A later answer there can settle it; one
// of another endpoint cannot.
func TestDoubtsAreOfAnEndpointAndAGeneration(t *testing.T) {
	t.Parallel()
	transport := newTestTransport(t, new(closings), Config{ProbeInterval: -1, SuspectAfter: -1})
	c := newCall(t, accountA, "", "", 1)
	c.t, c.req.Method = transport, http.MethodDelete
	weigh := func(epoch, generation uint64, f Fault) {
		c.st = &state{active: f.Endpoint, epoch: epoch, generation: generation}
		c.weigh(&f)
	}
	began := func() (all []uint64) {
		for _, d := range c.doubts {
			all = append(all, d.began)
		}
		return all
	}
	gone := Fault{Class: ClassApplication, Delivery: Answered, Status: 404, Code: "0x80040217"}
	weigh(1, 1, Fault{Delivery: Refused})
	assert.Nil(t, c.inDoubt())
	weigh(1, 1, Fault{Delivery: Unknown, Status: 1})
	weigh(2, 1, Fault{Delivery: Unknown, Status: 2})
	assert.Equal(t, []uint64{1}, began(), "the first attempt counts")
	assert.Equal(t, 2, c.inDoubt().Status, "the last one is reported")
	weigh(3, 2, Fault{Delivery: Unknown, Endpoint: Alternate, Status: 3})
	weigh(4, 3, Fault{Delivery: Unknown, Status: 4})
	assert.Equal(t, []uint64{1, 3, 4}, began())
	gone.Endpoint = Alternate
	weigh(5, 3, gone)
	assert.Equal(t, []uint64{1, 3, 4}, began(), "of another generation")
	weigh(5, 2, gone)
	assert.Equal(t, []uint64{1, 4}, began())
	assert.Len(t, transport.WritesSince(time.Time{}).Unknown, 1, "what may be due to it is in the books")
	weigh(6, 3, Fault{Class: ClassThrottled, Delivery: Refused})
	assert.Equal(t, []uint64{1, 4}, began(), "that says nothing of them")
	gone.Endpoint = Primary
	weigh(6, 3, gone)
	assert.Equal(t, []uint64{1}, began())
}

type tooLate struct{ error }

func (tooLate) Timeout() bool   { return true }
func (e tooLate) Unwrap() error { return e.error }

// A body that does not arrive in time is one fault, and reason enough to probe both endpoints,
// unless the time limit was the caller's own.
func TestABodyThatDoesNotComeInTime(t *testing.T) {
	t.Parallel()
	for _, own := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			transport := newTestTransport(t, roundTripFunc(func(req *http.Request) (*http.Response, error) {
				switch {
				case req.URL.Path == accountA:
					return &http.Response{StatusCode: 200, Body: &breaking{err: tooLate{io.ErrUnexpectedEOF}}, Request: req, ProtoMajor: 1}, nil
				case strings.HasPrefix(req.URL.Host, "contoso--s."):
					return acknowledging(req)
				}
				return nil, io.EOF
			}), Config{SuspectAfter: -1})
			defer transport.Close()
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if !own {
				ctx = t.Context()
			}
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://contoso.api.crm.dynamics.com"+accountA, nil)
			require.NoError(t, err)
			resp, err := transport.RoundTrip(req)
			require.NoError(t, err)
			time.Sleep(2 * time.Second)
			_, err = resp.Body.Read(make([]byte, 1))
			assert.ErrorIs(t, err, io.ErrUnexpectedEOF)
			assert.NoError(t, resp.Body.Close())
			time.Sleep(10 * time.Second)
			want := Alternate
			if own {
				want = Primary
			}
			assert.Equal(t, want, transport.Status().Active)
		})
	}
}

// An answer without a body ends a run of faults as any other does. A Config.Classify that
// finds nothing wrong with the end of a body is believed.
func TestWhatEndsARunOfFaults(t *testing.T) {
	t.Parallel()
	classify := func(resp *http.Response, err error) *Fault {
		if err != nil {
			return nil
		}
		return Classify(resp, err)
	}
	for name, body := range map[string]io.ReadCloser{"none": nil, "no bytes": http.NoBody, "unread": io.NopCloser(strings.NewReader("contoso"))} {
		transport := newTestTransport(t, new(closings), Config{ProbeInterval: -1, SuspectAfter: -1, Classify: classify})
		st := transport.state.Load()
		transport.count(st, &Fault{Class: ClassUnavailable, Status: 503}, false)
		require.True(t, transport.endpoints[Primary].suspect.Load())
		resp := &http.Response{StatusCode: 204, Body: body}
		transport.watchBody(resp, st, new(http.Request), nil, nil)
		if name == "unread" {
			assert.True(t, transport.endpoints[Primary].suspect.Load(), "it may break off yet")
			resp.Body.Close()
		}
		assert.False(t, transport.endpoints[Primary].suspect.Load(), name)
	}
	transport := newTestTransport(t, new(closings), Config{ProbeInterval: -1, SuspectAfter: -1, Classify: classify})
	resp := &http.Response{StatusCode: 200, Body: &breaking{err: io.ErrUnexpectedEOF}}
	transport.watchBody(resp, transport.state.Load(), new(http.Request), nil, nil)
	_, err := resp.Body.Read(make([]byte, 1))
	assert.Equal(t, io.ErrUnexpectedEOF, err)
	assert.Nil(t, transport.endpoints[Primary].lastFault.Load())
}

// The body of an answer shares an allocation with its attempt, unless that would keep the
// request's body in memory for as long as the answer takes.
func TestAnAnswerKeepsNoRequestBody(t *testing.T) {
	t.Parallel()
	transport := newTestTransport(t, acknowledging, Config{ProbeInterval: -1, SuspectAfter: -1})
	for _, body := range []string{"", "contoso"} {
		c := newCall(t, "/api/data/v9.2/WhoAmI", "", body, 10)
		c.t, c.at, c.req.Method = transport, Alternate, http.MethodGet
		if body == "" {
			c.req.Body, c.req.GetBody, c.body = nil, nil, payload{}
		}
		st := *transport.state.Load()
		require.Nil(t, c.prepare(&st))
		resp, f := c.send()
		require.Nil(t, f)
		require.NotNil(t, c.answer)
		assert.Equal(t, body == "", resp.Body == io.ReadCloser(c.answer))
		assert.NoError(t, resp.Body.Close())
	}
}
