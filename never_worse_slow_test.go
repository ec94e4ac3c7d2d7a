package failover_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover"
	"github.com/d365failover/failover/failovertest"
)

// silences are ways for the primary to accept requests without answering.
var silences = map[string]func(*story){
	"black hole": func(s *story) { s.org.Disaster(failovertest.BlackHole()) },
	"a server that takes requests": func(s *story) {
		s.org.FailOver()
		s.org.Primary().Fail(failovertest.Hang())
	},
}

// With the zero Config, a reader is answered within 16 s, whatever its connection; a write is
// not cut off.
func TestOutOfSilence(t *testing.T) {
	for name, begin := range silences {
		for _, warm := range []bool{true, false} {
			for setting, test := range map[string]struct {
				cfg    failover.Config
				within time.Duration
			}{
				"zero":        {failover.Config{}, 16 * time.Second},
				"interactive": {failover.Config{SuspectAfter: 2 * time.Second, ProbeTimeout: 2 * time.Second}, 8 * time.Second},
			} {
				t.Run(fmt.Sprintf("%s/warm=%v/%s", name, warm, setting), func(t *testing.T) {
					tell(t, test.cfg, func(s *story) {
						if warm {
							s.org.Primary().FailNext(2, failovertest.Delay(time.Second)) // both at the same time
							require.Equal(s, 2, s.reads(2, time.Minute))                 // leaves two idle connections
							time.Sleep(time.Minute)
						}
						begin(s)
						begun := time.Now()
						ctx, giveUp := context.WithCancel(s.Context())
						write := make(chan error, 1)
						go func() {
							_, err := s.try(ctx, http.MethodPost, s.org.URL()+accounts, `{"name":"Contoso"}`)
							write <- err
						}()
						assert.Equal(s, 200, s.get(accounts))
						assert.LessOrEqual(s, time.Since(begun), test.within)
						assert.Equal(s, failover.Alternate, s.active())
						time.Sleep(20 * time.Minute)
						select {
						case err := <-write:
							assert.NoError(s, err, "it was not sent over the dead connection")
							assert.False(s, warm || name != "black hole")
						default:
							loss := s.transport.Status().Loss
							if assert.NotNil(s, loss) {
								assert.Len(s, loss.Unknown, 1, "it waits on, and is listed")
							}
							giveUp()
							assert.ErrorIs(s, <-write, failover.ErrOutcomeUnknown)
						}
						giveUp()
					})
				})
			}
		}
	}
}

// Many readers that start after the first seconds of silence are answered within 16 s, too.
func TestManyReadersOutOfSilence(t *testing.T) {
	for name, begin := range silences {
		t.Run(name, func(t *testing.T) {
			tell(t, failover.Config{}, func(s *story) {
				require.Equal(s, 100, s.reads(100, time.Minute))
				time.Sleep(5 * time.Second)
				begin(s)
				assert.GreaterOrEqual(s, s.reads(100, 16*time.Second+time.Millisecond), 98)
			})
		})
	}
}

// A call that is answered in the end is never cut off.
func TestLongCallsLive(t *testing.T) {
	for _, takes := range []time.Duration{149 * time.Second, 151 * time.Second, 10 * time.Minute, 3 * time.Hour} {
		for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodDelete} {
			t.Run(fmt.Sprint(takes, method), func(t *testing.T) {
				tell(t, failover.Config{}, func(s *story) {
					path, body, want := accounts, "", 200
					switch method {
					case http.MethodPost:
						body, want = `{"name":"Contoso"}`, 204
					case http.MethodDelete:
						path, want = accounts+"("+failovertest.SeedID(1)+")", 204
					}
					s.org.Primary().FailWhen(func(r *http.Request) bool { return r.Method == method && r.URL.Path != whoAmI }, failovertest.Delay(takes))
					begun := time.Now()
					status, err := s.try(s.Context(), method, s.org.URL()+path, body)
					require.NoError(s, err)
					assert.Equal(s, want, status)
					assert.InDelta(s, takes, time.Since(begun), float64(time.Second))
					sent := 1
					if method == http.MethodGet && takes > 150*time.Second {
						sent = 2 // the second over a connection newer than the suspicion
					}
					assert.Equal(s, sent, deliveries(s.org.Primary(), method))
					assert.Equal(s, failover.Primary, s.active())
				})
			})
		}
	}
}

