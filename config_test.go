package failover

import (
	"log/slog"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// As the comment of each field says: zero is the default, negative means off, and any other
// value stays as it is.
func TestTheDefaultsOfConfig(t *testing.T) {
	t.Parallel()
	org := mustOrg(t, "https://contoso.crm.dynamics.com", "")
	values := func(c *Config) []any {
		require.NoError(t, c.complete(org))
		return []any{c.FailureThreshold, c.MaxAttempts, c.RetryBackoff, c.MaxBody, c.SuspectAfter, c.ProbeInterval, c.MaxProbeInterval,
			c.ProbeTimeout, c.Rise, c.MinDwell, c.Quorum, c.RPO, c.LedgerSize}
	}
	assert.Equal(t, []any{3, 4, 100 * time.Millisecond, int64(1 << 20), 10 * time.Second, 10 * time.Second, time.Minute,
		5 * time.Second, 3, 5 * time.Minute, 1, 5 * time.Second, 4096}, values(new(Config)))
	off := Config{FailureThreshold: -1, MaxAttempts: -1, RetryBackoff: -1, MaxBody: -1, SuspectAfter: -1, ProbeInterval: -1, MaxProbeInterval: -1,
		ProbeTimeout: -1, Rise: -1, MinDwell: -1, Quorum: -1, RPO: -1, LedgerSize: -1}
	assert.Equal(t, []any{math.MaxInt32, 1, time.Duration(0), int64(0), never, never, never, never, 1, time.Duration(0), 1, time.Duration(0), 0}, values(&off))
	set := Config{FailureThreshold: 1, MaxAttempts: 2, RetryBackoff: 3, MaxBody: 4, SuspectAfter: 5, ProbeInterval: 6, MaxProbeInterval: 7,
		ProbeTimeout: 8, Rise: 9, MinDwell: 10, Quorum: 11, RPO: 12, LedgerSize: 13}
	assert.Equal(t, []any{1, 2, time.Duration(3), int64(4), time.Duration(5), time.Duration(6), time.Duration(7), time.Duration(8), 9, time.Duration(10), 11, time.Duration(12), 13}, values(&set))

	for interval, most := range map[time.Duration]time.Duration{time.Second: time.Minute, time.Minute: time.Minute, time.Hour: time.Hour} {
		c := Config{ProbeInterval: interval}
		assert.Equal(t, most, values(&c)[6], interval)
		c = Config{ProbeInterval: interval, MaxProbeInterval: -1}
		assert.Equal(t, interval, values(&c)[6], "it does not grow")
		c = Config{ProbeInterval: interval, MaxProbeInterval: interval}
		assert.Equal(t, interval, values(&c)[6])
		c = Config{ProbeInterval: interval, MaxProbeInterval: interval - 1}
		assert.ErrorContains(t, c.complete(org), "is shorter than ProbeInterval")
		c = Config{ProbeInterval: -1, MaxProbeInterval: interval}
		assert.NoError(t, c.complete(org), "there is no interval")
	}
	c := Config{MaxBody: math.MaxInt64}
	require.NoError(t, c.complete(org))
	assert.Positive(t, c.MaxBody+1, "one byte more can be read")
	assert.Equal(t, protectedHandler{slog.Default().Handler()}, c.Logger.Handler())
	assert.NotNil(t, c.Probe)
	for address, ok := range map[string]bool{"": true, "https://contoso.example/runbook": true, "http://contoso.example": true, "ftp://contoso.example": false, "https:///x": false, "/x": false, "%": false} {
		c := Config{Runbook: address}
		assert.Equal(t, ok, c.complete(org) == nil, address)
	}
}

func TestWrapReturnsNothingWithAnError(t *testing.T) {
	t.Parallel()
	client, transport, err := Wrap(nil, "ftp://contoso.crm.dynamics.com", nil)
	assert.ErrorContains(t, err, "does not begin with https://")
	assert.Nil(t, client)
	assert.Nil(t, transport)
	_, transport, err = Wrap(nil, "https://contoso.crm.dynamics.com", &Config{Alternate: "x", Runbook: "x"})
	assert.ErrorContains(t, err, "alternate URL")
	assert.ErrorContains(t, err, "Runbook")
	assert.Nil(t, transport)
}
