package failoverredis_test

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover"
)

// Invalid claims do not count, and take no place.
func TestPoisonedClaims(t *testing.T) {
	t.Parallel()
	server := startServer(t)
	s, admin := newStore(t, server.client(t)), server.client(t)
	now := float64(time.Now().UnixMicro())
	for member, till := range map[string]float64{
		"long past": 5, "negative": -5, "for ever": math.Inf(1), "a clock ahead": now + 6e8, "beyond counting": 1e300,
		strings.Repeat("m", 1<<20): now + 2e8, "stands nowhere": now + 2e7,
	} {
		require.NoError(t, admin.ZAdd(t.Context(), claimsKey, redis.Z{Score: till, Member: member}).Err())
		if member != "stands nowhere" {
			require.NoError(t, admin.ZAdd(t.Context(), placesKey, redis.Z{Score: till, Member: member}).Err())
		}
	}
	require.NoError(t, admin.ZAdd(t.Context(), placesKey, redis.Z{Score: math.Inf(1), Member: "has no end"}).Err())
	_, err := s.Claim(t.Context(), organization, failover.Claim{Topic: "lease", Member: "first", TTL: time.Minute})
	require.NoError(t, err)
	holders, err := s.Claim(t.Context(), organization, failover.Claim{Topic: "lease", Member: "second", TTL: time.Minute})
	require.NoError(t, err)
	assert.Equal(t, failover.Holders{Count: 3, Names: []string{"first", "second"}}, holders, "one holds a claim without a place for as long as that lasts")
	require.NoError(t, admin.ZAdd(t.Context(), claimsKey, redis.Z{Score: now, Member: "stands nowhere"}).Err(), "it expires")
	eventually(t, patience, func() error {
		holders, err = s.Claim(t.Context(), organization, failover.Claim{Topic: "lease", Member: "first", TTL: time.Minute})
		if err == nil && holders.Count != 2 {
			err = fmt.Errorf("%+v", holders)
		}
		return err
	})
}

// The cost of a claim for Redis, and its result, do not grow with the fleet.
func TestClaimsOfALargeFleetAreCheap(t *testing.T) {
	t.Parallel()
	server := startServer(t)
	s, admin := newStore(t, server.client(t)), server.client(t)
	now := float64(time.Now().UnixMicro())
	pipe := admin.Pipeline()
	for i := range 10_000 {
		member := fmt.Sprintf("web-%04d.contoso.com/4711/K5RVQD#%d", i, i)
		pipe.ZAdd(t.Context(), claimsKey, redis.Z{Score: now + 2e8, Member: member})
		pipe.ZAdd(t.Context(), placesKey, redis.Z{Score: float64(i), Member: member})
	}
	_, err := pipe.Exec(t.Context())
	require.NoError(t, err)
	took := time.Hour
	for range 10 {
		before := commandStats(t, admin, "evalsha")
		for i := range 50 {
			holders, err := s.Claim(t.Context(), organization, failover.Claim{Topic: "lease", Member: fmt.Sprint(i), TTL: time.Minute})
			require.NoError(t, err)
			assert.GreaterOrEqual(t, holders.Count, 10_000)
			assert.Less(t, len(strings.Join(holders.Names, "")), 1000, "bytes are returned")
		}
		after := commandStats(t, admin, "evalsha")
		took = min(took, (after.took-before.took)/time.Duration(after.calls-before.calls))
	}
	t.Logf("a claim among 10,000 takes Redis %v", took)
	// Measured by Redis itself, when the machine was least busy.
	assert.Less(t, took, time.Millisecond)
}

type stats struct {
	calls int
	took  time.Duration
}

// commandStats returns the statistics of a command in INFO.
func commandStats(t *testing.T, admin *redis.Client, command string) (s stats) {
	t.Helper()
	info, err := admin.Info(t.Context(), "commandstats").Result()
	require.NoError(t, err)
	if _, rest, found := strings.Cut(info, "cmdstat_"+command+":"); found {
		var micros int
		_, err := fmt.Sscanf(rest, "calls=%d,usec=%d,", &s.calls, &micros)
		require.NoError(t, err)
		s.took = time.Duration(micros) * time.Microsecond
	}
	return s
}
