package failover_test

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/url"
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

// Sentences in the documentation of New, Config and a Transport's handlers that no other test
// checks.

func TestTheURLsOfOrgAreCopies(t *testing.T) {
	tell(t, failover.Config{}, func(s *story) {
		org := s.transport.Org()
		org.Primary.Host, org.Alternate.Host = "evil.example", "evil.example"
		assert.Equal(s, s.org.URL(), s.transport.Org().Primary.String())
		assert.Equal(s, s.org.URL(), s.transport.Status().Primary.URL)
		s.org.FailOver()
		assert.NoError(s, s.transport.Switch(s.Context(), failover.Alternate, "its probe goes to the alternate"))
	})
}

func TestTheURLOfTheAlternateStartsAtThePrimary(t *testing.T) {
	t.Parallel()
	for _, orgURL := range []string{"https://contoso--s.crm4.dynamics.com/main.aspx?appid=1#x", "https://contoso.crm4.dynamics.com"} {
		transport, err := failover.New(orgURL, nil)
		require.NoError(t, err)
		defer transport.Close()
		assert.Equal(t, failover.Primary, transport.Status().Active)
		assert.Equal(t, "https://contoso.crm4.dynamics.com", transport.Org().Primary.String())
		assert.Equal(t, "https://contoso--s.crm4.dynamics.com", transport.Org().Alternate.String())
	}
}

// New copies the Config, so later changes to it have no effect.
func TestAConfigMayBeReused(t *testing.T) {
	t.Parallel()
	var sent atomic.Int32
	cfg := &failover.Config{Alternate: failover.NoAlternate, Base: roundTripper(func(req *http.Request) (*http.Response, error) {
		sent.Add(1)
		return &http.Response{StatusCode: 204, Header: http.Header{}, Body: http.NoBody, Request: req}, nil
	})}
	transport, err := failover.New("https://contoso.crm4.dynamics.com", cfg)
	require.NoError(t, err)
	defer transport.Close()
	*cfg = failover.Config{Authorize: func(*http.Request) error { return errors.New("of another Config") }}
	resp, err := (&http.Client{Transport: transport}).Get("https://contoso.crm4.dynamics.com/api/data/v9.2/accounts")
	require.NoError(t, err)
	resp.Body.Close()
	assert.EqualValues(t, 1, sent.Load())
}

func TestANilClientIsTheDefaultOne(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if r.URL.RawQuery == "wsdl" {
			w.Header().Set("Content-Type", "text/xml")
			io.WriteString(w, `<definitions xmlns="http://schemas.xmlsoap.org/wsdl/"/>`)
			return
		}
		w.Header().Set("OData-Version", "4.0")
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, "{}")
	}))
	defer server.Close()
	endpoint, err := url.Parse(server.URL)
	require.NoError(t, err)
	policy, err := failover.DiscoverPolicy(t.Context(), nil, endpoint)
	assert.NoError(t, err)
	assert.Zero(t, policy)
	assert.EqualValues(t, 1, asked.Load())
	report := &failover.LossReport{URL: server.URL, AtRisk: []failover.Write{{Method: "POST", Status: 204, Entity: accounts + "(" + failovertest.SeedID(1) + ")"}}}
	found, err := report.Verify(t.Context(), nil)
	assert.NoError(t, err)
	assert.Len(t, found.Present, 1)
	assert.EqualValues(t, 2, asked.Load())
}

func TestProbePathPassesWhateverAnswersWith200(t *testing.T) {
	t.Parallel()
	for status, passes := range map[int]bool{200: true, 202: false, 204: false, 404: false, 503: false} {
		client := &http.Client{Transport: roundTripper(func(req *http.Request) (*http.Response, error) {
			assert.Equal(t, "/data", req.URL.Path)
			return &http.Response{StatusCode: status, Header: http.Header{"Content-Type": {"text/plain"}}, Body: io.NopCloser(strings.NewReader("ok")), Request: req}, nil
		})}
		err := failover.ProbePath("/data")(t.Context(), client, &url.URL{Scheme: "https", Host: "contoso.example"})
		assert.Equal(t, passes, err == nil, "%d: %v", status, err)
	}
}

