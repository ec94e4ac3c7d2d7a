package failover

import (
	"context"
	"errors"
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

// Where nothing has to be different, Base gets the caller's request itself, and nothing is
// kept of it but which protocol the endpoint speaks.
func TestAPlainReadIsSentAsItIs(t *testing.T) {
	t.Parallel()
	for _, major := range []int{1, 2} {
		var sent *http.Request
		transport := newTestTransport(t, roundTripFunc(func(req *http.Request) (*http.Response, error) {
			sent = req
			return &http.Response{StatusCode: 200, ProtoMajor: major, Header: http.Header{}, Body: http.NoBody, Request: req}, nil
		}), Config{ProbeInterval: -1})
		read(t, transport, "") // after silence a read is watched
		req, resp := read(t, transport, "Bearer contoso")
		assert.Same(t, req, resp.Request)
		assert.Same(t, req, sent)
		assert.Equal(t, []bool{major == 1, major == 2}, []bool{transport.protocols[Primary].speaksHTTP1(), transport.protocols[Primary].speaksHTTP2()})
		write, err := http.NewRequest("POST", "https://contoso.api.crm.dynamics.com/", nil)
		require.NoError(t, err)
		write.Header.Set("Authorization", "Bearer contoso")
		_, err = transport.RoundTrip(write)
		require.NoError(t, err)
		assert.Empty(t, transport.credentials.kept)
		require.NoError(t, transport.Close())
		sent = nil
		_, err = transport.RoundTrip(req)
		assert.Equal(t, ErrClosed, err)
		assert.Nil(t, sent)
	}
}

// What a request without a URL means, Base says.
func TestARequestWithoutAURLPassesThrough(t *testing.T) {
	t.Parallel()
	transport := newTestTransport(t, roundTripFunc(func(req *http.Request) (*http.Response, error) {
		return nil, io.ErrNoProgress
	}), Config{ProbeInterval: -1})
	_, err := transport.RoundTrip(new(http.Request))
	assert.Equal(t, io.ErrNoProgress, err)
}

// A plain read that is answered with an HTML page in place of data is sent again, and one
// during which an outage begins ends that with the headers of its answer.
func TestAPlainReadIsJudged(t *testing.T) {
	t.Parallel()
	for name, during := range map[string]func(*Transport, *http.Response){
		"page": func(_ *Transport, resp *http.Response) { resp.Header.Set("Content-Type", "text/html") },
		"outage": func(transport *Transport, _ *http.Response) {
			goDown(transport)
			transport.endpoints[Primary].suspect.Store(true)
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			n := 0
			var transport *Transport
			transport = newTestTransport(t, roundTripFunc(func(req *http.Request) (*http.Response, error) {
				resp := &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader("{}")), Request: req}
				if n++; n == 2 {
					during(transport, resp)
				}
				return resp, nil
			}), Config{ProbeInterval: -1, Probe: func(context.Context, *http.Client, *url.URL) error { return nil }})
			for range 2 { // after silence, the first is watched
				_, resp := read(t, transport, "")
				assert.Equal(t, "application/json", resp.Header.Get("Content-Type"))
				assert.False(t, transport.state.Load().down)
				require.NoError(t, resp.Body.Close())
			}
			assert.Equal(t, name == "page", n == 3)
		})
	}
}

// tellingBody tells whether it was read and closed.
type tellingBody struct {
	io.Reader
	read, closed atomic.Int32
}

func (b *tellingBody) Read(p []byte) (int, error) { b.read.Add(1); return b.Reader.Read(p) }
func (b *tellingBody) Close() error               { b.closed.Add(1); return nil }

// While down, a request that fails fast has its body closed and not read. One that waits
// has read it before. Both bring credentials that probes may need.
func TestABodyWhileDown(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		cfg   Config
		waits bool
	}{
		"fails fast":   {Config{FailFast: true}, false},
		"waits":        {Config{WaitForUp: true}, true},
		"waits rather": {Config{FailFast: true, WaitForUp: true}, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			row.cfg.ProbeInterval = -1
			transport := newTestTransport(t, acknowledging, row.cfg)
			goDown(transport)
			body := &tellingBody{Reader: strings.NewReader("{}")}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			req, err := http.NewRequestWithContext(ctx, "POST", "https://contoso.api.crm.dynamics.com/", body)
			require.NoError(t, err)
			req.Header.Set("Authorization", "Bearer contoso")
			start := time.Now()
			time.AfterFunc(time.Second, func() {
				assert.NotZero(t, body.read.Load(), name)
				assert.Equal(t, "Bearer contoso", transport.credentials.pick(Primary), name)
			})
			_, err = transport.RoundTrip(req)
			assert.ErrorIs(t, err, ErrUnavailable, name)
			assert.Equal(t, row.waits, errors.Is(err, context.DeadlineExceeded), name)
			var e *Error
			require.ErrorAs(t, err, &e)
			assert.Empty(t, e.Attempts, "the probes have met no fault")
			assert.False(t, transport.credentials.kept[0].proven)
			assert.Equal(t, row.waits, time.Since(start) == time.Minute, name)
			assert.Equal(t, row.waits, body.read.Load() > 0, name)
			assert.Equal(t, int32(1), body.closed.Load(), name)
			assert.Equal(t, "Bearer contoso", transport.credentials.pick(Primary), name)
		})
	}
}

// A request that waits while down ends with Request.Cancel, too, of which its context knows
// nothing.
func TestRequestCancelWhileDown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		transport := newTestTransport(t, acknowledging, Config{ProbeInterval: -1, WaitForUp: true})
		goDown(transport)
		req, err := http.NewRequest("GET", "https://contoso.api.crm.dynamics.com/", nil)
		require.NoError(t, err)
		over := make(chan struct{})
		req.Cancel = over //lint:ignore SA1019 callers still set it
		time.AfterFunc(time.Second, func() { close(over) })
		_, err = transport.RoundTrip(req)
		var e *Error
		require.ErrorAs(t, err, &e)
		assert.ErrorIs(t, e, ErrUnavailable)
		assert.ErrorIs(t, e, context.Canceled)
	})
}