// Ten thousand callers meet the outage at the same time. The cases run one after another: with
// the race detector, each takes about a gigabyte.
func TestTenThousandCallersAtTheMomentOfAnOutage(t *testing.T) {
	const callers = 10_000
	for name, fault := range map[string]func(*http.Request) (*http.Response, error){"refused": refuse(errDial), "503": answer(503, ""), "fence": fence, "reset": refuse(errReset)} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var probes, atAlternate, switched, refused atomic.Int32
				base := roundTripper(func(req *http.Request) (*http.Response, error) {
					time.Sleep(20 * time.Millisecond)
					alternate := strings.HasPrefix(req.URL.Host, "contoso--s.")
					switch {
					case strings.HasSuffix(req.URL.Path, "/WhoAmI"):
						probes.Add(1)
						if alternate {
							return serves(req)
						}
						return fault(req)
					case alternate:
						atAlternate.Add(1)
						return answer(200, "{}")(req)
					default:
						return fault(req)
					}
				})
				transport, err := failover.New(orgURL, &failover.Config{Base: base, Logger: quiet, OnEvent: func(e failover.Event) {
					switch e.Kind {
					case failover.EventSwitched:
						switched.Add(1)
					case failover.EventSwitchRefused, failover.EventDown, failover.EventRenewed:
						refused.Add(1)
					}
				}})
				require.NoError(t, err)
				defer transport.Close()
				begun := time.Now()
				var good atomic.Int32
				var all sync.WaitGroup
				for range callers {
					all.Go(func() {
						req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, orgURL+accounts, nil)
						if resp, err := transport.RoundTrip(req); err == nil && resp.StatusCode == 200 {
							good.Add(1)
						}
					})
				}
				all.Wait()
				assert.EqualValues(t, callers, good.Load())
				assert.LessOrEqual(t, time.Since(begun), 8*20*time.Millisecond, "no pause")
				assert.EqualValues(t, callers, atAlternate.Load(), "no storm beyond the callers")
				assert.LessOrEqual(t, probes.Load(), int32(4))
				assert.EqualValues(t, 1, switched.Load())
				assert.Zero(t, refused.Load())
			})
		})
	}
}

// The very first caller is answered within eight round trips, without a pause.
func TestTheFirstAnswerOfTheAlternateTakesEightRoundTrips(t *testing.T) {
	const trip = 100 * time.Millisecond
	for name, fault := range map[string]func(*http.Request) (*http.Response, error){"refused": refuse(errDial), "503": answer(503, ""), "fence": fence, "reset": refuse(errReset),
		"503, Retry-After": answer(503, "", "Retry-After", "30")} {
		for _, pause := range []time.Duration{100 * time.Millisecond, 10 * time.Second} {
			t.Run(fmt.Sprint(name, "/", pause), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					base := roundTripper(func(req *http.Request) (*http.Response, error) {
						time.Sleep(trip)
						if strings.HasPrefix(req.URL.Host, "contoso--s.") {
							return serves(req)
						}
						return fault(req)
					})
					transport, err := failover.New(orgURL, &failover.Config{Base: base, Logger: quiet, RetryBackoff: pause})
					require.NoError(t, err)
					defer transport.Close()
					begun := time.Now()
					req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, orgURL+accounts, nil)
					resp, err := transport.RoundTrip(req)
					require.NoError(t, err)
					assert.Equal(t, 200, resp.StatusCode)
					assert.LessOrEqual(t, time.Since(begun), 8*trip)
				})
			})
		}
	}
}

