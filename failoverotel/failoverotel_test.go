package failoverotel_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	sdk "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/d365failover/failover"
	"github.com/d365failover/failover/failoverotel"
	"github.com/d365failover/failover/failovertest"
)

const accounts = "/api/data/v9.2/accounts"

var quiet = slog.New(slog.DiscardHandler)

// A story is an organization in memory with a client behind a measured Transport, in a
// synctest bubble.
type story struct {
	*testing.T
	org       *failovertest.Org
	client    *http.Client
	transport *failover.Transport
	reader    *sdk.ManualReader
}

// tell runs a story. The bubble fails the test if a goroutine outlives Close.
func tell(t *testing.T, cfg failover.Config, plot func(*story)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		reader := sdk.NewManualReader()
		s := newStory(t, nil, cfg, reader, meterOf(reader))
		defer s.close()
		plot(s)
	})
}

func meterOf(reader *sdk.ManualReader) failoverotel.Option {
	return failoverotel.WithMeterProvider(sdk.NewMeterProvider(sdk.WithReader(reader)))
}

func newStory(t *testing.T, world *failovertest.Config, cfg failover.Config, reader *sdk.ManualReader, opts ...failoverotel.Option) *story {
	s := &story{T: t, org: failovertest.StartInMemory(world), reader: reader}
	cfg.Authorize, cfg.Logger = s.org.Authorize, quiet
	var err error
	s.client, s.transport, err = failoverotel.Wrap(s.org.Client(), s.org.URL(), &cfg, opts...)
	require.NoError(t, err)
	return s
}

func (s *story) close() {
	s.transport.Close()
	s.org.Close()
}

// send sends a request and returns the status.
func (s *story) send(ctx context.Context, method, body string) (int, error) {
	req, err := http.NewRequestWithContext(ctx, method, s.org.URL()+accounts, strings.NewReader(body))
	require.NoError(s, err)
	resp, err := s.client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}

func (s *story) get() {
	s.Helper()
	status, err := s.send(s.Context(), http.MethodGet, "")
	require.NoError(s, err)
	require.Equal(s, 200, status)
}

// goDown makes the primary fail, while the alternate answers with the fence.
func (s *story) goDown() {
	s.Helper()
	s.org.Primary().Fail(failovertest.Refuse())
	_, err := s.send(s.Context(), http.MethodGet, "")
	require.ErrorIs(s, err, failover.ErrUnavailable)
}

// A point is one series of one metric. For a histogram, the value is the count.
type point struct {
	attributes attribute.Set
	value      float64
}

// collect returns all series by the name of their metric.
func (s *story) collect() map[string][]point {
	s.Helper()
	synctest.Wait() // until OnEvent has returned
	return collect(s.T, s.reader)
}

func collect(t *testing.T, reader *sdk.ManualReader) map[string][]point {
	t.Helper()
	var all metricdata.ResourceMetrics
	require.NoError(t, reader.Collect(context.Background(), &all))
	points := make(map[string][]point)
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				for _, p := range data.DataPoints {
					points[m.Name] = append(points[m.Name], point{p.Attributes, float64(p.Value)})
				}
			case metricdata.Sum[float64]:
				for _, p := range data.DataPoints {
					points[m.Name] = append(points[m.Name], point{p.Attributes, p.Value})
				}
			case metricdata.Histogram[float64]:
				for _, p := range data.DataPoints {
					points[m.Name] = append(points[m.Name], point{p.Attributes, float64(p.Count)})
				}
			default:
				require.Fail(t, "unexpected kind of metric", "%s: %T", m.Name, data)
			}
		}
	}
	return points
}

// has asserts the sum of the series of a metric that have the attributes, given as "key=value".
// There must be at least one.
func has(t *testing.T, points map[string][]point, want float64, name string, attributes ...string) {
	t.Helper()
	found, sum := 0, 0.0
	for _, p := range points[name] {
		if matches(p.attributes, attributes) {
			found++
			sum += p.value
		}
	}
	if assert.NotZero(t, found, "no series %s %v", name, attributes) {
		assert.Equal(t, want, sum, "%s %v", name, attributes)
	}
}

