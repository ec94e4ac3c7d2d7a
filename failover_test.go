package failover_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover"
	"github.com/d365failover/failover/failovertest"
)

// story is an organization in memory with a client behind a Transport, in a
// bubble of its own time.
type story struct {
	*testing.T
	org       *failovertest.Org
	transport *failover.Transport
	client    *http.Client

	mu     sync.Mutex
	events []failover.Event // without probes and the warning after every switch
}

// tell runs a story. The bubble fails the test if a goroutine outlives Close.
func tell(t *testing.T, cfg failover.Config, plot func(*story)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStory(t, nil, cfg)
		defer s.close()
		plot(s)
	})
}

// newStory begins a story; close ends it.
func newStory(t *testing.T, world *failovertest.Config, cfg failover.Config) *story {
	s := &story{T: t, org: failovertest.StartInMemory(world)}
	cfg.Base = s.org.Transport()
	if cfg.Authorize == nil {
		cfg.Authorize = s.org.Authorize
	}
	cfg.Logger = slog.New(slog.DiscardHandler)
	cfg.OnEvent = func(e failover.Event) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if e.Kind != failover.EventProbed && e.Kind != failover.EventTokensSuspect {
			s.events = append(s.events, e)
		}
	}
	var err error
	s.client, s.transport, err = failover.Wrap(nil, s.org.URL(), &cfg)
	require.NoError(t, err)
	return s
}

func (s *story) close() {
	s.transport.Close()
	s.org.Close()
}

const (
	accounts = "/api/data/v9.2/accounts"
	whoAmI   = "/api/data/v9.2/WhoAmI"
)

// get reads a path of the organization and returns the status.
func (s *story) get(path string) int {
	s.Helper()
	status, err := s.try(s.Context(), http.MethodGet, s.org.URL()+path, "")
	require.NoError(s, err)
	return status
}

// create posts an account and returns the status.
func (s *story) create(name string) (int, error) {
	return s.try(s.Context(), http.MethodPost, s.org.URL()+accounts, `{"name":"`+name+`"}`)
}