func TestLabelsAreCutAt256Bytes(t *testing.T) {
	labels := make(chan string, 1)
	tell(t, failover.Config{OnWrite: func(w failover.Write) { labels <- w.Label }}, func(s *story) {
		long := strings.Repeat("x", 256)
		_, err := s.try(failover.WithLabel(s.Context(), long+"y"), http.MethodPost, s.org.URL()+accounts, "{}")
		require.NoError(s, err)
		assert.Equal(s, long, <-labels)
	})
}

// counting counts requests by path, and can wrap another http.RoundTripper.
type counting struct {
	http.RoundTripper
	mu    sync.Mutex
	paths map[string]int
}

func (c *counting) RoundTrip(req *http.Request) (*http.Response, error) {
	c.mu.Lock()
	c.paths[req.URL.Path]++
	c.mu.Unlock()
	return c.RoundTripper.RoundTrip(req)
}

// counts returns the number of requests so far, once nothing runs.
func (c *counting) counts() map[string]int {
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.paths)
}

func count(rt http.RoundTripper) *counting {
	return &counting{RoundTripper: rt, paths: make(map[string]int)}
}

// New and every renewal call Instrument. Requests go through its wrapper, probes do not. A
// Base that is already wrapped is left as it is.
func TestInstrumentWrapsWhatSendsRequests(t *testing.T) {
	t.Parallel()
	var wrappers []*counting
	cfg := failover.Config{Instrument: func(rt http.RoundTripper) http.RoundTripper {
		wrappers = append(wrappers, count(rt))
		return wrappers[len(wrappers)-1]
	}}
	synctest.Test(t, func(t *testing.T) {
		s := newStory(t, nil, cfg)
		defer s.close()
		require.Len(t, wrappers, 1)
		require.Equal(t, 200, s.get(accounts))
		s.org.FailOver()
		require.NoError(t, s.transport.Switch(t.Context(), failover.Alternate, "drill"))
		require.Len(t, wrappers, 2)
		require.Equal(t, 200, s.get(accounts))
		for _, w := range wrappers {
			assert.Equal(t, map[string]int{accounts: 1}, w.counts())
		}
	})
	cfg.Base = roundTripper(nil)
	transport, err := failover.New(orgURL, &cfg)
	require.NoError(t, err)
	defer transport.Close()
	assert.Len(t, wrappers, 2)
}

func TestProbeBaseSendsTheProbes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		org := failovertest.StartInMemory(nil)
		defer org.Close()
		base, probes := count(org.Transport()), count(org.Transport())
		client, transport, err := failover.Wrap(nil, org.URL(), &failover.Config{Base: base, ProbeBase: probes, Authorize: org.Authorize, Logger: quiet})
		require.NoError(t, err)
		defer transport.Close()
		org.FailOver()
		resp, err := client.Get(org.URL() + accounts)
		require.NoError(t, err)
		resp.Body.Close()
		assert.Equal(t, failover.Alternate, transport.Status().Active)
		assert.Equal(t, map[string]int{accounts: 2}, base.counts())
		assert.Equal(t, map[string]int{whoAmI: 2}, probes.counts(), "one for each endpoint")
	})
}

// Without a ProbeBase, a wrapped Base sends the probes and is asked to close the connection
// after each. If it uses an old connection regardless, it is asked eight times.
func TestAProbeThroughAWrappedBaseAsksForANewConnection(t *testing.T) {
	t.Parallel()
	for _, reused := range []bool{false, true} {
		var probes atomic.Int32
		base := roundTripper(func(req *http.Request) (*http.Response, error) {
			assert.True(t, req.Close)
			probes.Add(1)
			trace := httptrace.ContextClientTrace(req.Context())
			trace.GotConn(httptrace.GotConnInfo{Reused: reused})
			if trace.WroteHeaders(); req.Context().Err() != nil {
				return nil, context.Cause(req.Context())
			}
			return &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {"application/json"}, "Odata-Version": {"4.0"}},
				Body: io.NopCloser(strings.NewReader(`{"OrganizationId":"11111111-2222-3333-4444-555555555555"}`)), Request: req}, nil
		})
		transport, err := failover.New(orgURL, &failover.Config{Base: base, Logger: quiet})
		require.NoError(t, err)
		defer transport.Close()
		assert.NoError(t, transport.Switch(t.Context(), failover.Alternate, "drill"))
		assert.Equal(t, map[bool]int32{false: 1, true: 8}[reused], probes.Load())
	}
}

