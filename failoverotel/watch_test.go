package failoverotel

import (
	"context"
	"errors"
	"net/url"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	sdk "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/d365failover/failover"
)

// watched is an observer of a Transport that does not exist, only its Status.
func watched(status func() failover.Status) *sdk.ManualReader {
	reader := sdk.NewManualReader()
	primary := &url.URL{Scheme: "https", Host: "contoso.crm.dynamics.com"}
	alternate := &url.URL{Scheme: "https", Host: "contoso--s.crm.dynamics.com"}
	o := &observer{ready: make(chan struct{})}
	o.init(sdk.NewMeterProvider(sdk.WithReader(reader)).Meter(scope), primary, alternate, nil)
	o.watch(status)
	return reader
}

// levels returns the values of the up-down counters with one series.
func levels(t *testing.T, reader *sdk.ManualReader) map[string]int64 {
	t.Helper()
	var all metricdata.ResourceMetrics
	require.NoError(t, reader.Collect(context.Background(), &all))
	values := make(map[string]int64)
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			if sum, ok := m.Data.(metricdata.Sum[int64]); ok && !sum.IsMonotonic && len(sum.DataPoints) == 1 {
				values[m.Name] = sum.DataPoints[0].Value
			}
		}
	}
	return values
}

func TestFleetsAreShownWhereThereAreAny(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, reason string
		fleet        *failover.FleetStatus
		want         map[string]int64
	}{
		{"none", "no Config.Shared", nil, map[string]int64{}},
		{"together", "all is well", &failover.FleetStatus{}, map[string]int64{"failover.fleet.apart": 0, "failover.fleet.failing": 0}},
		{"apart", "the fleet is elsewhere", &failover.FleetStatus{Apart: true}, map[string]int64{"failover.fleet.apart": 1, "failover.fleet.failing": 0}},
		{"alone", "the store fails", &failover.FleetStatus{Err: errors.New("no")}, map[string]int64{"failover.fleet.apart": 0, "failover.fleet.failing": 1}},
	}
	names, reasons := make(map[string]bool), make(map[string]bool)
	for _, test := range tests {
		require.False(t, names[test.name] || reasons[test.reason], test.name)
		names[test.name], reasons[test.reason] = true, true
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			values := levels(t, watched(func() failover.Status { return failover.Status{Fleet: test.fleet} }))
			got := make(map[string]int64)
			for _, name := range []string{"failover.fleet.apart", "failover.fleet.failing"} {
				if v, ok := values[name]; ok {
					got[name] = v
				}
			}
			assert.Equal(t, test.want, got, test.reason)
		})
	}
}

func TestAClosedTransportIsAskedNoMore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		asked, closed := 0, false
		reader := watched(func() failover.Status {
			asked++
			return failover.Status{Closed: closed}
		})
		for range 3 {
			assert.Contains(t, levels(t, reader), "failover.down")
		}
		closed = true
		assert.NotContains(t, levels(t, reader), "failover.down")
		synctest.Wait() // until the callback is unregistered
		levels(t, reader)
		levels(t, reader)
		assert.Equal(t, 4, asked)
	})
}

func TestBorrowedKeysAreThoseOfTheSemanticConventions(t *testing.T) {
	t.Parallel()
	assert.Equal(t, semconv.ServerAddressKey, keyServerAddress)
	assert.Equal(t, semconv.ServerPortKey, keyServerPort)
	assert.Equal(t, semconv.ErrorTypeKey, keyErrorType)
	assert.Equal(t, semconv.HTTPRequestMethodKey, keyMethod)
	assert.Equal(t, semconv.HTTPResponseStatusCodeKey, keyStatusCode)
	assert.Equal(t, semconv.HTTPRequestMethodOther.Value.AsString(), knownMethod("PURGE"))
}
