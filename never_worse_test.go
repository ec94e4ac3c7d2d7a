package failover_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"runtime"
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

// A program is never worse off with a Transport than without one: stories in which it once
// was. TestNeverWorse of internal/chaos measures it, over faults of every kind and rate.

// withoutAuthorize makes the callers of a story bring their own tokens.
func withoutAuthorize(s *story, cfg failover.Config, token func() string) {
	s.transport.Close()
	cfg.Base, cfg.Logger = s.org.Transport(), slog.New(slog.DiscardHandler)
	var err error
	s.client, s.transport, err = failover.Wrap(nil, s.org.URL(), &cfg)
	require.NoError(s, err)
	s.client.Transport = roundTripper(func(req *http.Request) (*http.Response, error) {
		req = req.Clone(req.Context())
		req.Header.Set("Authorization", token())
		return s.transport.RoundTrip(req)
	})
}

// reads lets callers read at the same time, each with a deadline of its own, and returns the
// number of healthy answers.
func (s *story) reads(callers int, patience time.Duration) int {
	var good atomic.Int32
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(s.Context(), patience)
			defer cancel()
			if status, err := s.try(ctx, http.MethodGet, s.org.URL()+accounts, ""); err == nil && status == 200 {
				good.Add(1)
			}
		})
	}
	all.Wait()
	return int(good.Load())
}

func TestImpatientCallersDoNotCostThePatientTheirAnswers(t *testing.T) {
	for _, impatient := range []int{1, 3, 30} {
		t.Run(fmt.Sprint(impatient), func(t *testing.T) {
			tell(t, failover.Config{}, func(s *story) {
				s.org.Primary().SetLatency(7 * time.Second) // also of probes
				for range 5 {
					var all sync.WaitGroup
					all.Go(func() { assert.Zero(s, s.reads(impatient, 2*time.Second)) })
					all.Go(func() { assert.Equal(s, 97, s.reads(97, 30*time.Second)) })
					all.Wait()
				}
				assert.Equal(s, failover.Primary, s.active())
			})
		})
	}
}

// gateways answer everybody, whether or not the organization is served behind them.
var gateways = map[string]failovertest.Failure{
	"401": failovertest.Status(401, http.Header{"Www-Authenticate": {"Bearer"}}, ""),
	"429": failovertest.Throttle(30 * time.Second),
	"403": failovertest.Status(403, nil, ""),
	"302": failovertest.Status(302, http.Header{"Location": {"https://login.microsoftonline.com/contoso"}}, ""),
}

func TestABlipWithAStandbyThatAnswersEverybody(t *testing.T) {
	for name, gateway := range gateways {
		for _, manual := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/manual=%v", name, manual), func(t *testing.T) {
				tell(t, failover.Config{ManualFailback: manual}, func(s *story) {
					s.org.Alternate().Fail(gateway)
					failures := 0
					for i := range 400 { // twenty seconds, half a second of them without the primary
						switch i {
						case 20:
							s.org.Primary().Fail(failovertest.Refuse())
						case 30:
							s.org.Primary().Heal()
						}
						status, err := s.try(s.Context(), http.MethodGet, s.org.URL()+accounts, "")
						if err != nil || status != 200 {
							failures++
						}
						time.Sleep(50 * time.Millisecond)
					}
					assert.LessOrEqual(s, failures, 10, "those of a bare client")
					assert.Equal(s, failover.Primary, s.active())
				})
			})
		}
	}
}

