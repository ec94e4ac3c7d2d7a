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

// ending is a body that records whether it was closed.
type ending struct {
	io.Reader
	closed atomic.Int32
}

func (e *ending) Close() error { e.closed.Add(1); return nil }

// twoTries is a Base for a read that is tried twice. The first try ends after a time, or as it
// likes once it is cancelled.
type twoTries struct {
	closings
	first    func(ctx context.Context) (*http.Response, error)
	second   time.Duration
	made     atomic.Int32
	contexts [2]context.Context
	bodies   [2]ending
}

func (b *twoTries) RoundTrip(req *http.Request) (*http.Response, error) {
	n := b.made.Add(1) - 1
	b.contexts[n] = req.Context()
	b.bodies[n].Reader = strings.NewReader("contoso")
	if n == 0 {
		if resp, err := b.first(req.Context()); resp == nil {
			return nil, err
		}
	} else {
		select {
		case <-time.After(b.second):
		case <-req.Context().Done():
			return nil, req.Context().Err()
		}
	}
	return &http.Response{StatusCode: 201 + int(n), Header: http.Header{}, Body: &b.bodies[n], Request: req}, nil
}

// runTwoTries makes a read over base in a bubble, and checks that it leaves nothing behind.
func runTwoTries(t *testing.T, base *twoTries, cfg Config, meanwhile func(*Transport), check func(*Transport, *http.Response, error)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		cfg.ProbeInterval, cfg.Probe = -1, func(context.Context, *http.Client, *url.URL) error { return nil }
		transport := newTestTransport(t, base, cfg)
		first := transport.state.Load().pool
		req, err := http.NewRequestWithContext(t.Context(), "GET", "https://contoso.api.crm.dynamics.com/", nil)
		require.NoError(t, err)
		if meanwhile != nil {
			time.AfterFunc(time.Second, func() { meanwhile(transport) })
		}
		func() {
			var resp *http.Response
			defer func() {
				if p := recover(); p != nil {
					resp, err = nil, p.(error)
				}
				synctest.Wait()
				check(transport, resp, err)
			}()
			resp, err = transport.RoundTrip(req)
		}()
		first.waits.each(func(*waitingRead) { t.Error("a read is listed that does not wait any more") })
		time.Sleep(time.Minute)
	})
}