func matches(set attribute.Set, attributes []string) bool {
	for _, a := range attributes {
		key, want, _ := strings.Cut(a, "=")
		if have, ok := set.Value(attribute.Key(key)); !ok || have.String() != want {
			return false
		}
	}
	return true
}

func TestAHealthyOrganizationBeginsWithZeros(t *testing.T) {
	tell(t, failover.Config{}, func(s *story) {
		s.get()
		points := s.collect()
		ones := 0.0
		for _, series := range points {
			for _, p := range series {
				ones += p.value
				assert.True(s, matches(p.attributes, []string{"failover.organization=contoso.api.crm.dynamics.com"}))
			}
		}
		assert.Equal(s, 3.0, ones, "the active endpoint and two closed breakers")
		has(s.T, points, 1, "failover.active", "failover.endpoint=primary", "server.address=contoso.api.crm.dynamics.com")
		has(s.T, points, 0, "failover.active", "failover.endpoint=alternate", "server.address=contoso--s.api.crm.dynamics.com")
		has(s.T, points, 2, "failover.circuit_breaker.state", "failover.circuit_breaker.state=closed")
		for _, name := range []string{"failover.switches", "failover.refused_switches"} {
			has(s.T, points, 0, name, "failover.from=primary", "failover.to=alternate")
			has(s.T, points, 0, name, "failover.from=alternate", "failover.to=primary")
		}
	})
}

func TestAFailoverAndTheWayBack(t *testing.T) {
	tell(t, failover.Config{}, func(s *story) {
		s.get()
		s.org.Disaster(failovertest.Refuse())
		s.get()
		points := s.collect()
		has(s.T, points, 0, "failover.active", "failover.endpoint=primary")
		has(s.T, points, 1, "failover.active", "failover.endpoint=alternate")
		has(s.T, points, 1, "failover.circuit_breaker.state", "failover.endpoint=primary", "failover.circuit_breaker.state=open")
		has(s.T, points, 0, "failover.circuit_breaker.state", "failover.endpoint=primary", "failover.circuit_breaker.state=closed")
		has(s.T, points, 1, "failover.switches", "failover.from=primary", "failover.to=alternate")
		has(s.T, points, 3, "failover.faults", "failover.endpoint=primary", "error.type=unavailable")
		has(s.T, points, 3, "failover.faults")
		has(s.T, points, 2, "failover.replays", "failover.from=primary", "failover.to=primary", "error.type=unavailable")
		has(s.T, points, 1, "failover.replays", "failover.from=primary", "failover.to=alternate", "error.type=unavailable")
		has(s.T, points, 1, "failover.probe.duration", "failover.endpoint=primary", "failover.probe.result=failed")
		has(s.T, points, 1, "failover.probe.duration", "failover.endpoint=alternate", "failover.probe.result=passed")
		has(s.T, points, 0, "failover.downtime")

		s.org.Primary().Heal()
		s.org.FailBack()
		time.Sleep(10 * time.Minute)
		points = s.collect()
		has(s.T, points, 1, "failover.active", "failover.endpoint=primary")
		has(s.T, points, 1, "failover.switches", "failover.from=alternate", "failover.to=primary")
		has(s.T, points, 2, "failover.switches")
		has(s.T, points, 2, "failover.circuit_breaker.state", "failover.circuit_breaker.state=closed")
	})
}

