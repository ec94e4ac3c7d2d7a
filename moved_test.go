package failover_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover"
	"github.com/d365failover/failover/failovertest"
	"github.com/d365failover/failover/sharedtest"
)

// A drill takes minutes. With WaitForUp, neither a batch job nor a call in progress notices
// it.
func TestADrillIsWaitedFor(t *testing.T) {
	t.Parallel()
	for name, old := range map[string]failovertest.Failure{"fence": {}, "refused": failovertest.Refuse(), "503": failovertest.Status(http.StatusServiceUnavailable, nil, "")} {
		t.Run(name, func(t *testing.T) {
			tell(t, failover.Config{Alternate: failover.NoAlternate, WaitForUp: true}, func(s *story) {
				require.Equal(s, http.StatusOK, s.get(accounts))
				done := make(chan struct{})
				go func() {
					defer close(done)
					s.org.Drill(&failovertest.Recovery{Downtime: 3 * time.Minute, Old: old})
				}()
				synctest.Wait()
				begun := time.Now()
				assert.Equal(s, http.StatusOK, s.get(accounts))
				assert.Less(s, time.Since(begun), 3*time.Minute+15*time.Second)
				<-done
				assert.False(s, s.transport.Status().Down)
			})
		})
	}
}

// A program with little traffic and one slow call: nothing suggests a failover.
func TestASlowCallIsNoDrill(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var events []failover.Event
		transport, err := failover.New(orgURL, &failover.Config{
			Base: roundTripper(func(req *http.Request) (*http.Response, error) {
				if req.Method == http.MethodPost {
					time.Sleep(3 * time.Minute)
				}
				return answerWith(req, http.StatusOK, whoAmIBody), nil
			}),
			Logger:  slog.New(slog.DiscardHandler),
			OnEvent: func(e failover.Event) { events = append(events, e) },
		})
		require.NoError(t, err)
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			req, err := http.NewRequestWithContext(t.Context(), method, orgURL+accounts, nil)
			require.NoError(t, err)
			resp, err := transport.RoundTrip(req)
			require.NoError(t, err)
			resp.Body.Close()
		}
		transport.Close()
		probes := 0
		for _, e := range events {
			if e.Kind == failover.EventProbed {
				probes++
			} else {
				assert.Fail(t, "there is nothing to tell", "%v", e)
			}
		}
		assert.NotZero(t, probes)
		assert.Empty(t, transport.Status().Losses)
	})
}

// A read that waits for long on an old connection, while the endpoint answers over new ones,
// is sent again. The first answer wins, and neither try is cut off.
func TestAReadThatWaitsForLongIsSentAgain(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		method string
		first  time.Duration // until the first try is answered
		second time.Duration // how long the second try takes
		want   time.Duration
		tries  int32
	}{
		"the old place is silent":     {http.MethodGet, never, time.Second, 152 * time.Second, 2},
		"the first answer comes":      {http.MethodGet, 160 * time.Second, 30 * time.Second, 160 * time.Second, 2},
		"it comes before":             {http.MethodGet, 140 * time.Second, time.Second, 140 * time.Second, 1},
		"a write is not made anew":    {http.MethodPost, 300 * time.Second, time.Second, 300 * time.Second, 1},
		"a PUT may be, but is not":    {http.MethodPut, 300 * time.Second, time.Second, 300 * time.Second, 1},
		"the second fails, the first": {http.MethodGet, 200 * time.Second, -time.Second, 200 * time.Second, 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var tries atomic.Int32
				transport, err := failover.New(orgURL, &failover.Config{
					Base: roundTripper(func(req *http.Request) (*http.Response, error) {
						if req.URL.Path == whoAmI {
							return answerWith(req, http.StatusOK, whoAmIBody), nil
						}
						took := test.first
						if tries.Add(1) > 1 {
							took = test.second
						}
						select {
						case <-time.After(max(took, -took)):
						case <-req.Context().Done():
							return nil, context.Cause(req.Context())
						}
						if took < 0 {
							return nil, io.ErrUnexpectedEOF
						}
						return answerWith(req, http.StatusOK, "{}"), nil
					}),
					Logger: slog.New(slog.DiscardHandler),
				})
				require.NoError(t, err)
				defer transport.Close()
				begun := time.Now()
				req, err := http.NewRequestWithContext(t.Context(), test.method, orgURL+accounts, nil)
				require.NoError(t, err)
				resp, err := transport.RoundTrip(req)
				require.NoError(t, err)
				_, err = io.Copy(io.Discard, resp.Body)
				require.NoError(t, err)
				resp.Body.Close()
				assert.InDelta(t, test.want.Seconds(), time.Since(begun).Seconds(), 2)
				assert.Equal(t, test.tries, tries.Load())
			})
		})
	}
}

