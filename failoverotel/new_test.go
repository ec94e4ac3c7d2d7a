package failoverotel_test

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"
	sdk "go.opentelemetry.io/otel/sdk/metric"

	"github.com/d365failover/failover"
	"github.com/d365failover/failover/failoverotel"
	"github.com/d365failover/failover/failovertest"
)

func TestTheUsersOwnHooksAreCalled(t *testing.T) {
	t.Parallel()
	type key struct{}
	var mu sync.Mutex
	var kinds []failover.EventKind
	var attempts []failover.Attempt
	var values []any
	cfg := failover.Config{
		OnEvent: func(e failover.Event) { kinds = append(kinds, e.Kind) },
		OnFault: func(ctx context.Context, a failover.Attempt) {
			mu.Lock()
			defer mu.Unlock()
			attempts, values = append(attempts, a), append(values, ctx.Value(key{}))
		},
	}
	t.Run("story", func(t *testing.T) {
		tell(t, cfg, func(s *story) {
			s.org.Disaster(failovertest.Refuse())
			status, err := s.send(context.WithValue(s.Context(), key{}, "mine"), http.MethodGet, "")
			require.NoError(s, err)
			require.Equal(s, 200, status)
			s.transport.Close()

			assert.Subset(s, kinds, []failover.EventKind{failover.EventTripped, failover.EventProbed, failover.EventSwitched})
			assert.Equal(s, []any{"mine", "mine", "mine"}, values)
			for i, a := range attempts {
				assert.Equal(s, i+1, a.Number)
				assert.True(s, a.Again)
			}
		})
	})
}

func TestTheConfigIsNotChanged(t *testing.T) {
	t.Parallel()
	cfg := &failover.Config{}
	transport, err := failoverotel.New("https://contoso.crm.dynamics.com", cfg)
	require.NoError(t, err)
	defer transport.Close()
	assert.Equal(t, &failover.Config{}, cfg)
	transport, err = failoverotel.New("https://contoso.crm.dynamics.com", nil)
	require.NoError(t, err)
	assert.NoError(t, transport.Close())
}

func TestErrorsAreThoseOfTheCore(t *testing.T) {
	t.Parallel()
	for _, orgURL := range []string{"", "https://user:hunter2@contoso.crm4.dynamics.com", "https://example.com"} {
		cfg := &failover.Config{ProbeInterval: time.Hour, MaxProbeInterval: time.Second}
		_, want := failover.New(orgURL, cfg)
		require.Error(t, want)
		_, err := failoverotel.New(orgURL, cfg)
		assert.EqualError(t, err, want.Error())
		client, transport, err := failoverotel.Wrap(nil, orgURL, cfg)
		assert.EqualError(t, err, want.Error())
		assert.Nil(t, client)
		assert.Nil(t, transport)
	}
	_, err := failoverotel.New("https://contoso.crm.dynamics.com", &failover.Config{ProbeInterval: time.Hour, MaxProbeInterval: time.Second})
	assert.ErrorContains(t, err, "MaxProbeInterval")
}

func TestPortsAreAttributes(t *testing.T) {
	t.Parallel()
	reader := sdk.NewManualReader()
	transport, err := failoverotel.New("https://localhost:8443", &failover.Config{Alternate: "https://localhost:9443"},
		meterOf(reader))
	require.NoError(t, err)
	defer transport.Close()
	points := collect(t, reader)
	has(t, points, 1, "failover.active", "failover.organization=localhost:8443", "server.address=localhost", "server.port=8443")
	has(t, points, 0, "failover.active", "failover.organization=localhost:8443", "server.address=localhost", "server.port=9443")
}

// An organization with one address also has the metrics of its alternate, which show that nothing
// goes there.
func TestOneAddressIsObserved(t *testing.T) {
	t.Parallel()
	reader := sdk.NewManualReader()
	transport, err := failoverotel.New("https://contoso.crm.dynamics.com", &failover.Config{Alternate: failover.NoAlternate}, meterOf(reader))
	require.NoError(t, err)
	defer transport.Close()
	points := collect(t, reader)
	has(t, points, 1, "failover.active", "failover.endpoint=primary", "server.address=contoso.crm.dynamics.com")
	has(t, points, 0, "failover.active", "failover.endpoint=alternate")
	has(t, points, 0, "failover.refused_switches", "failover.from=primary", "failover.to=primary")
}

// globalReader reads from the global provider, which it sets when first called.
var globalReader = sync.OnceValue(func() *sdk.ManualReader {
	reader := sdk.NewManualReader()
	otel.SetMeterProvider(sdk.NewMeterProvider(sdk.WithReader(reader)))
	return reader
})

// The program may set its provider after it has created the Transport.
func TestTheGlobalProviderIsTheDefault(t *testing.T) {
	t.Parallel() // no other test reads from the global provider
	transport, err := failoverotel.New("https://global.crm.dynamics.com", nil, failoverotel.WithMeterProvider(nil))
	require.NoError(t, err)
	organization := "failover.organization=global.crm.dynamics.com"
	has(t, collect(t, globalReader()), 1, "failover.active", organization, "failover.endpoint=primary")
	require.NoError(t, transport.Close())
	has(t, collect(t, globalReader()), 0, "failover.faults", organization)
	gone := func() bool {
		for _, p := range collect(t, globalReader())["failover.faults"] {
			if matches(p.attributes, []string{organization}) {
				return false
			}
		}
		return true
	}
	assert.Eventually(t, gone, time.Minute, time.Millisecond)
}

// brokenProvider makes instruments that cannot be used.
type brokenProvider struct{ noop.MeterProvider }

type brokenMeter struct{ noop.Meter }

func (brokenProvider) Meter(string, ...metric.MeterOption) metric.Meter { return brokenMeter{} }

var errBroken = errors.New("broken")

func (brokenMeter) Int64Counter(string, ...metric.Int64CounterOption) (metric.Int64Counter, error) {
	return nil, errBroken
}

func TestTheTransportWorksWithoutMetrics(t *testing.T) {
	t.Parallel() // no other test handles errors
	var handled error
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { handled = err }))
	synctest.Test(t, func(t *testing.T) {
		s := newStory(t, nil, failover.Config{}, nil, failoverotel.WithMeterProvider(brokenProvider{}))
		defer s.close()
		s.org.Disaster(failovertest.Refuse())
		s.get()
		assert.Equal(t, failover.Alternate, s.transport.Status().Active)
		assert.ErrorIs(t, handled, errBroken)
	})
}