func TestDowntimeGrowsWhileDownAndEndsWithIt(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		reason string
		end    func(*story)
	}{
		"up":       {"the active endpoint passes its probe", func(s *story) { s.org.Primary().Heal() }},
		"switched": {"the other endpoint passes its probe", func(s *story) { s.org.FailOver() }},
		"pinned":   {"nothing is down while pinned", func(s *story) { s.transport.Pin(failover.Primary) }},
	}
	reasons := make(map[string]bool)
	for name, test := range tests {
		require.False(t, reasons[test.reason], name)
		reasons[test.reason] = true
		t.Run(name, func(t *testing.T) {
			tell(t, failover.Config{}, func(s *story) {
				time.Sleep(time.Hour)
				has(s.T, s.collect(), 0, "failover.downtime")
				s.goDown()
				time.Sleep(time.Minute)
				points := s.collect()
				has(s.T, points, 1, "failover.down")
				has(s.T, points, 60, "failover.downtime")

				test.end(s)
				time.Sleep(10 * time.Second) // longer than a round of probes
				points = s.collect()
				has(s.T, points, 0, "failover.down")
				sum := points["failover.downtime"][0].value
				assert.GreaterOrEqual(s, sum, 60.0, test.reason)
				assert.LessOrEqual(s, sum, 70.0, test.reason)
				time.Sleep(time.Hour)
				has(s.T, s.collect(), sum, "failover.downtime")
			})
		})
	}
}

func TestAfterCloseTheCountersAreCollectedOnceMore(t *testing.T) {
	tell(t, failover.Config{}, func(s *story) {
		s.goDown()
		time.Sleep(time.Minute)
		s.transport.Close()
		time.Sleep(time.Minute)
		points := s.collect()
		has(s.T, points, 60, "failover.downtime")
		has(s.T, points, 3, "failover.faults")
		assert.NotContains(s, points, "failover.active")
		assert.NotContains(s, points, "failover.down")

		points = s.collect()
		assert.NotContains(s, points, "failover.downtime")
		assert.NotContains(s, points, "failover.faults")
		has(s.T, points, 2, "failover.replays")
	})
}

func TestWritesInDoubtAndAtRisk(t *testing.T) {
	tell(t, failover.Config{}, func(s *story) {
		for range 2 {
			_, err := s.send(s.Context(), http.MethodPost, `{"name":"Contoso"}`)
			require.NoError(s, err)
		}
		s.org.Primary().FailNext(1, failovertest.Reset(failovertest.AfterApply))
		_, err := s.send(s.Context(), http.MethodPost, `{"name":"Contoso"}`)
		require.ErrorIs(s, err, failover.ErrOutcomeUnknown)
		points := s.collect()
		has(s.T, points, 1, "failover.unknown_outcomes", "failover.endpoint=primary")
		has(s.T, points, 0, "failover.unknown_outcomes", "failover.endpoint=alternate")
		has(s.T, points, 0, "failover.loss_report.writes")

		s.org.FailOver()
		s.get()
		points = s.collect()
		has(s.T, points, 2, "failover.loss_report.writes", "failover.write.state=at_risk")
		has(s.T, points, 1, "failover.loss_report.writes", "failover.write.state=unknown")
		has(s.T, points, 0, "failover.loss_report.truncated")
		has(s.T, points, 1, "failover.replays", "failover.from=primary", "failover.to=alternate")
	})
}

func TestALossReportWithoutALedgerIsTruncated(t *testing.T) {
	tell(t, failover.Config{LedgerSize: -1}, func(s *story) {
		s.org.FailOver()
		s.get()
		has(s.T, s.collect(), 1, "failover.loss_report.truncated")
	})
}

func TestWhatIsDoneByHand(t *testing.T) {
	tell(t, failover.Config{ManualFailback: true}, func(s *story) {
		s.transport.Pin(failover.Alternate)
		points := s.collect()
		has(s.T, points, 1, "failover.pinned")
		has(s.T, points, 1, "failover.active", "failover.endpoint=alternate")
		s.transport.Unpin()
		for i := range 4 {
			s.org.FailBack()
			if i%2 == 0 {
				s.org.FailOver()
			}
			require.NoError(s, s.transport.Switch(s.Context(), failover.Endpoint((i+1)%2), "drill"))
		}
		has(s.T, s.collect(), 0, "failover.pinned")
		has(s.T, s.collect(), 4, "failover.switches")
	})
}