// try sends a request, reads the answer to its end and returns the status.
func (s *story) try(ctx context.Context, method, url, body string) (int, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	require.NoError(s, err)
	if body == "" {
		req.Body, req.GetBody = nil, nil
	} else {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}

// deliveries counts the requests with a method that reached a datacenter,
// probes left out.
func deliveries(d *failovertest.Datacenter, method string) int {
	n := 0
	for _, r := range d.Deliveries() {
		if r.Method == method && r.Path != whoAmI {
			n++
		}
	}
	return n
}

// kinds returns the kinds of the events so far.
func (s *story) kinds() []failover.EventKind {
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	var kinds []failover.EventKind
	for _, e := range s.events {
		kinds = append(kinds, e.Kind)
	}
	return kinds
}

func (s *story) count(kind failover.EventKind) int {
	n := 0
	for _, k := range s.kinds() {
		if k == kind {
			n++
		}
	}
	return n
}

// decode reads the JSON body of a response into v.
func decode(t require.TestingT, resp *http.Response, v any) {
	defer resp.Body.Close()
	require.NoError(t, json.NewDecoder(resp.Body).Decode(v))
}

func (s *story) active() failover.Endpoint { return s.transport.Status().Active }

func TestTheFirstSuccessCountsHoweverEarly(t *testing.T) {
	tell(t, failover.Config{}, func(s *story) {
		s.get(accounts) // no time has passed since New
		assert.WithinDuration(s, time.Now(), s.transport.Status().Primary.LastSuccess, time.Millisecond)
	})
}

func TestHealthyTrafficStaysAtThePrimaryAndIsNotProbed(t *testing.T) {
	tell(t, failover.Config{}, func(s *story) {
		for range 5 {
			assert.Equal(s, 200, s.get(accounts))
		}
		time.Sleep(24 * time.Hour)
		assert.Len(s, s.org.Primary().Deliveries(), 5)
		assert.Empty(s, s.org.Alternate().Deliveries())
		assert.Empty(s, s.kinds())
	})
}

func TestTheFirstRequestOfAHardOutageIsAnsweredByTheAlternate(t *testing.T) {
	t.Parallel()
	outages := map[string]failovertest.Failure{
		"refused":             failovertest.Refuse(),
		"DNS gone":            failovertest.NoSuchHost(),
		"bad certificate":     failovertest.BadCertificate(),
		"expired certificate": failovertest.ExpiredCertificate(),
	}
	for name, outage := range outages {
		t.Run(name+"/read", func(t *testing.T) {
			tell(t, failover.Config{}, func(s *story) {
				assert.Equal(s, 200, s.get(accounts))
				s.org.Disaster(outage)
				assert.Equal(s, 200, s.get(accounts))
				assert.Equal(s, failover.Alternate, s.active())
				assert.Equal(s, []failover.EventKind{failover.EventTripped, failover.EventSwitched}, s.kinds())
			})
		})
		t.Run(name+"/write", func(t *testing.T) {
			tell(t, failover.Config{}, func(s *story) {
				s.org.Disaster(outage)
				status, err := s.create("Contoso")
				require.NoError(s, err)
				assert.Equal(s, 204, status)
				assert.Equal(s, 0, deliveries(s.org.Primary(), http.MethodPost))
				assert.Equal(s, 1, deliveries(s.org.Alternate(), http.MethodPost))
			})
		})
	}
}

func TestOneDecisionForManyCallers(t *testing.T) {
	tell(t, failover.Config{}, func(s *story) {
		s.org.Disaster(failovertest.Refuse())
		var wg sync.WaitGroup
		for i := range 64 {
			wg.Go(func() {
				if i%2 == 0 {
					assert.Equal(s, 200, s.get(accounts))
				} else {
					status, err := s.create("Contoso")
					assert.NoError(s, err)
					assert.Equal(s, 204, status)
				}
			})
		}
		wg.Wait()
		assert.Equal(s, []failover.EventKind{failover.EventTripped, failover.EventSwitched}, s.kinds())
		probes := 0
		for _, r := range s.org.Alternate().Deliveries() {
			if r.Path == whoAmI {
				probes++
			}
		}
		assert.Equal(s, 1, probes, "probes of the alternate")
		assert.Equal(s, 32, deliveries(s.org.Alternate(), http.MethodPost))
	})
}

func TestTrafficStaysOnTheAlternateThroughoutTheOutage(t *testing.T) {
	tell(t, failover.Config{}, func(s *story) {
		s.org.Disaster(failovertest.Refuse())
		s.get(accounts)
		dials := s.org.Primary().Dials()
		for range 100 {
			assert.Equal(s, 200, s.get(accounts))
		}
		assert.Equal(s, dials, s.org.Primary().Dials(), "no request goes to the dead primary")
		time.Sleep(time.Hour)
		assert.Equal(s, failover.Alternate, s.active())
		assert.Equal(s, 1, s.count(failover.EventSwitched))
	})
}

func TestTheFenceMovesAtTheFirstFaultAndTheWriteIsSentOnce(t *testing.T) {
	tell(t, failover.Config{}, func(s *story) {
		s.org.FailOver()
		start := time.Now()
		status, err := s.create("Contoso")
		require.NoError(s, err)
		assert.Equal(s, 204, status)
		assert.Equal(s, 1, deliveries(s.org.Primary(), http.MethodPost))
		assert.Equal(s, 1, deliveries(s.org.Alternate(), http.MethodPost))
		assert.Zero(s, time.Since(start), "a fence needs no pause")
	})
}

func TestTheFenceOfTheAlternateSendsTrafficBackWhateverTheDwell(t *testing.T) {
	tell(t, failover.Config{MinDwell: 10 * time.Hour}, func(s *story) {
		s.org.FailOver()
		s.get(accounts)
		require.Equal(s, failover.Alternate, s.active())
		s.org.FailBack()
		status, err := s.create("Contoso")
		require.NoError(s, err)
		assert.Equal(s, 204, status)
		assert.Equal(s, failover.Primary, s.active())
		assert.Equal(s, 1, deliveries(s.org.Primary(), http.MethodPost))
	})
}

func TestReturnsToThePrimaryAfterItRecovers(t *testing.T) {
	tell(t, failover.Config{}, func(s *story) {
		s.org.Disaster(failovertest.Refuse())
		s.get(accounts)
		moved := s.transport.Status().Since
		time.Sleep(10 * time.Minute)
		s.org.Primary().Heal() // still fenced
		time.Sleep(10 * time.Minute)
		require.Equal(s, failover.Alternate, s.active(), "a fenced primary does not serve")

		s.org.Primary().Serve()
		recovered := time.Now()
		time.Sleep(10 * time.Minute)
		status := s.transport.Status()
		assert.Equal(s, failover.Primary, status.Active)
		assert.Equal(s, failover.StateClosed, status.Primary.State)
		assert.EqualValues(s, 2, status.Generation)
		assert.Less(s, status.Since.Sub(recovered), 3*time.Minute, "three probes")
		assert.Greater(s, status.Since.Sub(moved), 5*time.Minute)
	})
}

func TestFailBackWaitsForTheDwell(t *testing.T) {
	tell(t, failover.Config{MinDwell: 30 * time.Minute}, func(s *story) {
		s.org.Disaster(failovertest.Refuse())
		s.get(accounts)
		moved := s.transport.Status().Since
		s.org.Primary().Heal()
		s.org.Primary().Serve()
		time.Sleep(time.Hour)
		assert.Equal(s, failover.Primary, s.active())
		assert.Equal(s, 30*time.Minute, s.transport.Status().Since.Sub(moved))
	})
}

func TestTheDwellDoublesWithEveryFurtherSwitch(t *testing.T) {
	tell(t, failover.Config{MinDwell: 5 * time.Minute}, func(s *story) {
		var stays []time.Duration
		for range 2 {
			s.org.Disaster(failovertest.Refuse())
			s.get(accounts)
			require.Equal(s, failover.Alternate, s.active())
			moved := s.transport.Status().Since
			s.org.Primary().Heal()
			s.org.FailBack()
			s.org.Alternate().Serve() // both serve: nothing but the dwell holds it
			for s.active() == failover.Alternate {
				time.Sleep(time.Second)
			}
			stays = append(stays, s.transport.Status().Since.Sub(moved))
		}
		assert.Equal(s, []time.Duration{5 * time.Minute, 20 * time.Minute}, stays)
	})
}

func TestAStandbyThatDoesNotServeIsNeverMovedTo(t *testing.T) {
	t.Parallel()
	standbys := map[string]failovertest.Failure{
		"fenced":       {},
		"no such name": failovertest.NoSuchHost(),
		"unavailable":  failovertest.OutagePage(),
	}
	for name, standby := range standbys {
		t.Run(name, func(t *testing.T) {
			tell(t, failover.Config{}, func(s *story) {
				s.org.Alternate().Fail(standby)
				page := "<h1>Contoso maintenance</h1>"
				s.org.Primary().Fail(failovertest.Status(503, http.Header{"Content-Type": {"text/html"}, "X-Contoso": {"1"}}, page))
				for range 20 {
					resp, err := s.client.Get(s.org.URL() + accounts)
					require.NoError(s, err)
					body, err := io.ReadAll(resp.Body)
					resp.Body.Close()
					require.NoError(s, err)
					assert.Equal(s, page, string(body))
					assert.Equal(s, 503, resp.StatusCode)
					assert.Equal(s, "1", resp.Header.Get("X-Contoso"))
					time.Sleep(10 * time.Second)
				}
				assert.Equal(s, failover.Primary, s.active())
				assert.Zero(s, s.count(failover.EventSwitched))
				assert.Zero(s, deliveries(s.org.Alternate(), http.MethodGet))
			})
		})
	}
}

func TestABlackHoleIsEscapedByAttemptTimeout(t *testing.T) {
	tell(t, failover.Config{AttemptTimeout: 2 * time.Second}, func(s *story) {
		s.get(accounts)
		s.org.Disaster(failovertest.BlackHole())
		assert.Equal(s, 200, s.get(accounts))
		assert.Equal(s, failover.Alternate, s.active())
	})
}

func TestABlackHoleIsEscapedByTheDeadlinesOfThreeCallers(t *testing.T) {
	tell(t, failover.Config{}, func(s *story) {
		s.org.Disaster(failovertest.BlackHole())
		for range 3 {
			ctx, cancel := context.WithTimeout(s.Context(), 8*time.Second)
			_, err := s.try(ctx, http.MethodGet, s.org.URL()+accounts, "")
			cancel()
			require.ErrorIs(s, err, context.DeadlineExceeded)
		}
		time.Sleep(6 * time.Second) // the decision outlives the caller
		assert.Equal(s, failover.Alternate, s.active())
		assert.Equal(s, 200, s.get(accounts))
	})
}

func TestWhatDoesNotCountMovesNothing(t *testing.T) {
	t.Parallel()
	answers := map[string]failovertest.Failure{
		"throttled":    failovertest.Throttle(7 * time.Second),
		"unauthorized": failovertest.Status(401, http.Header{"Www-Authenticate": {"Bearer"}}, ""),
		"a plug-in's 503": failovertest.Status(503, http.Header{"Content-Type": {"application/json"}},
			`{"error":{"code":"0x80040265","message":"The contoso plug-in wants a phone number."}}`),
		"validation as a 500": failovertest.Status(500, http.Header{"Content-Type": {"application/json"}},
			`{"error":{"code":"0x80040203","message":"Bad field."}}`),
		"not found": failovertest.Status(404, nil, ""),
	}
	for name, answer := range answers {
		t.Run(name, func(t *testing.T) {
			tell(t, failover.Config{}, func(s *story) {
				s.org.Alternate().Serve()
				s.org.Primary().Fail(answer)
				for range 10 {
					s.get(accounts)
				}
				assert.Empty(s, s.kinds())
				assert.Len(s, s.org.Primary().Deliveries(), 10, "sent once each")
				assert.Empty(s, s.org.Alternate().Deliveries())
			})
		})
	}
}

func TestACallerWhoGivesUpIsNoFault(t *testing.T) {
	tell(t, failover.Config{}, func(s *story) {
		s.org.Alternate().Serve()
		s.org.Primary().Fail(failovertest.Hang())
		for range 10 {
			ctx, cancel := context.WithCancel(s.Context())
			time.AfterFunc(time.Second, cancel)
			_, err := s.try(ctx, http.MethodGet, s.org.URL()+accounts, "")
			require.ErrorIs(s, err, context.Canceled)
			var failure *failover.Error
			require.ErrorAs(s, err, &failure)
			assert.Len(s, failure.Attempts, 1)
		}
		assert.Empty(s, s.kinds())
		assert.Equal(s, map[failover.Class]uint64{failover.ClassCanceled: 10}, s.transport.Status().Primary.Faults)
	})
}

func TestAFenceRightAfterAnEarlyQuestionIsFollowed(t *testing.T) {
	tell(t, failover.Config{}, func(s *story) {
		s.org.Primary().FailNext(1, failovertest.Reset(failovertest.AfterApply))
		_, err := s.create("Contoso") // whose reset raises a question, which finds that all is well
		require.ErrorIs(s, err, failover.ErrOutcomeUnknown)
		synctest.Wait()
		s.org.FailOver()
		assert.Equal(s, 200, s.get(accounts))
		assert.Equal(s, failover.Alternate, s.active())
	})
}

func TestAnActionThatAlwaysFailsPagesNobody(t *testing.T) {
	tell(t, failover.Config{}, func(s *story) {
		s.org.Alternate().Serve()
		s.org.Primary().FailWhen(func(r *http.Request) bool { return r.URL.Path == accounts },
			failovertest.Status(500, http.Header{"Content-Type": {"application/json"}, "Odata-Version": {"4.0"}},
				`{"error":{"code":"","message":"An error has occurred.","innererror":{"message":"Exception occurred while executing action","type":"System.InvalidOperationException"}}}`))
		var again time.Duration // until the fault counts again
		began, probes := time.Now(), 0
		for range 200 {
			assert.Equal(s, 500, s.get(accounts))
			time.Sleep(5 * time.Second)
			n := deliveriesOf(s.org, whoAmI)
			if again == 0 && probes > 0 && n > probes {
				again = time.Since(began)
			}
			probes = n
		}
		assert.Equal(s, failover.Primary, s.active())
		assert.Zero(s, s.count(failover.EventTripped))
		assert.InDelta(s, 10*time.Minute, again, float64(11*time.Second), "explained by a probe that passed")
	})
}

func TestOnePoisonousQueryMovesNothing(t *testing.T) {
	tell(t, failover.Config{}, func(s *story) {
		s.org.Alternate().Serve()
		s.org.Primary().FailWhen(func(r *http.Request) bool { return r.URL.Path == accounts },
			failovertest.Status(504, nil, ""))
		for range 30 {
			assert.Equal(s, 504, s.get(accounts))
			time.Sleep(time.Second)
		}
		assert.Equal(s, failover.Primary, s.active())
		assert.Zero(s, s.count(failover.EventSwitched))
		probes := 0
		for _, r := range s.org.Primary().Deliveries() {
			if r.Path == whoAmI {
				probes++
			}
		}
		assert.NotZero(s, probes)
		assert.LessOrEqual(s, probes, 15, "one every few seconds")
	})
}

func TestWithFailFastBothDownFailsAtOnceAndRecoversByItself(t *testing.T) {
	tell(t, failover.Config{FailFast: true}, func(s *story) {
		s.org.Primary().Fail(failovertest.Refuse())
		_, err := s.try(s.Context(), http.MethodGet, s.org.URL()+accounts, "")
		require.ErrorIs(s, err, failover.ErrUnavailable)
		require.True(s, s.transport.Status().Down)

		before, dials := time.Now(), s.org.Primary().Dials()
		for range 1000 {
			_, err := s.create("Contoso")
			require.ErrorIs(s, err, failover.ErrUnavailable)
			assert.NotErrorIs(s, err, failover.ErrOutcomeUnknown)
			var failure *failover.Error
			require.ErrorAs(s, err, &failure)
			assert.Len(s, failure.Attempts, 2, "the fault of either endpoint")
			assert.Positive(s, failure.RetryAfter)
		}
		assert.Zero(s, time.Since(before))
		assert.Equal(s, dials, s.org.Primary().Dials(), "nothing was sent")

		time.Sleep(time.Hour)
		probes := s.org.Primary().Dials() - dials
		assert.InDelta(s, 3600/8, probes, 100, "a probe every 8 s or so")

		s.org.Primary().Heal()
		time.Sleep(10 * time.Second)
		assert.False(s, s.transport.Status().Down)
		assert.Equal(s, 200, s.get(accounts))
		assert.Equal(s, []failover.EventKind{failover.EventTripped, failover.EventDown, failover.EventUp}, s.kinds())
	})
}

func TestOutOfDownToTheAlternate(t *testing.T) {
	tell(t, failover.Config{}, func(s *story) {
		s.org.Primary().Fail(failovertest.Refuse())
		_, err := s.try(s.Context(), http.MethodGet, s.org.URL()+accounts, "")
		require.ErrorIs(s, err, failover.ErrUnavailable)
		s.org.FailOver()
		time.Sleep(10 * time.Second)
		assert.Equal(s, failover.Alternate, s.active())
		assert.Equal(s, 200, s.get(accounts))
	})
}

func TestStoredLinksWorkInEveryState(t *testing.T) {
	tell(t, failover.Config{}, func(s *story) {
		hosts := []string{
			"contoso.api.crm.dynamics.com", "contoso--s.api.crm.dynamics.com",
			"contoso.crm.dynamics.com", "contoso--s.crm.dynamics.com", "CONTOSO.api.crm.dynamics.com:443",
		}
		check := func(state string) {
			for _, host := range hosts {
				status, err := s.try(s.Context(), http.MethodGet, "https://"+host+accounts, "")
				require.NoError(s, err, "%s, %s", state, host)
				assert.Equal(s, 200, status, "%s, %s", state, host)
			}
		}
		check("at home")
		assert.Empty(s, s.org.Alternate().Deliveries())
		s.org.FailOver()
		check("failed over")
		assert.Equal(s, failover.Alternate, s.active())
		for _, r := range s.org.Alternate().Deliveries() {
			assert.Contains(s, r.Host, "contoso--s.")
		}
		s.org.FailBack()
		check("back at home")
		assert.Equal(s, failover.Primary, s.active())
	})
}

func TestPagesFollowAcrossTheFailover(t *testing.T) {
	tell(t, failover.Config{}, func(s *story) {
		next, seen := s.org.URL()+accounts, 0
		for page := 0; next != ""; page++ {
			if page == 1 {
				s.org.Disaster(failovertest.Refuse())
			}
			resp, err := s.client.Get(next)
			require.NoError(s, err)
			require.Equal(s, 200, resp.StatusCode)
			var list struct {
				Value []struct{ Name string }
				Next  string `json:"@odata.nextLink"`
			}
			decode(s, resp, &list)
			seen += len(list.Value)
			next = list.Next
		}
		assert.Equal(s, 25, seen)
	})
}

func TestLinksOfTheAlternateNameThePrimary(t *testing.T) {
	tell(t, failover.Config{}, func(s *story) {
		s.org.FailOver()
		resp, err := s.client.Post(s.org.URL()+accounts, "application/json", strings.NewReader(`{"name":"Contoso"}`))
		require.NoError(s, err)
		resp.Body.Close()
		assert.True(s, strings.HasPrefix(resp.Header.Get("OData-EntityId"), s.org.URL()+accounts+"("), resp.Header.Get("OData-EntityId"))
		assert.Equal(s, "contoso.api.crm.dynamics.com", resp.Request.URL.Host)
	})
}

func TestAFaultFromBeforeTheSwitchChangesNothing(t *testing.T) {
	tell(t, failover.Config{}, func(s *story) {
		s.org.Primary().FailWhen(func(r *http.Request) bool { return r.URL.RawQuery == "slow" }, failovertest.Hang())
		ctx, cancel := context.WithTimeout(s.Context(), time.Minute)
		defer cancel()
		var late sync.WaitGroup
		for range 10 {
			late.Go(func() { s.try(ctx, http.MethodGet, s.org.URL()+accounts+"?slow", "") })
		}
		synctest.Wait()
		s.org.FailOver()
		s.get(accounts)
		require.Equal(s, failover.Alternate, s.active())
		late.Wait() // ten faults of the primary, from generation 0
		assert.Equal(s, failover.StateClosed, s.transport.Status().Alternate.State)
		assert.Equal(s, 1, s.count(failover.EventSwitched))
		assert.Equal(s, 1, s.count(failover.EventTripped))
	})
}

func TestAnAnswerThatBreaksOffCounts(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]failovertest.Failure{
		"reset":     failovertest.Reset(failovertest.MidBody),
		"truncated": failovertest.Truncate(20),
	} {
		t.Run(name, func(t *testing.T) {
			notFor := func(context.Context, failover.Attempt) { t.Error("OnFault is for attempts without a response") }
			tell(t, failover.Config{OnFault: notFor}, func(s *story) {
				s.org.Alternate().Serve()
				s.org.Primary().Fail(f)
				for range 3 {
					_, err := s.try(s.Context(), http.MethodGet, s.org.URL()+accounts, "")
					require.Error(s, err)
				}
				synctest.Wait()
				assert.Equal(s, failover.Alternate, s.active())
				assert.Equal(s, 200, s.get(accounts))
			})
		})
	}
}