// A brown-out does not flood a pager.
func TestABrownOutTellsLittle(t *testing.T) {
	for _, share := range []float64{0.17, 0.5, 0.9} {
		t.Run(fmt.Sprint(share), func(t *testing.T) {
			tell(t, failover.Config{}, func(s *story) {
				s.org.Primary().FailShare(share, 1, failovertest.OutagePage())
				begun := time.Now()
				var down time.Duration
				good, calls := 0, 0
				for time.Since(begun) < 10*time.Minute {
					before := s.transport.Status()
					status, err := s.try(s.Context(), http.MethodGet, s.org.URL()+accounts, "")
					if calls++; err == nil && status == 200 {
						good++
					}
					if before.Down {
						down += 100 * time.Millisecond
					}
					time.Sleep(100 * time.Millisecond)
				}
				assert.LessOrEqual(s, s.count(failover.EventDown), 8)
				assert.LessOrEqual(s, s.count(failover.EventUp), s.count(failover.EventDown))
				assert.Less(s, len(s.kinds()), 700, "trips and refusals included, one a second at the most")
				assert.Greater(s, float64(good)/float64(calls), 1-share-0.03)
				assert.InDelta(s, down, s.transport.Status().TimeDown, float64(time.Minute))
				s.org.Primary().Heal()
				time.Sleep(15 * time.Second)
				require.Equal(s, 200, s.get(accounts))
				sum := s.transport.Status().TimeDown
				time.Sleep(time.Hour)
				assert.Equal(s, sum, s.transport.Status().TimeDown, "it is over")
				kinds := s.kinds()
				if n := s.count(failover.EventDown); n > 0 {
					assert.Equal(s, n, s.count(failover.EventUp), "every Down that was told of ends: %v", kinds)
				}
			})
		})
	}
}

// While Down, the program decides what happens to its calls.
func TestWhatDownMeansToACaller(t *testing.T) {
	for name, test := range map[string]struct {
		cfg        failover.Config
		deliveries int           // of ten reads while down
		fails      time.Duration // the time until a call fails
	}{
		"fails open": {failover.Config{}, 10, 0},
		"FailFast":   {failover.Config{FailFast: true}, 0, 0},
		"WaitForUp":  {failover.Config{WaitForUp: true}, 0, time.Minute},
		"both":       {failover.Config{WaitForUp: true, FailFast: true}, 0, time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			tell(t, test.cfg, func(s *story) {
				s.org.Primary().Fail(failovertest.OutagePage())
				ctx, cancel := context.WithTimeout(s.Context(), time.Minute)
				s.try(ctx, http.MethodGet, s.org.URL()+accounts, "") // waits as well
				cancel()
				require.True(s, s.transport.Status().Down)
				before, begun := deliveries(s.org.Primary(), http.MethodGet), time.Now()
				assert.Zero(s, s.reads(10, time.Minute))
				assert.Equal(s, test.fails, time.Since(begun))
				assert.Equal(s, test.deliveries, deliveries(s.org.Primary(), http.MethodGet)-before)

				go func() {
					time.Sleep(5 * time.Minute)
					s.org.Primary().Heal()
				}()
				begun = time.Now()
				good := s.reads(10, time.Hour)
				if test.cfg.WaitForUp {
					assert.Equal(s, 10, good)
					assert.InDelta(s, 5*time.Minute, time.Since(begun), float64(11*time.Second))
				} else {
					assert.Zero(s, good)
				}
				time.Sleep(10 * time.Minute)
				assert.Equal(s, 200, s.get(accounts))
			})
		})
	}
}