func TestLatchedAndRefused(t *testing.T) {
	tell(t, failover.Config{MinDwell: -1}, func(s *story) {
		for range 4 {
			if s.transport.Status().Active == failover.Primary {
				s.org.Disaster(failovertest.Refuse())
			} else {
				s.org.Primary().Heal()
				s.org.FailBack()
				s.org.Alternate().Fail(failovertest.Refuse())
			}
			s.get()
			s.org.Alternate().Heal()
		}
		points := s.collect()
		has(s.T, points, 1, "failover.latched")
		has(s.T, points, 4, "failover.switches")
		has(s.T, points, 0, "failover.refused_switches")

		require.Equal(s, failover.Primary, s.transport.Status().Active)
		s.org.Disaster(failovertest.Refuse())
		_, err := s.send(s.Context(), http.MethodGet, "")
		require.Error(s, err)
		points = s.collect()
		has(s.T, points, 1, "failover.refused_switches", "failover.from=primary", "failover.to=alternate")
		has(s.T, points, 4, "failover.switches")
	})
}

func TestProbeResults(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, reason, result string
		err                  error
	}{
		{"passed", "no error", "passed", nil},
		{"forbidden", "something answers, but who knows what", "inconclusive", &failover.Fault{Class: failover.ClassAuth, Status: 403}},
		{"not found", "neither serves nor fails", "inconclusive", &failover.Fault{Class: failover.ClassApplication, Status: 404}},
		{"unavailable", "a counted fault", "failed", &failover.Fault{Class: failover.ClassUnavailable, Status: 503}},
		{"transient", "counted as well", "failed", &failover.Fault{Class: failover.ClassTransient}},
		{"another error", "every other error is a failure", "failed", errors.New("no")},
	}
	names, reasons := make(map[string]bool), make(map[string]bool)
	for _, test := range tests {
		require.False(t, names[test.name] || reasons[test.reason], test.name)
		names[test.name], reasons[test.reason] = true, true
		t.Run(test.name, func(t *testing.T) {
			cfg := failover.Config{Probe: func(context.Context, *http.Client, *url.URL) error {
				time.Sleep(30 * time.Millisecond)
				return test.err
			}}
			tell(t, cfg, func(s *story) {
				s.transport.Switch(s.Context(), failover.Alternate, "drill")
				has(s.T, s.collect(), 1, "failover.probe.duration", "failover.endpoint=alternate", "failover.probe.result="+test.result)
				var all metricdata.ResourceMetrics
				require.NoError(s, s.reader.Collect(s.Context(), &all))
				for _, m := range all.ScopeMetrics[0].Metrics {
					if h, ok := m.Data.(metricdata.Histogram[float64]); ok {
						assert.InDelta(s, 0.03, h.DataPoints[0].Sum, 1e-9)
						assert.Contains(s, h.DataPoints[0].Bounds, 5.0, "the default of ProbeTimeout")
					}
				}
			})
		})
	}
}

// An organization that moves behind its own address is distinguished from one that switches, and
// from a false alarm.
func TestRenewals(t *testing.T) {
	tell(t, failover.Config{}, func(s *story) {
		has(s.T, s.collect(), 0, "failover.renewals", "failover.endpoint=primary")
		s.get()
		s.org.Drill(nil) // open connections lead to the fence
		s.get()
		points := s.collect()
		has(s.T, points, 1, "failover.renewals", "failover.endpoint=primary")
		has(s.T, points, 0, "failover.renewals", "failover.endpoint=alternate")
		has(s.T, points, 0, "failover.switches")
		has(s.T, points, 0, "failover.refused_switches")
		has(s.T, points, 0, "failover.down")
	})
}