func TestCloseEndsEverything(t *testing.T) {
	tell(t, failover.Config{}, func(s *story) {
		s.org.Disaster(failovertest.Refuse())
		s.get(accounts) // the fail-back loop runs now
		require.NoError(s, s.transport.Close())
		require.NoError(s, s.transport.Close())
		_, err := s.create("Contoso")
		assert.ErrorIs(s, err, failover.ErrClosed)
		assert.ErrorIs(s, s.transport.Switch(context.Background(), failover.Primary, ""), failover.ErrClosed)
		s.transport.Pin(failover.Primary)
		assert.Equal(s, failover.Alternate, s.active())
	})
}

func TestCloseInTheMiddleOfADecisionFreesTheCallers(t *testing.T) {
	tell(t, failover.Config{AttemptTimeout: time.Second}, func(s *story) {
		s.org.Primary().Fail(failovertest.BlackHole())
		s.org.Alternate().Fail(failovertest.BlackHole())
		done := make(chan error)
		go func() {
			_, err := s.try(context.Background(), http.MethodGet, s.org.URL()+accounts, "")
			done <- err
		}()
		time.Sleep(5 * time.Second) // three attempts are over, the probes hang
		require.NoError(s, s.transport.Close())
		assert.Error(s, <-done)
	})
}