// answersAfter returns a first try that is answered after a time, unless it is cancelled.
func answersAfter(d time.Duration) func(context.Context) (*http.Response, error) {
	return func(ctx context.Context) (*http.Response, error) {
		select {
		case <-time.After(d):
			return new(http.Response), nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// The answer of the second try keeps what it needs until its body has ended, even if the
// connections are renewed meanwhile.
func TestTheAnswerOfASecondTryIsTheCallers(t *testing.T) {
	t.Parallel()
	base := &twoTries{first: answersAfter(time.Hour), second: time.Second}
	runTwoTries(t, base, Config{}, nil, func(transport *Transport, resp *http.Response, err error) {
		require.NoError(t, err)
		assert.Equal(t, 202, resp.StatusCode)
		assert.Equal(t, errAbandoned, context.Cause(base.contexts[0]))
		transport.Pin(Alternate) // retires its pool
		time.Sleep(time.Minute)
		assert.NoError(t, base.contexts[1].Err())
		text, err := io.ReadAll(io.LimitReader(resp.Body, 7))
		require.NoError(t, err)
		assert.Equal(t, "contoso", string(text))
		before := base.n.Load()
		require.NoError(t, resp.Body.Close())
		assert.ErrorIs(t, base.contexts[1].Err(), context.Canceled)
		assert.Equal(t, int32(1), base.bodies[1].closed.Load())
		assert.Greater(t, base.n.Load(), before, "its connection is let go of")
	})
}

// Whatever becomes of the first try decides about the second one as well.
func TestHowTheFirstTryEndsTheSecond(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		first    func(context.Context) (*http.Response, error)
		second   time.Duration
		status   int
		err      string
		bodies   [2]int32 // how often closed
		canceled bool     // the second try
	}{
		"answered meanwhile": {first: answersAfter(155 * time.Second), second: time.Hour, status: 201, canceled: true},
		"answered although it was given up": {first: func(ctx context.Context) (*http.Response, error) {
			<-ctx.Done()
			return new(http.Response), nil
		}, second: time.Second, status: 202, bodies: [2]int32{1, 0}},
		"panics meanwhile": {first: func(context.Context) (*http.Response, error) {
			time.Sleep(155 * time.Second)
			panic(io.ErrClosedPipe)
		}, second: time.Hour, err: io.ErrClosedPipe.Error(), canceled: true},
		"panics too late": {first: func(ctx context.Context) (*http.Response, error) {
			<-ctx.Done()
			panic(io.ErrClosedPipe)
		}, second: time.Second, err: io.ErrClosedPipe.Error(), bodies: [2]int32{0, 1}, canceled: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			base := &twoTries{first: row.first, second: row.second}
			runTwoTries(t, base, Config{}, nil, func(_ *Transport, resp *http.Response, err error) {
				assert.Equal(t, int32(2), base.made.Load())
				if row.err != "" {
					assert.EqualError(t, err, row.err)
				} else if assert.NoError(t, err) {
					assert.Equal(t, row.status, resp.StatusCode)
				}
				for i := range base.bodies {
					assert.Equal(t, row.bodies[i], base.bodies[i].closed.Load(), i)
				}
				assert.Equal(t, row.canceled, base.contexts[1].Err() != nil)
				if resp != nil {
					require.NoError(t, resp.Body.Close())
				}
			})
		})
	}
}

// A read is not tried again if the traffic has left the endpoint, while down, or if its call
// may not repeat it.
func TestWhenAReadIsNotTriedAgain(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		cfg       Config
		meanwhile func(*Transport)
	}{
		"the traffic has moved": {Config{}, func(r *Transport) { r.Pin(Alternate) }},
		"down":                  {Config{}, func(r *Transport) { time.Sleep(100 * time.Second); goDown(r) }},
		"one attempt":           {Config{MaxAttempts: 1}, nil},
		"no budget": {Config{}, func(r *Transport) {
			for r.budget.take() {
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			base := &twoTries{first: answersAfter(200 * time.Second), second: time.Second}
			runTwoTries(t, base, row.cfg, row.meanwhile, func(_ *Transport, resp *http.Response, err error) {
				require.NoError(t, err)
				assert.Equal(t, 201, resp.StatusCode)
				assert.Equal(t, int32(1), base.made.Load())
				require.NoError(t, resp.Body.Close())
			})
		})
	}
}

// A read that is answered although it was abandoned counts as answered.
func TestAnAnswerThatComesAfterAll(t *testing.T) {
	t.Parallel()
	base := &twoTries{first: func(ctx context.Context) (*http.Response, error) {
		<-ctx.Done()
		return new(http.Response), nil
	}}
	runTwoTries(t, base, Config{}, func(r *Transport) { r.state.Load().pool.waits.abandon() }, func(_ *Transport, resp *http.Response, err error) {
		require.NoError(t, err)
		assert.Equal(t, 201, resp.StatusCode)
		assert.Equal(t, int32(1), base.made.Load())
		require.NoError(t, resp.Body.Close())
	})
}

// Without a ledger, nothing is recorded about a write in progress.
func TestNothingIsRecordedWithoutALedger(t *testing.T) {
	t.Parallel()
	for size, kept := range map[int]bool{-1: false, 1: true} {
		var transport *Transport
		transport = newTestTransport(t, roundTripFunc(func(req *http.Request) (*http.Response, error) {
			transport.books.mu.Lock()
			defer transport.books.mu.Unlock()
			assert.Equal(t, kept, transport.books.sent != nil)
			return acknowledging(req)
		}), Config{ProbeInterval: -1, LedgerSize: size})
		assert.Equal(t, 204, post(t, transport, "/api/data/v9.2/accounts", "", "application/json", "{}"))
		assert.Nil(t, transport.books.sent)
	}
}

// A second try that is due after the end of the first one is not made, and wins nothing.
func TestASecondTryThatComesTooLate(t *testing.T) {
	t.Parallel()
	transport := newTestTransport(t, acknowledging, Config{ProbeInterval: -1, SuspectAfter: -1})
	req, err := http.NewRequest("GET", "https://contoso.api.crm.dynamics.com/", nil)
	require.NoError(t, err)
	given := 0
	watch := &sendWatch{cancel: func(error) { given++ }}
	late := &secondTry{t: transport, st: transport.state.Load(), caller: t.Context(), first: watch, out: req}
	assert.Nil(t, late.end())
	before := transport.budget.shares.Load()
	late.start()
	assert.Equal(t, before, transport.budget.shares.Load())
	assert.Nil(t, late.cancel)
	resp := &http.Response{Body: http.NoBody}
	assert.False(t, late.win(resp))
	assert.Nil(t, late.end())
	assert.Equal(t, http.NoBody, resp.Body)
	assert.Zero(t, given)

	bare := new(http.Response)
	first := &secondTry{t: transport, first: watch}
	assert.True(t, first.win(bare))
	assert.Same(t, bare, first.end())
	assert.Nil(t, bare.Body)
	assert.Equal(t, 1, given)
}