// The first pause before a repeat is RetryBackoff. Each further one is longer by half, and all
// are jittered by half. A negative RetryBackoff means no pauses.
func TestThePausesBeforeRepeats(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		backoff time.Duration
		want    []time.Duration
	}{
		"default":  {0, []time.Duration{100 * time.Millisecond, 150 * time.Millisecond, 225 * time.Millisecond}},
		"longer":   {time.Second, []time.Duration{time.Second, 1500 * time.Millisecond, 2250 * time.Millisecond}},
		"no pause": {-1, []time.Duration{0, 0, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			varied := make([]bool, len(row.want))
			for range 3 {
				synctest.Test(t, func(t *testing.T) {
					var sent []time.Time
					base := roundTripper(func(req *http.Request) (*http.Response, error) {
						sent = append(sent, time.Now())
						return &http.Response{StatusCode: 503, Header: http.Header{}, Body: http.NoBody, Request: req}, nil
					})
					transport, err := failover.New(orgURL, &failover.Config{Base: base, RetryBackoff: row.backoff, FailureThreshold: -1, Alternate: failover.NoAlternate,
						Probe: func(context.Context, *http.Client, *url.URL) error { return nil }, Logger: quiet})
					require.NoError(t, err)
					defer transport.Close()
					resp, err := (&http.Client{Transport: transport}).Get(orgURL + accounts)
					require.NoError(t, err)
					resp.Body.Close()
					require.Len(t, sent, len(row.want)+1)
					for i, want := range row.want {
						pause := sent[i+1].Sub(sent[i])
						assert.GreaterOrEqual(t, pause, want/2)
						assert.LessOrEqual(t, pause, want*3/2+1)
						varied[i] = varied[i] || pause != want
					}
				})
			}
			for _, v := range varied {
				assert.Equal(t, row.backoff >= 0, v)
			}
		})
	}
}

// Close does not close the connections of a Base that the program has set.
func TestCloseLeavesABaseThatWasSet(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer server.Close()
	base := new(http.Transport)
	defer base.CloseIdleConnections()
	transport, err := failover.New(server.URL, &failover.Config{Base: base, Logger: quiet})
	require.NoError(t, err)
	var reused bool
	get := func(rt http.RoundTripper) {
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { reused = i.Reused }})
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL, nil)
		require.NoError(t, err)
		resp, err := rt.RoundTrip(req)
		require.NoError(t, err)
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	get(transport)
	require.NoError(t, transport.Close())
	get(base)
	assert.True(t, reused)
}

func TestAPinProbesNothingWithoutAProbeInterval(t *testing.T) {
	tell(t, failover.Config{ProbeInterval: -1}, func(s *story) {
		s.transport.Pin(failover.Primary)
		s.org.Disaster(failovertest.OutagePage())
		for range 10 {
			s.get(accounts)
			time.Sleep(time.Minute)
		}
		assert.Zero(s, deliveriesOf(s.org, whoAmI))
	})
}

// deliveriesOf counts the requests for a path at both endpoints.
func deliveriesOf(org *failovertest.Org, path string) (n int) {
	for _, d := range append(org.Primary().Deliveries(), org.Alternate().Deliveries()...) {
		if d.Path == path {
			n++
		}
	}
	return n
}

func TestUnpinReleasesTheLatchOfATransportThatIsNotPinned(t *testing.T) {
	tell(t, failover.Config{MinDwell: -1, ProbeInterval: time.Second}, func(s *story) {
		s.org.Alternate().Serve()
		for range 2 {
			s.org.Primary().Fail(failovertest.Refuse())
			s.get(accounts)
			s.org.Primary().Heal()
			time.Sleep(time.Minute)
		}
		require.True(s, s.transport.Status().Latched)
		s.transport.Unpin()
		assert.False(s, s.transport.Status().Latched)
		s.org.Primary().Fail(failovertest.Refuse())
		assert.Equal(s, 200, s.get(accounts))
		assert.Equal(s, failover.Alternate, s.active())
	})
}