func TestEventsComeInOrderOneAtATime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		org := failovertest.StartInMemory(nil)
		defer org.Close()
		var kinds []failover.EventKind
		var transport *failover.Transport
		inside := 0
		transport, err := failover.New(org.URL(), &failover.Config{
			Base: org.Transport(), Authorize: org.Authorize, Logger: slog.New(slog.DiscardHandler),
			OnEvent: func(e failover.Event) {
				inside++
				assert.Equal(t, 1, inside)
				time.Sleep(time.Second) // slow, and calling back
				_ = transport.Status()
				transport.Unpin()
				inside--
				kinds = append(kinds, e.Kind)
			},
		})
		require.NoError(t, err)
		transport.Pin(failover.Alternate)
		transport.Pin(failover.Primary)
		require.NoError(t, transport.Close(), "Close waits for OnEvent")
		assert.Equal(t, []failover.EventKind{
			failover.EventPinned, failover.EventSwitched, failover.EventTokensSuspect,
			failover.EventPinned, failover.EventSwitched, failover.EventTokensSuspect,
		}, kinds[:6])
	})
}

func TestEveryStateChangeIsLogged(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		org := failovertest.StartInMemory(nil)
		defer org.Close()
		var out bytes.Buffer
		client, transport, err := failover.Wrap(org.Client(), org.URL(), &failover.Config{
			Authorize: org.Authorize, Logger: slog.New(slog.NewTextHandler(&out, nil)),
		})
		require.NoError(t, err)
		org.Disaster(failovertest.Refuse())
		resp, err := client.Get(org.URL() + accounts)
		require.NoError(t, err)
		resp.Body.Close()
		transport.Close()
		assert.Contains(t, out.String(), `msg="failover: tripped" organization=contoso.api.crm.dynamics.com`)
		assert.Contains(t, out.String(), `msg="failover: switched"`)
		assert.Contains(t, out.String(), "from=primary to=alternate")
	})
}