// A provisional switch that fails neither costs the call its answer, nor latches the
// Transport.
func TestFailedProvisionalSwitchesCostNothing(t *testing.T) {
	for name, gateway := range map[string]failovertest.Failure{"401": gateways["401"], "429": gateways["429"]} {
		t.Run(name, func(t *testing.T) {
			tell(t, failover.Config{}, func(s *story) {
				s.org.Alternate().Fail(gateway)
				for range 6 {
					require.Equal(s, 200, s.get(accounts))
					s.org.Primary().Fail(failovertest.Refuse())
					_, err := s.create("refused")
					require.ErrorIs(s, err, syscall.ECONNREFUSED, "and no answer of the gateway")
					s.org.Primary().Heal()
					status, err := s.create("back at once")
					require.NoError(s, err)
					require.Equal(s, 204, status)
					require.Equal(s, failover.Primary, s.active())
					s.reads(100, time.Minute) // fills the budget for repeats
					time.Sleep(9 * time.Minute)
				}
				assert.NotZero(s, s.count(failover.EventSwitched), "a trial")
				assert.Zero(s, s.count(failover.EventLatched))
				s.org.Alternate().Heal()
				s.org.Disaster(failovertest.Refuse())
				assert.Equal(s, 200, s.get(accounts), "and the real outage is followed")
				assert.Equal(s, failover.Alternate, s.active())
			})
		})
	}
}

// A call that met a failed provisional switch goes on at the endpoint that was left, even if
// it is a write: a 401 or 429 shows that it was not carried out.
func TestACallGoesOnAfterAFailedProvisionalSwitch(t *testing.T) {
	for name, gateway := range map[string]failovertest.Failure{"401": gateways["401"], "429": gateways["429"]} {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			t.Run(name+"/"+method, func(t *testing.T) {
				tell(t, failover.Config{FailureThreshold: 1}, func(s *story) {
					s.org.Alternate().Fail(gateway)
					var failed atomic.Bool
					s.org.Primary().FailWhen(func(r *http.Request) bool { return r.URL.Path == whoAmI || !failed.Swap(true) },
						failovertest.Status(503, http.Header{"Content-Type": {"application/json"}}, `{"error":{"code":"0x8004B065","message":"Fenced."}}`))
					body := ""
					if method == http.MethodPost {
						body = `{"name":"Contoso"}`
					}
					status, err := s.try(s.Context(), method, s.org.URL()+accounts, body)
					require.NoError(s, err)
					assert.Less(s, status, 300)
					assert.Equal(s, failover.Primary, s.active())
					assert.Equal(s, 2, s.count(failover.EventSwitched), "there and back")
				})
			})
		}
	}
}

// The token of a request that cannot be sent is not lent to probes.
func TestARequestThatCannotBeSentLendsNothing(t *testing.T) {
	for name, spoil := range map[string]func(*http.Request){
		"token with a line break": func(r *http.Request) { r.Header.Set("Authorization", r.Header.Get("Authorization")+"\n") },
		"another header": func(r *http.Request) {
			r.Header.Set("X-Contoso", "a\nb")
			r.Header.Set("Authorization", "Bearer canary")
		},
		"name of a header":  func(r *http.Request) { r.Header["X Contoso"] = nil; r.Header.Set("Authorization", "Bearer canary") },
		"method":            func(r *http.Request) { r.Method = "NO GO"; r.Header.Set("Authorization", "Bearer canary") },
		"control character": func(r *http.Request) { r.Header.Set("Authorization", "Bearer \x7f") },
	} {
		t.Run(name, func(t *testing.T) {
			tell(t, failover.Config{}, func(s *story) {
				token := "Bearer " + s.org.Token(s.org.Primary().Host())
				withoutAuthorize(s, failover.Config{}, func() string { return token })
				bad := func() {
					for range 10 {
						req, err := http.NewRequestWithContext(s.Context(), http.MethodGet, s.org.URL()+accounts, nil)
						require.NoError(s, err)
						req.Header.Set("Authorization", token)
						spoil(req)
						_, err = s.transport.RoundTrip(req)
						require.Error(s, err)
					}
				}
				bad()
				s.org.Primary().Fence()
				bad()
				s.get(accounts)
				require.True(s, s.transport.Status().Down)
				bad()
				s.org.Alternate().Serve() // clearing the fence takes an authorized answer
				time.Sleep(10 * time.Second)
				assert.Equal(s, 200, s.get(accounts))
				assert.Equal(s, failover.Alternate, s.active())
			})
		})
	}
}