const (
	never      = 1000 * time.Hour
	whoAmIBody = `{"OrganizationId":"00000000-0000-4000-8000-000000000003"}`
)

func answerWith(req *http.Request, status int, body string) *http.Response {
	return &http.Response{StatusCode: status, ProtoMajor: 1, Header: http.Header{"Content-Type": {"application/json"}},
		Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)), Request: req}
}

// Nothing names the alternate of an organization that has one address: in no state, alone or
// in a fleet.
func TestNothingNamesAnAlternateThatDoesNotExist(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		world failovertest.Config
		alt   string
		fleet bool
	}{
		"Dataverse":                        {failovertest.Config{OneAddress: true}, failover.NoAlternate, false},
		"Finance and Operations":           {failovertest.Config{Host: "contoso.operations.dynamics.com"}, "", false},
		"Finance and Operations, fleet":    {failovertest.Config{Host: "contoso.operations.dynamics.com"}, "", true},
		"Dataverse, fleet of one address":  {failovertest.Config{OneAddress: true}, failover.NoAlternate, true},
		"Finance and Operations, by words": {failovertest.Config{Host: "contoso.operations.dynamics.com"}, failover.NoAlternate, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				org := failovertest.StartInMemory(&test.world)
				defer org.Close()
				var log strings.Builder
				cfg := &failover.Config{Base: org.Transport(), Authorize: org.Authorize, Alternate: test.alt, Logger: slog.New(slog.NewTextHandler(&log, nil))}
				if test.fleet {
					cfg.Shared = new(sharedtest.Memory)
				}
				transport, err := failover.New(org.URL(), cfg)
				require.NoError(t, err)
				path := "/data/CustomersV3"
				if test.world.OneAddress {
					path = accounts
				}
				said := func(ready int) {
					time.Sleep(20 * time.Second)
					status := transport.Status()
					assert.Equal(t, failover.Primary, status.Active)
					assert.Empty(t, status.Alternate.URL)
					for _, accept := range []string{"application/json", "text/html"} {
						req := httptest.NewRequest(http.MethodGet, "/", nil)
						req.Header.Set("Accept", accept)
						w := httptest.NewRecorder()
						transport.StatusHandler().ServeHTTP(w, req)
						assert.NotContains(t, w.Body.String(), "contoso--s")
					}
					w := httptest.NewRecorder()
					transport.ReadyHandler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
					assert.Equal(t, ready, w.Code)
					assert.Error(t, transport.Switch(t.Context(), failover.Alternate, "there is none"))
					transport.Pin(failover.Alternate)
					assert.False(t, transport.Status().Pinned)
				}
				get := func() (int, error) {
					req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, org.URL()+path, nil)
					require.NoError(t, err)
					org.Authorize(req)
					resp, err := transport.RoundTrip(req)
					if err != nil {
						return 0, err
					}
					resp.Body.Close()
					return resp.StatusCode, nil
				}
				status, err := get()
				require.NoError(t, err)
				require.Equal(t, http.StatusOK, status)
				said(http.StatusOK)
				assert.NoError(t, transport.Switch(t.Context(), failover.Primary, "it is there"))
				org.Primary().Fail(failovertest.Refuse())
				_, err = get()
				require.ErrorIs(t, err, failover.ErrUnavailable)
				assert.NotContains(t, err.Error(), "alternate")
				assert.NotContains(t, err.Error(), "neither")
				assert.True(t, transport.Status().Down)
				said(http.StatusServiceUnavailable)
				org.Primary().Heal()
				time.Sleep(20 * time.Second)
				said(http.StatusOK)
				transport.Pin(failover.Primary)
				assert.True(t, transport.Status().Pinned)
				transport.Unpin()
				require.NoError(t, transport.Close())
				assert.Contains(t, log.String(), "failover: up")
				assert.NotContains(t, log.String(), "alternate")
			})
		})
	}
}

