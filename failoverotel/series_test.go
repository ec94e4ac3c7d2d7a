package failoverotel_test

import (
	"maps"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	sdk "go.opentelemetry.io/otel/sdk/metric"

	"github.com/d365failover/failover"
	"github.com/d365failover/failover/failoverotel"
	"github.com/d365failover/failover/failovertest"
)

func TestTwoOrganizationsInOneProgram(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		reader := sdk.NewManualReader()
		provider := meterOf(reader)
		contoso := newStory(t, nil, failover.Config{}, reader, provider)
		defer contoso.close()
		fabrikam := newStory(t, &failovertest.Config{Host: "fabrikam.crm4.dynamics.com"}, failover.Config{}, reader, provider)
		defer fabrikam.close()
		contoso.get()
		fabrikam.org.FailOver()
		fabrikam.get()

		points := contoso.collect()
		has(t, points, 0, "failover.switches", "failover.organization=contoso.api.crm.dynamics.com")
		has(t, points, 1, "failover.switches", "failover.organization=fabrikam.crm4.dynamics.com")
		has(t, points, 1, "failover.active", "server.address=contoso.api.crm.dynamics.com")
		has(t, points, 1, "failover.active", "server.address=fabrikam--s.crm4.dynamics.com")

		fabrikam.transport.Close()
		contoso.collect()
		points = contoso.collect()
		has(t, points, 1, "failover.active", "failover.organization=contoso.api.crm.dynamics.com")
		for _, p := range points["failover.active"] {
			assert.False(t, matches(p.attributes, []string{"failover.organization=fabrikam.crm4.dynamics.com"}))
		}
	})
}

func TestTwoTransportsOfOneOrganization(t *testing.T) {
	t.Parallel()
	for _, named := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			reader := sdk.NewManualReader()
			provider := meterOf(reader)
			options := map[string][]failoverotel.Option{"batch": {provider}, "interactive": {provider}}
			if named {
				for name := range options {
					options[name] = append(options[name], failoverotel.WithAttributes(
						attribute.String("user", name), attribute.String("failover.organization", "mine")))
				}
			}
			batch := newStory(t, nil, failover.Config{}, reader, options["batch"]...)
			defer batch.close()
			interactive := newStory(t, nil, failover.Config{}, reader, options["interactive"]...)
			defer interactive.close()
			interactive.org.FailOver()
			interactive.get()
			batch.get()

			points := batch.collect()
			has(t, points, 1, "failover.active", "failover.endpoint=primary")
			has(t, points, 1, "failover.active", "failover.endpoint=alternate")
			has(t, points, 4, "failover.circuit_breaker.state")
			has(t, points, 1, "failover.faults")
			if named {
				has(t, points, 1, "failover.active", "user=batch", "failover.endpoint=primary")
				has(t, points, 1, "failover.active", "user=interactive", "failover.endpoint=alternate")
				has(t, points, 2, "failover.active", "failover.organization=contoso.api.crm.dynamics.com")
			}
		})
	}
}

func TestDroppedEventsAreCounted(t *testing.T) {
	t.Parallel()
	reader := sdk.NewManualReader()
	release := make(chan struct{})
	transport, err := failoverotel.New("https://contoso.crm.dynamics.com",
		&failover.Config{Logger: quiet, OnEvent: func(failover.Event) { <-release }},
		meterOf(reader))
	require.NoError(t, err)
	for i := range 800 {
		transport.Pin(failover.Endpoint(1 - i%2))
		transport.Unpin()
	}
	dropped := transport.Status().EventsDropped
	assert.NotZero(t, dropped)
	has(t, collect(t, reader), float64(dropped), "failover.dropped_events")
	close(release)
	require.NoError(t, transport.Close())
}

// The number of series has a bound, whatever happens to an organization.
func TestTheNumberOfSeriesIsBounded(t *testing.T) {
	tell(t, failover.Config{MinDwell: -1}, func(s *story) {
		failures := []failovertest.Failure{
			failovertest.Refuse(), failovertest.NoSuchHost(), failovertest.Reset(failovertest.AfterApply), failovertest.OutagePage(),
			failovertest.Throttle(time.Second), failovertest.Status(400, nil, "{}"), failovertest.Status(401, nil, ""), failovertest.Status(500, nil, ""),
			failovertest.Status(403, nil, ""),
		}
		for _, failure := range failures {
			for _, side := range []*failovertest.Datacenter{s.org.Primary(), s.org.Alternate()} {
				side.Fail(failure)
				for range 4 {
					s.send(s.Context(), http.MethodGet, "")
					s.send(s.Context(), http.MethodPost, "{}")
				}
				s.transport.Pin(failover.Alternate)
				s.send(s.Context(), http.MethodPost, "{}")
				s.transport.Unpin()
				time.Sleep(time.Minute)
				side.Heal()
				s.org.FailOver()
				s.get()
				s.org.FailBack()
				time.Sleep(time.Minute)
			}
		}
		series, histograms := 0, 0
		for name, points := range s.collect() {
			if name == "failover.probe.duration" {
				histograms = len(points)
				continue
			}
			series += len(points)
		}
		assert.Equal(s, 50, series, "52 with a fleet")
		assert.LessOrEqual(s, histograms, 6)
		assert.GreaterOrEqual(s, histograms, 4)
	})
}

// serving is a Base that answers every request.
type serving struct{ resp *http.Response }

func (s serving) RoundTrip(*http.Request) (*http.Response, error) { return s.resp, nil }

func TestTheHealthyPathCostsNothing(t *testing.T) {
	// Not parallel: allocations of other goroutines would be counted.
	cfg := &failover.Config{Base: serving{&http.Response{StatusCode: 200, Header: make(http.Header), Body: http.NoBody}}}
	reader := sdk.NewManualReader()
	plain, err := failover.New("https://contoso.crm.dynamics.com", cfg)
	require.NoError(t, err)
	defer plain.Close()
	measured, err := failoverotel.New("https://contoso.crm.dynamics.com", cfg,
		meterOf(reader))
	require.NoError(t, err)
	defer measured.Close()
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		req, err := http.NewRequest(method, "https://contoso.crm.dynamics.com"+accounts, nil)
		require.NoError(t, err)
		count := func(rt http.RoundTripper) float64 {
			return testing.AllocsPerRun(1000, func() { rt.RoundTrip(req) })
		}
		assert.Equal(t, count(plain), count(measured), method)
	}
	assert.Contains(t, slices.Collect(maps.Keys(collect(t, reader))), "failover.active")
}