func TestASwitchOfAPinnedTransportStaysPinned(t *testing.T) {
	tell(t, failover.Config{MinDwell: -1}, func(s *story) {
		s.transport.Pin(failover.Primary)
		s.org.Alternate().Serve()
		require.NoError(s, s.transport.Switch(s.Context(), failover.Alternate, "by hand"))
		assert.True(s, s.transport.Status().Pinned)
		time.Sleep(time.Hour)
		assert.Equal(s, failover.Alternate, s.active())
	})
}

// After three outages within 10 minutes, a further one is reported only if it lasts 30 s.
func TestOutagesThatComeAndGoAreReportedSparingly(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		apart, last time.Duration // the time between the outages, and of the fourth
		want        int
	}{
		"four within 10 minutes":   {190 * time.Second, 29 * time.Second, 3},
		"the fourth lasts":         {190 * time.Second, 45 * time.Second, 4},
		"the first was long ago":   {210 * time.Second, 25 * time.Second, 4},
		"three within ten minutes": {290 * time.Second, 25 * time.Second, 4},
	} {
		t.Run(name, func(t *testing.T) {
			tell(t, failover.Config{}, func(s *story) {
				for i := range 4 {
					began := time.Now()
					s.org.Primary().Fail(failovertest.Refuse())
					_, err := s.try(s.Context(), http.MethodGet, s.org.URL()+accounts, "")
					require.ErrorIs(s, err, failover.ErrUnavailable)
					if i == 3 {
						time.Sleep(row.last)
					}
					s.org.Primary().Heal()
					require.Equal(s, 200, s.get(accounts))
					require.False(s, s.transport.Status().Down)
					time.Sleep(row.apart - time.Since(began))
				}
				assert.Equal(s, row.want, s.count(failover.EventDown))
			})
		})
	}
}

// NoReplay means one attempt, at the active endpoint, with a body that is streamed as it is
// written.
func TestNoReplayIsOneAttemptThatStreams(t *testing.T) {
	tell(t, failover.Config{}, func(s *story) {
		s.org.FailOver()
		status, err := s.try(failover.NoReplay(s.Context()), http.MethodGet, s.org.URL()+accounts, "")
		require.NoError(s, err)
		assert.Equal(s, 503, status, "the fence, although the other endpoint serves")
		assert.Equal(s, 1, deliveriesOf(s.org, accounts))
	})
	for _, streams := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			var first time.Duration // until Base has read a byte
			start := time.Now()
			transport, err := failover.New(orgURL, &failover.Config{Logger: quiet, Base: roundTripper(func(req *http.Request) (*http.Response, error) {
				_, err := io.ReadFull(req.Body, make([]byte, 1))
				first = time.Since(start)
				assert.NoError(t, err)
				_, err = io.Copy(io.Discard, req.Body)
				assert.NoError(t, err)
				return &http.Response{StatusCode: 204, Header: http.Header{}, Body: http.NoBody, Request: req}, nil
			})})
			require.NoError(t, err)
			defer transport.Close()
			r, w := io.Pipe()
			go func() {
				w.Write([]byte("{"))
				time.Sleep(time.Second)
				w.Write([]byte("}"))
				w.Close()
			}()
			ctx := t.Context()
			if streams {
				ctx = failover.NoReplay(ctx)
			}
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, orgURL+accounts, r)
			require.NoError(t, err)
			resp, err := transport.RoundTrip(req)
			require.NoError(t, err)
			assert.Equal(t, 204, resp.StatusCode)
			assert.Equal(t, map[bool]time.Duration{true: 0, false: time.Second}[streams], first)
		})
	}
}

// ConfirmSwitch is called before a provisional switch, but not before undoing it.
func TestUndoingAProvisionalSwitchIsNotConfirmed(t *testing.T) {
	var asked []failover.Endpoint
	tell(t, failover.Config{ConfirmSwitch: func(_ context.Context, s failover.Switch) error { asked = append(asked, s.To); return nil }}, func(s *story) {
		s.org.Alternate().Fail(gateways["401"])
		s.org.Primary().Fail(failovertest.Refuse())
		_, err := s.create("refused")
		require.ErrorIs(s, err, syscall.ECONNREFUSED)
		s.org.Primary().Heal()
		require.Equal(s, 200, s.get(accounts))
		assert.Equal(s, failover.Primary, s.active())
		assert.Equal(s, 2, s.count(failover.EventSwitched))
		assert.Equal(s, []failover.Endpoint{failover.Alternate}, asked)
	})
}