// connTo is a connection to an address.
type connTo struct {
	net.Conn
	ip string
}

func (c connTo) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.ParseIP(c.ip), Port: 443} }

// When an answer to a request ends an outage, the event names the old and the new address if
// the request's connection is known, as it is after the first fault, and leads elsewhere.
func TestTheEndOfAnOutageNamesTheAddressesThatAreKnown(t *testing.T) {
	t.Parallel()
	const beforeFault, beforeDown, whileDown = 0, 1, 2
	const named = "the primary answers a request (192.0.2.1 before, 192.0.2.2 now)"
	const bare = "the primary answers a request"
	for name, test := range map[string]struct {
		method  string
		sent    int
		headers int
		ip      string
		reused  bool
		want    string
	}{
		"read of before":                          {http.MethodGet, beforeFault, whileDown, "192.0.2.2", false, bare},
		"write of before":                         {http.MethodPost, beforeFault, whileDown, "192.0.2.2", false, named},
		"read after the first fault":              {http.MethodGet, beforeDown, whileDown, "192.0.2.2", false, named},
		"read after the first fault, long answer": {http.MethodGet, beforeDown, beforeDown, "192.0.2.2", false, named},
		"write of before, long answer":            {http.MethodPost, beforeFault, beforeDown, "192.0.2.2", false, named},
		"read while down":                         {http.MethodGet, whileDown, whileDown, "192.0.2.2", false, named},
		"read while down, same address":           {http.MethodGet, whileDown, whileDown, "192.0.2.1", false, bare},
		"read while down, old connection":         {http.MethodGet, whileDown, whileDown, "192.0.2.1", true, bare},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				connected := func(req *http.Request, conn net.Conn, reused bool) {
					if trace := httptrace.ContextClientTrace(req.Context()); trace != nil && trace.GotConn != nil {
						trace.GotConn(httptrace.GotConnInfo{Conn: conn, Reused: reused})
					}
				}
				var fails atomic.Bool
				probes, headers, body := make(chan struct{}), make(chan struct{}), make(chan struct{})
				var reasons []string
				transport, err := failover.New(orgURL, &failover.Config{
					Alternate: failover.NoAlternate, ProbeTimeout: -1, Logger: slog.New(slog.DiscardHandler),
					OnEvent: func(e failover.Event) {
						if e.Kind == failover.EventUp {
							reasons = append(reasons, e.Reason)
						}
					},
					Base: roundTripper(func(req *http.Request) (*http.Response, error) {
						switch {
						case req.URL.Path == whoAmI:
							<-probes
							return nil, errDial
						case req.URL.RawQuery == "late":
							<-headers
							connected(req, connTo{ip: test.ip}, test.reused)
							resp := answerWith(req, http.StatusOK, "")
							resp.Body = io.NopCloser(waitThenEOF(body))
							return resp, nil
						case fails.Load():
							return nil, errDial
						}
						connected(req, connTo{ip: "192.0.2.1"}, false)
						return answerWith(req, http.StatusNoContent, ""), nil
					}),
				})
				require.NoError(t, err)
				defer transport.Close()
				call := func(method, query string) error {
					req, err := http.NewRequestWithContext(t.Context(), method, orgURL+accounts+query, nil)
					require.NoError(t, err)
					resp, err := transport.RoundTrip(req)
					if err != nil {
						return err
					}
					_, err = io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
					return err
				}
				steps := []func(){
					func() {
						fails.Store(true)
						go func() { assert.Error(t, call(http.MethodPost, "")) }()
						time.Sleep(10 * time.Second)
					},
					func() { close(probes) },
					func() {},
				}
				require.NoError(t, call(http.MethodPost, ""))
				for at, next := range steps {
					require.Equal(t, at == whileDown, transport.Status().Down)
					require.Empty(t, reasons)
					if at == test.sent {
						go func() { assert.NoError(t, call(test.method, "?late")) }()
						synctest.Wait()
					}
					if at == test.headers {
						close(headers)
						synctest.Wait()
					}
					next()
					synctest.Wait()
				}
				close(body)
				synctest.Wait()
				assert.Equal(t, []string{test.want}, reasons)
			})
		})
	}
}

// waitThenEOF is a reader that ends when it is told to.
type waitThenEOF chan struct{}

func (w waitThenEOF) Read([]byte) (int, error) {
	<-w
	return 0, io.EOF
}
