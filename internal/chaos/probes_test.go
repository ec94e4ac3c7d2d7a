package chaos

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover"
)

// Probes do not wait behind the traffic: neither a full connection pool nor a queue for it
// holds them up.
func TestAFullPoolStarvesNoProbe(t *testing.T) {
	t.Parallel()
	for _, h2 := range []bool{false, true} {
		for limit := 1; limit <= 3; limit++ {
			t.Run(fmt.Sprintf("HTTP/2 %v, MaxConnsPerHost %d", h2, limit), func(t *testing.T) {
				t.Parallel()
				m, err := newMovable(nil)
				require.NoError(t, err)
				defer m.close()
				m.alternate.fenced.Store(false) // it would pass a probe
				base := m.base(h2)
				base.MaxConnsPerHost = limit
				defer base.CloseIdleConnections()
				events := make(chan failover.Event, 256)
				rt, err := failover.New(orgURL, &failover.Config{Base: base, SuspectAfter: 200 * time.Millisecond,
					Logger: slog.New(slog.DiscardHandler), OnEvent: func(e failover.Event) { events <- e }})
				require.NoError(t, err)
				defer rt.Close()
				ctx, cancel := context.WithCancel(t.Context())
				var callers sync.WaitGroup
				for range limit + 2 {
					callers.Go(func() {
						req := newSmallRequest(ctx, "POST", "")
						req.URL.RawQuery = "silent"
						_, err := rt.RoundTrip(req)
						assert.Error(t, err)
					})
				}
				defer callers.Wait()
				defer cancel()
				late := time.After(time.Minute)
				for passed := 0; passed < 1; { // the traffic then uses new connections
					select {
					case e := <-events:
						require.Equal(t, failover.EventProbed, e.Kind, "%v", e)
						if e.From == failover.Primary {
							require.NoError(t, e.Err)
							passed++
						}
					case <-late:
						require.Fail(t, "nothing was probed")
					}
				}
			})
		}
	}
}

// A primary that answers only over old connections has not recovered.
func TestAnOldConnectionIsNoRecovery(t *testing.T) {
	t.Parallel()
	for k := range baseKinds {
		for _, h2 := range []bool{false, true} {
			kind := &baseKinds[k]
			if kind.onlyH2 && !h2 {
				continue
			}
			t.Run(fmt.Sprintf("%s, HTTP/2 %v", kind.name, h2), func(t *testing.T) {
				t.Parallel()
				m, err := newMovable(nil)
				require.NoError(t, err)
				defer m.close()
				m.alternate.fenced.Store(false)
				cfg := kind.make(m.base(h2))
				events := make(chan failover.Event, 4096)
				cfg.MinDwell, cfg.Rise, cfg.ProbeInterval, cfg.MaxProbeInterval = -1, 1, 20*time.Millisecond, 20*time.Millisecond
				cfg.Logger, cfg.OnEvent = slog.New(slog.DiscardHandler), func(e failover.Event) { events <- e }
				rt, err := failover.New(orgURL, cfg)
				require.NoError(t, err)
				defer rt.Close()
				if base, ok := cfg.Base.(interface{ CloseIdleConnections() }); ok {
					defer base.CloseIdleConnections()
				}
				get := func(query string) *http.Response {
					req := newSmallRequest(t.Context(), "GET", "")
					req.URL.RawQuery = query
					resp, err := rt.RoundTrip(req)
					require.NoError(t, err)
					return resp
				}
				held := []*http.Response{get("slow"), get("small"), get("small"), get("small")}
				defer held[0].Body.Close()
				for _, resp := range held[1:] {
					readToEnd(t, resp)
				}
				m.gone.Store(true)
				m.old.mode.Store(placeFenced)
				readToEnd(t, get("small"))
				require.Equal(t, failover.Alternate, rt.Status().Active)
				m.old.mode.Store(placeServes) // over connections that are open
				next := func(kind failover.EventKind) failover.Event {
					late := time.After(time.Minute)
					for {
						select {
						case e := <-events:
							if e.Kind == kind {
								return e
							}
						case <-late:
							require.Fail(t, "there is none", "%v", kind)
						}
					}
				}
				assert.Equal(t, failover.Alternate, next(failover.EventSwitched).To)
				for range 15 {
					e := next(failover.EventProbed)
					if e.From == failover.Primary {
						require.Error(t, e.Err)
					}
				}
				assert.Equal(t, failover.Alternate, rt.Status().Active)
				m.gone.Store(false)
				assert.Equal(t, failover.Primary, next(failover.EventSwitched).To)
			})
		}
	}
}