// The token that probes borrowed expires during an outage, and callers bring new ones.
func TestDownDoesNotOutliveABorrowedToken(t *testing.T) {
	for name, cfg := range map[string]failover.Config{"fails open": {}, "fails fast": {FailFast: true}, "waits": {WaitForUp: true}} {
		t.Run(name, func(t *testing.T) {
			tell(t, cfg, func(s *story) {
				token := "Bearer " + s.org.Token(s.org.Primary().Host())
				withoutAuthorize(s, cfg, func() string { return token })
				require.Equal(s, 200, s.get(accounts))
				s.org.Primary().Fence()
				ctx, cancel := context.WithTimeout(s.Context(), time.Minute)
				s.try(ctx, http.MethodGet, s.org.URL()+accounts, "")
				cancel()
				require.True(s, s.transport.Status().Down)
				time.Sleep(time.Hour)
				s.org.Primary().AcceptAudiences(s.org.Alternate().Host())
				s.org.Primary().Serve()
				time.Sleep(time.Hour) // the borrowed token is no longer accepted
				token = "Bearer " + s.org.Token(s.org.Alternate().Host())
				for range 2 { // the first call brings the new token
					ctx, cancel := context.WithTimeout(s.Context(), time.Minute)
					s.try(ctx, http.MethodGet, s.org.URL()+accounts, "")
					cancel()
					time.Sleep(time.Second)
				}
				assert.False(s, s.transport.Status().Down)
				assert.Equal(s, 200, s.get(accounts))
			})
		})
	}
}

// identities is a pair of endpoints that name their organizations.
type identities struct {
	mu  sync.Mutex
	ids [2]string // "" for an endpoint that refuses connections
}

func (i *identities) set(primary, alternate string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.ids = [2]string{primary, alternate}
}

func (i *identities) RoundTrip(req *http.Request) (*http.Response, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	id := i.ids[0]
	if strings.HasPrefix(req.URL.Host, "contoso--s.") {
		id = i.ids[1]
	}
	if id == "" {
		return nil, errDial
	}
	return answer(200, `{"OrganizationId":"`+id+`"}`, "Content-Type", "application/json")(req)
}

func TestARestoredOrganizationHasANewID(t *testing.T) {
	const before, after = "11111111-2222-3333-4444-555555555555", "99999999-2222-3333-4444-555555555555"
	for name, test := range map[string]struct {
		alternate string
		moves     bool
	}{"the same": {after, true}, "the old one": {before, false}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				world := new(identities)
				transport, err := failover.New(orgURL, &failover.Config{Base: world, Logger: quiet})
				require.NoError(t, err)
				defer transport.Close()
				for _, id := range []string{before, after} {
					world.set(id, "")
					require.NoError(t, transport.Switch(t.Context(), failover.Primary, "makes a probe"))
				}
				world.set("", test.alternate)
				req, _ := http.NewRequest(http.MethodGet, orgURL+accounts, nil)
				resp, err := transport.RoundTrip(req)
				if test.moves {
					require.NoError(t, err)
					assert.Equal(t, 200, resp.StatusCode)
				} else {
					assert.ErrorIs(t, err, failover.ErrUnavailable)
				}
				assert.Equal(t, test.moves, transport.Status().Active == failover.Alternate)
			})
		})
	}
}