// A process that has run out of files for new connections goes on over the open ones.
func TestAMachineWithoutFilesGoesOnOverOpenConnections(t *testing.T) {
	t.Parallel()
	entered, release := make(chan struct{}, 1), make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.RawQuery == "wait" {
			entered <- struct{}{}
			<-release
		}
	}))
	defer server.Close()
	var full atomic.Bool
	base := &http.Transport{DialContext: (&net.Dialer{Control: func(string, string, syscall.RawConn) error {
		if full.Load() {
			return os.NewSyscallError("socket", syscall.EMFILE)
		}
		return nil
	}}).DialContext}
	defer base.CloseIdleConnections()
	transport, err := failover.New(server.URL, &failover.Config{Alternate: "http://127.0.0.1:1", Base: base, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	defer transport.Close()
	get := func(query string) error {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+accounts+query, nil)
		require.NoError(t, err)
		resp, err := transport.RoundTrip(req)
		if err == nil {
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
		return err
	}
	require.NoError(t, get(""))
	full.Store(true)
	var wg sync.WaitGroup
	wg.Go(func() { assert.NoError(t, get("?wait")) }) // over the open connection
	<-entered
	for range 20 {
		err := get("")
		require.ErrorIs(t, err, syscall.EMFILE)
		assert.Equal(t, failover.ClassLocal, lastFault(t, err).Class)
	}
	close(release)
	wg.Wait()
	assert.NoError(t, get(""))
	status := transport.Status()
	assert.False(t, status.Down)
	assert.Equal(t, failover.StateClosed, status.Primary.State)
	assert.Equal(t, failover.Primary, status.Active)
}

// Not parallel: it replaces http.DefaultTransport.
func TestTheDefaultBaseIsWhatTheProgramUses(t *testing.T) {
	before := http.DefaultTransport
	defer func() { http.DefaultTransport = before }()
	answered := func(transport *failover.Transport) *http.Response {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, orgURL+accounts, nil)
		require.NoError(t, err)
		resp, err := transport.RoundTrip(req)
		require.NoError(t, err)
		return resp
	}

	http.DefaultTransport = roundTripper(answer(299, ""))
	for _, client := range []*http.Client{nil, {}} {
		_, transport, err := failover.Wrap(client, orgURL, &failover.Config{Logger: quiet})
		require.NoError(t, err)
		assert.Equal(t, 299, answered(transport).StatusCode, "replaced")
		transport.Close()
	}
	transport, err := failover.New(orgURL, &failover.Config{Logger: quiet})
	require.NoError(t, err)
	assert.Equal(t, 299, answered(transport).StatusCode, "replaced")
	http.DefaultTransport = before
	assert.Equal(t, 299, answered(transport).StatusCode, "what it was in New")
	transport.Close()

	registered := before.(*http.Transport).Clone()
	registered.RegisterProtocol("contoso", roundTripper(answer(297, "")))
	for _, client := range []*http.Client{{}, {Transport: registered}} {
		http.DefaultTransport = registered
		client, transport, err := failover.Wrap(client, orgURL, nil)
		http.DefaultTransport = before
		require.NoError(t, err)
		resp, err := client.Get("contoso://other.example/")
		require.NoError(t, err, "a clone does not have it")
		assert.Equal(t, 297, resp.StatusCode, "registered by the program")
		require.NoError(t, resp.Body.Close())
		transport.Close()
	}

	_, transport, err = failover.Wrap(&http.Client{Transport: roundTripper(answer(298, ""))}, orgURL, nil)
	require.NoError(t, err)
	assert.Equal(t, 298, answered(transport).StatusCode, "the client's own")
	transport.Close()
}

// The default Base has no timeout for headers of its own, but keeps one that the program has
// set.
func TestTheDefaultBaseCutsNothing(t *testing.T) {
	t.Parallel()
	for _, limit := range []time.Duration{0, 3 * time.Minute} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				org := failovertest.StartInMemory(&failovertest.Config{Anonymous: true})
				defer org.Close()
				base := org.Transport()
				base.ResponseHeaderTimeout = limit
				client, transport, err := failover.Wrap(&http.Client{Transport: base}, org.URL(), &failover.Config{Logger: quiet})
				require.NoError(t, err)
				defer transport.Close()
				org.Primary().FailWhen(func(r *http.Request) bool { return r.URL.Path != whoAmI }, failovertest.Delay(time.Hour))
				begun := time.Now()
				resp, err := client.Post(org.URL()+accounts, "application/json", strings.NewReader(`{"name":"Contoso"}`))
				if limit == 0 {
					require.NoError(t, err)
					assert.Equal(t, 204, resp.StatusCode)
					assert.InDelta(t, time.Hour, time.Since(begun), float64(time.Second))
				} else {
					require.ErrorIs(t, err, failover.ErrOutcomeUnknown)
					assert.Equal(t, limit, time.Since(begun))
				}
			})
		})
	}
}

// The guard against stubs ends, so a program may repair records by upsert.
func TestTheGuardAgainstStubsEnds(t *testing.T) {
	for _, within := range []bool{true, false} {
		t.Run(fmt.Sprint(within), func(t *testing.T) {
			world := &failovertest.Config{Lag: time.Minute}
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newStory(t, world, failover.Config{})
				defer s.close()
				_, err := s.create("lost")
				require.NoError(s, err)
				s.org.Disaster(failovertest.Refuse())
				require.Equal(s, 200, s.get(accounts))
				loss := s.transport.Status().Loss
				require.Len(s, loss.AtRisk, 1)
				time.Sleep(30 * time.Minute)
				if !within {
					time.Sleep(24 * time.Hour)
				}
				status, err := s.try(s.Context(), http.MethodPatch, s.org.URL()+loss.AtRisk[0].Entity, `{"name":"repaired"}`)
				require.NoError(s, err)
				if within {
					assert.Equal(s, 404, status)
				} else {
					assert.Less(s, status, 300)
				}
			})
		})
	}
}
