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
		write, err := http.NewRequest("POST", "https://contoso.api.crm.dynamics.com/", nil)
		require.NoError(t, err)
		write.Header.Set("Authorization", "Bearer contoso")
		_, err = transport.RoundTrip(write)
		require.NoError(t, err)
		assert.Empty(t, transport.credentials.kept)
		assert.Equal(t, []bool{major == 1, major == 2}, []bool{transport.protocols[Primary].speaksHTTP1(), transport.protocols[Primary].speaksHTTP2()})
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

// An HTML page in place of data is no answer, and a healthy answer while an outage begins
// ends it with its headers.
func TestAPlainReadIsJudged(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := 0
		var during func()
		transport := newTestTransport(t, roundTripFunc(func(req *http.Request) (*http.Response, error) {
			n++
			resp := &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader("{}")), Request: req}
			switch n {
			case 2:
				resp.Header.Set("Content-Type", "text/html")
			case 4:
				during()
			}
			return resp, nil
		}), Config{ProbeInterval: -1, Probe: func(context.Context, *http.Client, *url.URL) error { return nil }})
		during = func() {
			goDown(transport)
			transport.endpoints[Primary].suspect.Store(true)
		}
		for _, want := range []int{1, 3, 4} {
			time.Sleep(10 * time.Second)
			_, resp := read(t, transport, "")
			assert.Equal(t, want, n)
			assert.Equal(t, "application/json", resp.Header.Get("Content-Type"))
			assert.False(t, transport.state.Load().down)
			require.NoError(t, resp.Body.Close())
		}
	})
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