func TestAWriteInDoubtIsNotRepeatedAndSaysSo(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]failovertest.Failure{
		"reset after it was applied": failovertest.Reset(failovertest.AfterApply),
		"reset before the answer":    failovertest.Reset(failovertest.BeforeAnswer),
	} {
		t.Run(name, func(t *testing.T) {
			tell(t, failover.Config{}, func(s *story) {
				s.org.Alternate().Serve()
				s.org.Primary().Fail(f)
				_, err := s.create("Contoso")
				require.ErrorIs(s, err, failover.ErrOutcomeUnknown)
				assert.Equal(s, 1, deliveries(s.org.Primary(), http.MethodPost))
				assert.Equal(s, 0, deliveries(s.org.Alternate(), http.MethodPost))
				assert.Equal(s, 1, s.count(failover.EventOutcomeUnknown))
			})
		})
	}
}

func TestAThrottledRequestIsRepeatedIfTheWaitIsAllowed(t *testing.T) {
	tell(t, failover.Config{RetryThrottled: 30 * time.Second}, func(s *story) {
		s.org.Primary().FailNext(1, failovertest.Throttle(7*time.Second))
		start := time.Now()
		status, err := s.create("Contoso")
		require.NoError(s, err)
		assert.Equal(s, 204, status)
		assert.Equal(s, 7*time.Second, time.Since(start))

		s.org.Primary().FailNext(1, failovertest.Throttle(time.Minute))
		status, err = s.create("Contoso")
		require.NoError(s, err)
		assert.Equal(s, 429, status, "longer than allowed")
	})
}

