package failover_test

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover"
)

// nosyBase calls the Transport when it is told to close its connections.
type nosyBase struct {
	transport atomic.Pointer[failover.Transport]
	down      atomic.Bool // whether the primary is
	closed    atomic.Int32
	stuck     atomic.Bool
}

func (b *nosyBase) RoundTrip(req *http.Request) (*http.Response, error) {
	if b.down.Load() && req.URL.Host == lenderPrimary {
		return nil, io.EOF
	}
	return &http.Response{StatusCode: 204, ProtoMajor: 1, Body: http.NoBody, Request: req}, nil
}

func (b *nosyBase) CloseIdleConnections() {
	b.closed.Add(1)
	looked := make(chan struct{})
	go func() {
		b.transport.Load().Status()
		close(looked)
	}()
	select {
	case <-looked:
	case <-time.After(10 * time.Second):
		b.stuck.Store(true)
	}
}

// Closing connections is I/O, and Base may be the program's own: no lock is held meanwhile.
func TestNoLockIsHeldWhileConnectionsAreClosed(t *testing.T) {
	t.Parallel()
	for name, move := range map[string]func(*testing.T, *failover.Transport, *nosyBase){
		"Pin": func(_ *testing.T, transport *failover.Transport, _ *nosyBase) { transport.Pin(failover.Alternate) },
		"Switch": func(t *testing.T, transport *failover.Transport, _ *nosyBase) {
			assert.NoError(t, transport.Switch(t.Context(), failover.Alternate, "drill"))
		},
		"failover": func(t *testing.T, transport *failover.Transport, base *nosyBase) {
			base.down.Store(true)
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+lenderPrimary+accounts, nil)
			require.NoError(t, err)
			_, err = transport.RoundTrip(req)
			assert.NoError(t, err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			base := new(nosyBase)
			transport, err := failover.New("https://"+lenderPrimary, &failover.Config{Base: base, Logger: slog.New(slog.DiscardHandler), RetryBackoff: -1,
				Probe: func(_ context.Context, _ *http.Client, endpoint *url.URL) error {
					if base.down.Load() && endpoint.Host == lenderPrimary {
						return io.EOF
					}
					return nil
				}})
			require.NoError(t, err)
			base.transport.Store(transport)
			defer transport.Close()
			move(t, transport, base)
			assert.Equal(t, failover.Alternate, transport.Status().Active)
			assert.Positive(t, base.closed.Load(), "old connections are let go of")
			assert.False(t, base.stuck.Load(), "a lock is held")
		})
	}
}

// Nothing that is started after Close, or at the same time, outlives it.
func TestNothingBeginsAfterClose(t *testing.T) {
	t.Parallel()
	var probes atomic.Int32
	transport, err := failover.New("https://"+lenderPrimary, &failover.Config{Base: new(nosyBase), Logger: slog.New(slog.DiscardHandler),
		Probe: func(context.Context, *http.Client, *url.URL) error { probes.Add(1); return nil }})
	require.NoError(t, err)
	transport.Close()
	assert.ErrorIs(t, transport.Switch(t.Context(), failover.Alternate, "drill"), failover.ErrClosed)
	transport.Pin(failover.Alternate)
	transport.Unpin()
	assert.Zero(t, probes.Load())
	assert.Equal(t, failover.Primary, transport.Status().Active)
}

// Close, manual actions, traffic and outages at the same time: every call returns, and nothing
// is left running. For the race detector.
func TestEverythingAtTheSameTime(t *testing.T) {
	t.Parallel()
	for range 30 {
		synctest.Test(t, func(t *testing.T) {
			base := new(nosyBase)
			transport, err := failover.New("https://"+lenderPrimary, &failover.Config{Base: hasty{base}, Logger: slog.New(slog.DiscardHandler), MinDwell: -1, Rise: -1,
				ProbeInterval: time.Second, RetryBackoff: time.Millisecond, SuspectAfter: 10 * time.Millisecond})
			require.NoError(t, err)
			base.transport.Store(transport)
			var all sync.WaitGroup
			for i := range 8 {
				all.Go(func() {
					for n := range 20 {
						req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+lenderPrimary+accounts, nil)
						require.NoError(t, err)
						req.Header.Set("Authorization", "Bearer contoso")
						if resp, err := transport.RoundTrip(req); err == nil {
							resp.Body.Close()
						}
						time.Sleep(time.Duration(i+n) * time.Millisecond)
					}
				})
			}
			for i, hand := range []func(){
				func() { transport.Pin(failover.Alternate) },
				transport.Unpin,
				func() { transport.Switch(t.Context(), failover.Primary, "drill") },
				func() { transport.Switch(t.Context(), failover.Alternate, "drill") },
				func() { base.down.Store(!base.down.Load()) },
				func() { transport.Status() },
				transport.CloseIdleConnections,
			} {
				all.Go(func() {
					for range 20 {
						hand()
						time.Sleep(time.Duration(i+1) * time.Millisecond)
					}
				})
			}
			time.Sleep(100 * time.Millisecond)
			for range 3 {
				all.Go(func() { transport.Close() })
			}
			all.Wait()
			assert.True(t, transport.Status().Closed)
		})
	}
}

// hasty is a Base that delays every other request.
type hasty struct{ *nosyBase }

func (b hasty) RoundTrip(req *http.Request) (*http.Response, error) {
	if b.closed.Add(1)%2 == 0 {
		select {
		case <-time.After(30 * time.Millisecond):
		case <-req.Context().Done():
			return nil, req.Context().Err()
		}
	}
	return b.nosyBase.RoundTrip(req)
}

func (hasty) CloseIdleConnections() {}
