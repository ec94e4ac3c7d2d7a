package failover_test

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"slices"
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

// A story is an organization in memory, with a client behind a Transport, in a synctest
// bubble.
type story struct {
	*testing.T
	org       *failovertest.Org
	transport *failover.Transport
	client    *http.Client

	mu     sync.Mutex
	events []failover.Event // except probes, and the warning after every switch
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

// deliveries counts the requests with a method that reached a datacenter, except probes.
func deliveries(d *failovertest.Datacenter, method string) int {
	n := 0
	for _, r := range d.Deliveries() {
		if r.Method == method && r.Path != whoAmI {
			n++
		}
	}
	return n
}

// told returns the events so far. They come on a goroutine of their own.
func (s *story) told() []failover.Event {
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.events)
}

// kinds returns the kinds of the events so far.
func (s *story) kinds() []failover.EventKind {
	var kinds []failover.EventKind
	for _, e := range s.told() {
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
		s.get(accounts) // at the very time of New
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
		time.Sleep(6 * time.Second) // the decision outlives the callers
		assert.Equal(s, failover.Alternate, s.active())
		assert.Equal(s, 200, s.get(accounts))
	})
}

func TestAFenceRightAfterAnEarlyQuestionIsFollowed(t *testing.T) {
	tell(t, failover.Config{}, func(s *story) {
		s.org.Primary().FailNext(1, failovertest.Reset(failovertest.AfterApply))
		_, err := s.create("Contoso") // the reset leads to an early question, which finds that all is well
		require.ErrorIs(s, err, failover.ErrOutcomeUnknown)
		synctest.Wait()
		s.org.FailOver()
		assert.Equal(s, 200, s.get(accounts))
		assert.Equal(s, failover.Alternate, s.active())
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