func TestRepeatsAtOneEndpointAreBounded(t *testing.T) {
	tell(t, failover.Config{FailureThreshold: -1}, func(s *story) {
		s.org.Primary().Fail(failovertest.Status(503, nil, ""))
		for range 100 {
			assert.Equal(s, 503, s.get(accounts))
		}
		assert.Equal(s, 110, deliveries(s.org.Primary(), http.MethodGet), "a burst of ten repeats")

		s.org.Primary().Heal()
		for range 50 {
			s.get(accounts)
		}
		s.org.Primary().Fail(failovertest.Status(503, nil, ""))
		for range 100 {
			s.get(accounts)
		}
		assert.Equal(s, 110+50+105, deliveries(s.org.Primary(), http.MethodGet), "one more for ten good requests")
	})
}

func TestA503WithRetryAfterIsNotRepeatedHereButLeadsToADecision(t *testing.T) {
	tell(t, failover.Config{}, func(s *story) {
		s.org.Disaster(failovertest.Status(503, http.Header{"Retry-After": {"120"}}, ""))
		assert.Equal(s, 200, s.get(accounts))
		assert.Equal(s, 1, deliveries(s.org.Primary(), http.MethodGet))
		assert.Equal(s, failover.Alternate, s.active())
	})
}

func TestOtherHostsPassThroughUntouched(t *testing.T) {
	t.Parallel()
	var seen []*http.Request
	base := roundTripper(func(req *http.Request) (*http.Response, error) {
		seen = append(seen, req)
		return nil, errors.New("contoso: no route")
	})
	transport, err := failover.New("https://contoso.api.crm.dynamics.com", &failover.Config{
		Base: base, Authorize: func(*http.Request) error { panic("credentials for a stranger") },
	})
	require.NoError(t, err)
	defer transport.Close()
	for _, url := range []string{
		"https://fabrikam.api.crm.dynamics.com/", "http://contoso.api.crm.dynamics.com/", "https://contoso.api.crm.dynamics.com:8443/",
		"https://contoso.api.crm.dynamics.com.evil.example/", "https://login.microsoftonline.com/",
	} {
		req, err := http.NewRequest(http.MethodGet, url, nil)
		require.NoError(t, err)
		_, err = transport.RoundTrip(req)
		assert.EqualError(t, err, "contoso: no route")
		assert.Same(t, req, seen[len(seen)-1], url)
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

func TestAHostThatAnswersForAnotherOrganizationIsNotMovedTo(t *testing.T) {
	t.Parallel()
	stranger := failovertest.Status(200, http.Header{"Content-Type": {"application/json"}}, `{"OrganizationId":"99999999-9999-9999-9999-999999999999"}`)
	for name, cfg := range map[string]failover.Config{
		"configured": {OrganizationID: "{11111111-2222-3333-4444-555555555555}"},
		"learnt":     {},
	} {
		t.Run(name, func(t *testing.T) {
			tell(t, cfg, func(s *story) {
				s.org.Alternate().Serve()
				if name == "learnt" {
					s.org.Primary().FailWhen(func(r *http.Request) bool { return r.URL.Path == accounts }, failovertest.Status(504, nil, ""))
					s.get(accounts) // a false alarm, with a probe of the primary
					s.org.Primary().Heal()
					time.Sleep(time.Hour)
				}
				s.org.Alternate().Fail(stranger)
				s.org.Primary().Fail(failovertest.Refuse())
				_, err := s.try(s.Context(), http.MethodGet, s.org.URL()+accounts, "")
				require.Error(s, err)
				assert.Equal(s, failover.Primary, s.active())
				assert.ErrorContains(s, s.transport.Status().Alternate.ProbeError, "another organization")
			})
		})
	}
}

func TestARequestThatIsAuthorizedDuringASwitchGoesToTheNewEndpoint(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var s *story
		s = newStory(t, nil, failover.Config{Authorize: func(req *http.Request) error {
			if req.Method == http.MethodPost {
				time.Sleep(time.Minute) // the token service is slow
			}
			return s.org.Authorize(req)
		}})
		defer s.close()
		var writer sync.WaitGroup
		writer.Go(func() {
			status, err := s.create("Contoso")
			assert.NoError(t, err)
			assert.Equal(t, 204, status)
		})
		synctest.Wait()
		s.org.FailOver()
		require.Equal(t, 200, s.get(accounts))
		require.Equal(t, failover.Alternate, s.active())
		writer.Wait()
		assert.Equal(t, 0, deliveries(s.org.Primary(), http.MethodPost))
		assert.Equal(t, 1, deliveries(s.org.Alternate(), http.MethodPost))
	})
}

