package failoverotel_test

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/d365failover/failover"
	"github.com/d365failover/failover/failovertest"
)

// traced sends a request in a span of the caller and returns the span when it
// has ended.
func (s *story) traced(method, query, body string) sdk.ReadOnlySpan {
	s.Helper()
	recorder := tracetest.NewSpanRecorder()
	ctx, span := sdk.NewTracerProvider(sdk.WithSpanProcessor(recorder)).Tracer("test").Start(s.Context(), "import")
	req, err := http.NewRequestWithContext(ctx, method, s.org.URL()+accounts+query, strings.NewReader(body))
	require.NoError(s, err)
	req.Header.Set("X-Ms-Client-Request-Id", "request-7")
	if resp, err := s.client.Do(req); err == nil {
		resp.Body.Close()
	}
	span.End()
	require.Len(s, recorder.Ended(), 1)
	return recorder.Ended()[0]
}

// values returns the attributes of an event.
func values(e sdk.Event) map[string]any {
	m := make(map[string]any)
	for _, a := range e.Attributes {
		m[string(a.Key)] = a.Value.AsInterface()
	}
	return m
}

func TestFaultsAreEventsOfTheCallersSpan(t *testing.T) {
	tell(t, failover.Config{}, func(s *story) {
		s.org.Disaster(failovertest.Refuse())
		span := s.traced(http.MethodGet, "", "")
		require.Len(s, span.Events(), 3)
		for i, e := range span.Events() {
			assert.Equal(s, "failover.fault", e.Name)
			to := "primary"
			if i == 2 {
				to = "alternate"
			}
			assert.Equal(s, map[string]any{
				"failover.organization":     "contoso.api.crm.dynamics.com",
				"failover.endpoint":         "primary",
				"server.address":            "contoso.api.crm.dynamics.com",
				"error.type":                "unavailable",
				"http.request.method":       "GET",
				"failover.fault.delivery":   "not sent",
				"failover.fault.definitive": false,
				"failover.fault.text":       "unavailable, request not sent (request id request-7): dial tcp contoso.api.crm.dynamics.com:443: connect: connection refused",
				"failover.fault.request_id": "request-7",
				"failover.attempt":          int64(i + 1),
				"failover.again":            true,
				"failover.to":               to,
			}, values(e))
		}
		assert.Equal(s, codes.Unset, span.Status().Code)
		assert.Equal(s, "import", span.Name())
		assert.Empty(s, span.Attributes())
	})
}

func TestTheFenceIsAnEventWithItsCode(t *testing.T) {
	tell(t, failover.Config{}, func(s *story) {
		s.org.FailOver()
		span := s.traced(http.MethodGet, "", "")
		require.Len(s, span.Events(), 1)
		got := values(span.Events()[0])
		assert.NotEmpty(s, got["failover.fault.request_id"])
		for key, want := range map[string]any{
			"http.response.status_code": int64(503),
			"failover.fault.code":       "0x8004B065",
			"failover.fault.definitive": true,
			"failover.fault.delivery":   "refused",
			"failover.again":            true,
			"failover.to":               "alternate",
		} {
			assert.Equal(s, want, got[key], key)
		}
	})
}

func TestTheLastFaultNamesNoNextEndpoint(t *testing.T) {
	tell(t, failover.Config{}, func(s *story) {
		s.org.Primary().FailNext(1, failovertest.Reset(failovertest.AfterApply))
		span := s.traced(http.MethodPost, "", "{}")
		require.Len(s, span.Events(), 1)
		got := values(span.Events()[0])
		assert.Equal(s, false, got["failover.again"])
		assert.NotContains(s, got, "failover.to")
		assert.NotContains(s, got, "http.response.status_code")
		assert.Equal(s, "unknown", got["failover.fault.delivery"])
	})
}

func TestHealthyRequestsAddNoEvents(t *testing.T) {
	tell(t, failover.Config{}, func(s *story) {
		assert.Empty(s, s.traced(http.MethodGet, "", "").Events())
	})
}

// deaf is a span that does not record, and counts the events that it gets nevertheless.
type deaf struct {
	noop.Span
	told *int
}

func (d deaf) AddEvent(string, ...trace.EventOption) { *d.told++ }

func TestSpansThatDoNotRecordAreLeftAlone(t *testing.T) {
	tell(t, failover.Config{}, func(s *story) {
		s.org.Disaster(failovertest.Refuse())
		told := 0
		status, err := s.send(trace.ContextWithSpan(s.Context(), deaf{told: &told}), http.MethodGet, "")
		require.NoError(s, err)
		assert.Equal(s, 200, status)
		assert.Zero(s, told)
	})
}

// leaky is a Base whose errors quote everything that a request holds.
type leaky struct{}

func (leaky) RoundTrip(req *http.Request) (*http.Response, error) {
	return nil, &url.Error{Op: "Get", URL: req.URL.String(), Err: &url.Error{
		Op: "proxyconnect", URL: "http://proxy:hunter2@proxy.contoso.com/?key=hunter2", Err: http.ErrHandlerTimeout}}
}

func TestNoSecretsInSpansAndMetrics(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		reader := sdkmetric.NewManualReader()
		s := newStory(t, nil, failover.Config{Base: leaky{}}, reader, meterOf(reader))
		defer s.close()
		span := s.traced(http.MethodGet, "?$filter=name%20eq%20'hunter2'&sig=hunter2", "hunter2")
		require.NotEmpty(t, span.Events())
		for _, e := range span.Events() {
			for _, a := range e.Attributes {
				assert.NotContains(t, a.Value.String(), "hunter2", a.Key)
				assert.NotContains(t, a.Value.String(), "Bearer", a.Key)
			}
		}
		for name, points := range s.collect() {
			for _, p := range points {
				encoded := p.attributes.Encoded(attribute.DefaultEncoder())
				assert.NotContains(t, encoded, "hunter2", name)
				assert.NotContains(t, encoded, "filter", name)
			}
		}
	})
}

func TestEventsWithoutASpan(t *testing.T) {
	tell(t, failover.Config{}, func(s *story) {
		s.org.FailOver()
		status, err := s.send(context.Background(), http.MethodGet, "")
		require.NoError(s, err)
		assert.Equal(s, 200, status)
		has(s.T, s.collect(), 1, "failover.faults")
	})
}
