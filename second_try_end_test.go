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

// aSecondTry begins a second try over base in a bubble, and has it looked at.
func aSecondTry(t *testing.T, base http.RoundTripper, look func(*Transport, *secondTry)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		transport := newTestTransport(t, base, Config{ProbeInterval: -1, SuspectAfter: -1})
		req, err := http.NewRequest("GET", "https://contoso.api.crm.dynamics.com/", nil)
		require.NoError(t, err)
		second := &secondTry{t: transport, st: transport.state.Load(), caller: t.Context(), first: &sendWatch{cancel: func(error) {}}, out: req}
		second.start()
		require.NotNil(t, second.cancel)
		synctest.Wait()
		look(transport, second)
	})
}

// lateAnswer is a Base whose exchange ends after a second, as it is told.
type lateAnswer struct {
	closings
	resp *http.Response
	err  error
	ctx  context.Context
}

func (b *lateAnswer) RoundTrip(req *http.Request) (*http.Response, error) {
	b.ctx = req.Context()
	time.Sleep(time.Second) // whatever becomes of its context
	return b.resp, b.err
}

// A second try that has failed, or whose answer comes when the first one has ended, keeps
// nothing: its context ends, its body is closed, and connections that are out of use are
// let go of.
func TestASecondTryThatIsOfNoUseKeepsNothing(t *testing.T) {
	t.Parallel()
	for _, late := range []bool{false, true} {
		body := &ending{Reader: strings.NewReader("contoso")}
		base := &lateAnswer{err: errors.New("connection reset")}
		if late {
			base.resp, base.err = &http.Response{StatusCode: 200, Body: body}, nil
		}
		aSecondTry(t, base, func(transport *Transport, second *secondTry) {
			if late {
				assert.Nil(t, second.end())
			}
			second.pool.retire()
			time.Sleep(time.Second / 2)
			before := base.n.Load()
			time.Sleep(time.Second)
			assert.ErrorIs(t, base.ctx.Err(), context.Canceled)
			assert.Equal(t, late, body.closed.Load() > 0)
			assert.Greater(t, base.n.Load(), before)
			assert.Nil(t, second.end())
		})
	}
}

// Close ends a second try.
func TestCloseEndsASecondTry(t *testing.T) {
	t.Parallel()
	var ended error
	aSecondTry(t, roundTripFunc(func(req *http.Request) (*http.Response, error) {
		select {
		case <-req.Context().Done():
			ended = context.Cause(req.Context())
		case <-time.After(time.Hour):
		}
		return nil, io.EOF
	}), func(transport *Transport, _ *secondTry) {
		start := time.Now()
		require.NoError(t, transport.Close())
		assert.Equal(t, ErrClosed, ended)
		assert.Zero(t, time.Since(start))
	})
}

// A read that has a body is not made anew while an attempt may read that yet.
func TestAReadWithABodyIsMadeOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var made atomic.Int32
		transport := newTestTransport(t, roundTripFunc(func(req *http.Request) (*http.Response, error) {
			made.Add(1)
			time.Sleep(200 * time.Second)
			return acknowledging(req)
		}), Config{ProbeInterval: -1, Probe: func(context.Context, *http.Client, *url.URL) error { return nil }})
		req, err := http.NewRequest("GET", "https://contoso.api.crm.dynamics.com/", strings.NewReader("{}"))
		require.NoError(t, err)
		resp, err := transport.RoundTrip(req)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		assert.Equal(t, int32(1), made.Load())
	})
}

// What the books keep of requests under way are writes, all of them, whatever their method
// is and whatever else is watched.
func TestWhatIsKeptUnderWayAreWrites(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		method, header string
		kept           bool
	}{
		"read":                         {"GET", "", false},
		"write":                        {"POST", "", true},
		"write by a method that reads": {"GET", "X-Http-Method-Override", true},
		"write that may be repeated":   {"POST", "Idempotency-Key", true},
		"read with an idempotency key": {"GET", "Idempotency-Key", false},
		"both, by a method that reads": {"GET", "X-Http-Method-Override Idempotency-Key", true},
	} {
		var transport *Transport
		transport = newTestTransport(t, roundTripFunc(func(req *http.Request) (*http.Response, error) {
			transport.books.mu.Lock()
			defer transport.books.mu.Unlock()
			assert.Equal(t, row.kept, transport.books.sent != nil, name)
			return acknowledging(req)
		}), Config{ProbeInterval: -1, SuspectAfter: -1})
		for _, timeout := range []time.Duration{0, time.Minute} {
			transport.cfg.AttemptTimeout = timeout
			req, err := http.NewRequest(row.method, "https://contoso.api.crm.dynamics.com/", nil)
			require.NoError(t, err)
			for _, header := range strings.Fields(row.header) {
				req.Header.Set(header, "DELETE")
			}
			resp, err := transport.RoundTrip(req)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
		}
		assert.Nil(t, transport.books.sent)
	}
}