// Whatever a Probe of the program does, the process lives, no reader is delayed, and requests
// go on.
func TestAProbeMayDoWhatItLikes(t *testing.T) {
	var nothing *failover.Fault
	for name, test := range map[string]struct {
		probe func(stuck chan struct{}) error // of the alternate, which serves
		moves bool
	}{
		"typed nil":             {func(chan struct{}) error { return nothing }, true},
		"panics":                {func(chan struct{}) error { panic("canary") }, false},
		"panics with a nil":     {func(chan struct{}) error { panic(nothing) }, false},
		"exits":                 {func(chan struct{}) error { runtime.Goexit(); return nil }, false},
		"ignores its context":   {func(stuck chan struct{}) error { <-stuck; return nil }, false},
		"fault without content": {func(chan struct{}) error { return new(failover.Fault) }, false},
		"wraps a typed nil":     {func(chan struct{}) error { return fmt.Errorf("wrapped: %w", error(nothing)) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			stuck := make(chan chan struct{}, 1)
			tell(t, failover.Config{Probe: func(_ context.Context, _ *http.Client, endpoint *url.URL) error {
				if !strings.HasPrefix(endpoint.Host, "contoso--s.") {
					return errors.New("does not serve")
				}
				c := <-stuck
				stuck <- c
				return test.probe(c)
			}}, func(s *story) {
				c := make(chan struct{})
				stuck <- c
				defer close(c) // Close waits for the Probe
				s.org.Disaster(failovertest.Refuse())
				begun := time.Now()
				status, err := s.try(s.Context(), http.MethodGet, s.org.URL()+accounts, "")
				assert.Less(s, time.Since(begun), 10*time.Second)
				if test.moves {
					require.NoError(s, err)
					assert.Equal(s, 200, status)
					return
				}
				require.ErrorIs(s, err, syscall.ECONNREFUSED)
				s.org.Primary().Heal()
				s.org.Primary().Serve()
				assert.Equal(s, 200, s.get(accounts))
			})
		})
	}
}

// A Base that panics does so only in calls of its program.
func TestABaseThatPanicsOnAProbe(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		base := &script{answers: answers(refuse(errDial), refuse(errDial), refuse(errDial), answer(200, "")),
			probe: func(*http.Request) (*http.Response, error) { panic("canary") }}
		transport, err := failover.New(orgURL, &failover.Config{Base: base, MaxAttempts: 3, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		require.NoError(t, err)
		for want := range 2 {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, orgURL+accounts, nil)
			require.NoError(t, err)
			resp, err := transport.RoundTrip(req)
			if want == 0 {
				require.Error(t, err)
				continue
			}
			require.NoError(t, err)
			assert.Equal(t, 200, resp.StatusCode)
		}
		transport.Close()
		assert.Contains(t, log.String(), "canary")
	})
}

func TestFunctionsOfTheProgramMayPanic(t *testing.T) {
	var told atomic.Int32
	tell(t, failover.Config{ConfirmSwitch: func(context.Context, failover.Switch) error {
		if told.Add(1) == 1 {
			panic("canary")
		}
		return nil
	}, OnWrite: func(failover.Write) { told.Add(1); panic("canary") }, OnFault: func(context.Context, failover.Attempt) { panic("canary") }}, func(s *story) {
		_, err := s.create("Contoso")
		require.NoError(s, err)
		synctest.Wait()
		assert.EqualValues(s, 1, told.Swap(0), "OnWrite")
		s.org.Disaster(failovertest.Refuse())
		s.try(s.Context(), http.MethodGet, s.org.URL()+accounts, "")
		assert.Equal(s, failover.Primary, s.active(), "a panic confirms nothing")
		time.Sleep(30 * time.Second)
		assert.Equal(s, 200, s.get(accounts))
		assert.Equal(s, failover.Alternate, s.active())
	})
}

// panicking is a log handler that panics.
type panicking struct{ slog.Handler }

func (panicking) Enabled(_ context.Context, level slog.Level) bool {
	if level < slog.LevelWarn {
		panic("canary")
	}
	return true
}
func (panicking) Handle(context.Context, slog.Record) error { panic("canary") }

func TestOnEventAndLoggerMayPanic(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(){"panic": func() { panic("canary") }, "Goexit": runtime.Goexit} {
		for _, logger := range []*slog.Logger{quiet, slog.New(panicking{slog.DiscardHandler})} {
			synctest.Test(t, func(t *testing.T) {
				org := failovertest.StartInMemory(nil)
				defer org.Close()
				told := 0
				transport, err := failover.New(org.URL(), &failover.Config{Base: org.Transport(), Authorize: org.Authorize, Logger: logger,
					OnEvent: func(failover.Event) { told++; end() }})
				require.NoError(t, err)
				transport.Pin(failover.Alternate)
				transport.Unpin()
				transport.Close()
				assert.Greater(t, told, 1, "it is called for the next event as well: %s", name)
			})
		}
	}
}