// Both endpoints pass their probes, and answer requests with the fence.
func TestTwoFencesDoNotPassTrafficToAndFro(t *testing.T) {
	tell(t, failover.Config{}, func(s *story) {
		s.org.Alternate().Serve()
		fence := failovertest.Status(503, http.Header{"Content-Type": {"application/json"}}, `{"error":{"code":"0x8004B065","message":"Not here."}}`)
		for _, side := range []*failovertest.Datacenter{s.org.Primary(), s.org.Alternate()} {
			side.FailWhen(func(r *http.Request) bool { return r.URL.Path == accounts }, fence)
		}
		for range 50 {
			assert.Equal(s, 503, s.get(accounts))
			time.Sleep(100 * time.Millisecond)
		}
		assert.EqualValues(s, 4, s.transport.Status().Generation)
	})
}

func TestTheFirstProbeOfAFailBackComesAfterTheInterval(t *testing.T) {
	tell(t, failover.Config{ProbeInterval: 10 * time.Second}, func(s *story) {
		s.org.FailOver()
		s.get(accounts)
		moved := time.Now()
		time.Sleep(13 * time.Second) // 10 s and a fifth
		assert.InDelta(s, 10*time.Second, s.transport.Status().Primary.LastProbe.Sub(moved), float64(2*time.Second+1))
	})
}
