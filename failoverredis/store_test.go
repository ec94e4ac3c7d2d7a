package failoverredis_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover"
	"github.com/d365failover/failover/failoverredis"
	"github.com/d365failover/failover/sharedtest"
)

const (
	organization = "contoso.api.crm.dynamics.com"
	recordKey    = "failover:{contoso.api.crm.dynamics.com}:record"
	claimsKey    = "failover:{contoso.api.crm.dynamics.com}:claims:lease"
	placesKey    = "failover:{contoso.api.crm.dynamics.com}:places:lease"
)

// newStore returns a Store that is closed when the test ends.
func newStore(t testing.TB, client redis.UniversalClient) *failoverredis.Store {
	return closing(t, failoverredis.New(client, nil))
}

func TestRulesOnMiniredis(t *testing.T) {
	t.Parallel()
	m := miniredis.RunT(t)
	sharedtest.Run(t, func(t *testing.T) failover.Shared {
		return newStore(t, closing(t, redis.NewClient(&redis.Options{Addr: m.Addr()})))
	})
}

func TestRulesOnRedis(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	t.Run("RESP3", func(t *testing.T) {
		t.Parallel()
		sharedtest.Run(t, func(t *testing.T) failover.Shared { return newStore(t, s.client(t)) })
	})
	t.Run("RESP2 and context deadlines", func(t *testing.T) {
		t.Parallel()
		sharedtest.Run(t, func(t *testing.T) failover.Shared {
			return newStore(t, closing(t, redis.NewClient(&redis.Options{Addr: s.addr, Protocol: 2, ContextTimeoutEnabled: true})))
		})
	})
}

func TestRulesOnCluster(t *testing.T) {
	t.Parallel()
	nodes := addrs(startCluster(t, false))
	sharedtest.Run(t, func(t *testing.T) failover.Shared {
		return newStore(t, closing(t, redis.NewUniversalClient(&redis.UniversalOptions{Addrs: nodes})))
	})
}

// The record survives the failure of its master.
func TestSentinelPromotesReplica(t *testing.T) {
	t.Parallel()
	master, sentinel := startSentinel(t)
	client := closing(t, redis.NewFailoverClient(&redis.FailoverOptions{MasterName: "main", SentinelAddrs: []string{sentinel}}))
	s := newStore(t, client)
	want := aRecord(1)
	swapped, err := s.CompareAndSwap(t.Context(), organization, 0, want)
	require.NoError(t, err)
	require.True(t, swapped)
	require.NoError(t, master.client(t).Do(t.Context(), "WAIT", 1, 5000).Err(), "the replica has it")
	changed := s.Changes(t.Context(), organization)

	master.kill()
	eventually(t, patience, func() error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		r, _, err := s.Load(ctx, organization)
		if err == nil {
			assert.Equal(t, want.By, r.By)
			_, err = s.CompareAndSwap(ctx, organization, r.Version, aRecord(r.Version+1))
		}
		return err
	})
	select {
	case <-changed:
	case <-time.After(patience):
		t.Error("changes at the new master are not told")
	}
}

// aRecord returns a record as a Transport writes it.
func aRecord(generation uint64) failover.Record {
	return failover.Record{
		Version: generation, Active: failover.Alternate, Generation: generation, Since: time.Now().UTC().Round(0),
		Reason: "the primary does not serve", By: "web-1 4711",
	}
}

// The stored form is part of the documentation, because people read records with redis-cli.
func TestWhatIsStored(t *testing.T) {
	t.Parallel()
	m := miniredis.RunT(t)
	s := newStore(t, closing(t, redis.NewClient(&redis.Options{Addr: m.Addr()})))
	since := time.Date(2025, 3, 30, 2, 59, 59, 123456789, time.UTC)
	_, err := s.CompareAndSwap(t.Context(), organization, 0, failover.Record{
		Version: 4, Active: failover.Alternate, Generation: 3, Since: since,
		Earlier: []time.Time{since.Add(-29 * time.Minute), since.Add(-12 * time.Minute)},
		Reason:  "no\x00UTF-8: \xff", By: "web-1 4711",
	})
	require.NoError(t, err)
	fields, err := m.HKeys(recordKey)
	require.NoError(t, err)
	assert.ElementsMatch(t, []string{"generation", "active", "since", "earlier", "reason", "by", "version", "questions", "recoveries", "risen", "frozen", "id"}, fields)
	assert.Equal(t, "3", m.HGet(recordKey, "generation"))
	assert.Equal(t, "alternate", m.HGet(recordKey, "active"))
	assert.Equal(t, "2025-03-30T02:59:59.123456789Z", m.HGet(recordKey, "since"))
	assert.Equal(t, "2025-03-30T02:30:59.123456789Z 2025-03-30T02:47:59.123456789Z", m.HGet(recordKey, "earlier"))
	assert.Equal(t, "no\x00UTF-8: \xff", m.HGet(recordKey, "reason"))
	assert.Zero(t, m.TTL(recordKey), "a record does not expire")

	_, err = s.Claim(t.Context(), organization, failover.Claim{Topic: "lease", Member: "web-1 4711", TTL: time.Minute})
	require.NoError(t, err)
	assert.InDelta(t, time.Minute, m.TTL(claimsKey), float64(time.Second), "claims leave nothing behind")
	_, err = s.Claim(t.Context(), organization, failover.Claim{Topic: "lease", Member: "web-2 12", TTL: time.Second})
	require.NoError(t, err)
	assert.Greater(t, min(m.TTL(claimsKey), m.TTL(placesKey)), 50*time.Second, "the key is there for as long as any claim")
	for _, member := range []string{"web-1 4711", "web-2 12"} {
		_, err = s.Claim(t.Context(), organization, failover.Claim{Topic: "lease", Member: member, TTL: 0})
		require.NoError(t, err)
	}
	assert.False(t, m.Exists(claimsKey) || m.Exists(placesKey), "nor does the last one that is withdrawn")
}

func TestPrefixKeepsFleetsApart(t *testing.T) {
	t.Parallel()
	m := miniredis.RunT(t)
	client := closing(t, redis.NewClient(&redis.Options{Addr: m.Addr()}))
	plain := newStore(t, client)
	other := closing(t, failoverredis.New(client, &failoverredis.Config{Prefix: "staging:"}))
	_, err := other.CompareAndSwap(t.Context(), organization, 0, aRecord(1))
	require.NoError(t, err)
	r, _, err := plain.Load(t.Context(), organization)
	require.NoError(t, err)
	assert.Zero(t, r)
	assert.Equal(t, []string{"staging:{" + organization + "}:record"}, m.Keys())
}

// Foreign data in Redis is an error that names the key, in a short text.
func TestPoisonedRecords(t *testing.T) {
	t.Parallel()
	good := map[string]string{"generation": "2", "active": "primary", "since": "2025-03-30T02:59:59Z", "earlier": "", "reason": "r", "by": "b", "version": "2", "questions": "0", "recoveries": "0", "risen": "0", "frozen": ""}
	rows := []struct {
		name   string // and the reason why it is not a record
		change map[string]string
	}{
		{"generation is a word", map[string]string{"generation": "two"}},
		{"generation is negative", map[string]string{"generation": "-2"}},
		{"generation has more than 64 bits", map[string]string{"generation": "18446744073709551616"}},
		{"generation would not compare as text", map[string]string{"generation": "02"}},
		{"generation is gone", map[string]string{"generation": ""}},
		{"version is a word", map[string]string{"version": "two"}},
		{"questions are none", map[string]string{"questions": "-1"}},
		{"risen is gone", map[string]string{"risen": ""}},
		{"frozen is too long", map[string]string{"frozen": strings.Repeat("f", 66000)}},
		{"active is unknown", map[string]string{"active": "both"}},
		{"since is empty", map[string]string{"since": ""}},
		{"since is empty, earlier is not", map[string]string{"since": " ", "earlier": "2025-03-30T02:59:59Z"}},
		{"since is a number", map[string]string{"since": "1743303599"}},
		{"earlier is garbage", map[string]string{"earlier": "2025-03-30T02:59:59Z x"}},
		{"reason is too long to be one", map[string]string{"reason": strings.Repeat("secret", 11000)}},
		{"all of it is too long", map[string]string{"reason": strings.Repeat("r", 33000), "by": strings.Repeat("b", 33000)}},
	}
	names := make(map[string]bool)
	m := miniredis.RunT(t)
	s := newStore(t, closing(t, redis.NewClient(&redis.Options{Addr: m.Addr()})))
	for _, row := range rows {
		require.False(t, names[row.name], "the name %q is used twice", row.name)
		names[row.name] = true
		for field, value := range good {
			m.HSet(recordKey, field, value)
		}
		_, _, err := s.Load(t.Context(), organization)
		require.NoError(t, err, "before: %s", row.name)
		for field, value := range row.change {
			m.HSet(recordKey, field, value)
		}
		r, _, err := s.Load(t.Context(), organization)
		require.ErrorContains(t, err, recordKey, row.name)
		assert.Zero(t, r, row.name)
		assert.Less(t, len(err.Error()), 200, row.name)
		assert.NotContains(t, err.Error(), "secret", row.name)
	}

	m.Del(recordKey)
	m.HSet(recordKey, "reason", "has no generation")
	_, _, err := s.Load(t.Context(), organization)
	assert.ErrorContains(t, err, recordKey)

	m.Del(recordKey)
	m.Set(recordKey, "a string")
	_, _, err = s.Load(t.Context(), organization)
	assert.ErrorContains(t, err, recordKey)
	_, err = s.CompareAndSwap(t.Context(), organization, 0, aRecord(1))
	assert.ErrorContains(t, err, recordKey)
	got, err := m.Get(recordKey)
	require.NoError(t, err)
	assert.Equal(t, "a string", got, "what is not ours is not overwritten")

	m.Set(claimsKey, "a string")
	_, err = s.Claim(t.Context(), organization, failover.Claim{Topic: "lease", Member: "member", TTL: time.Minute})
	assert.ErrorContains(t, err, claimsKey)
}

func TestBounds(t *testing.T) {
	t.Parallel()
	m := miniredis.RunT(t)
	s := newStore(t, closing(t, redis.NewClient(&redis.Options{Addr: m.Addr()})))
	long := strings.Repeat("x", 65537)
	for name, r := range map[string]failover.Record{
		"too long":        {Generation: 1, Since: time.Now(), Reason: long},
		"too many":        {Generation: 1, Since: time.Now(), Earlier: make([]time.Time, 4000)},
		"beyond the year": {Generation: 1, Since: time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)},
		"no endpoint":     {Generation: 1, Since: time.Now(), Active: 2},
	} {
		swapped, err := s.CompareAndSwap(t.Context(), organization, 0, r)
		assert.False(t, swapped, name)
		assert.ErrorContains(t, err, recordKey, name)
		assert.NotContains(t, err.Error(), "xxx", name)
	}
	_, err := s.Claim(t.Context(), organization, failover.Claim{Topic: "lease", Member: long[:257], TTL: time.Minute})
	assert.Error(t, err)
	_, err = s.Claim(t.Context(), organization, failover.Claim{Topic: long[:257], Member: "member", TTL: time.Minute})
	assert.Error(t, err)
	assert.Empty(t, m.Keys(), "nothing was stored")

	for _, ttl := range []time.Duration{math.MaxInt64, 1} {
		members, err := s.Claim(t.Context(), organization, failover.Claim{Topic: "lease", Member: "member", TTL: ttl})
		require.NoError(t, err, "for %v", ttl)
		assert.Equal(t, failover.Holders{Count: 1, Names: []string{"member"}}, members, "for %v", ttl)
	}
}

// repeat is a redis.Hook that runs each script twice, as a client does that has
// lost the first answer.
type repeat struct{ repeated atomic.Int64 }

func (*repeat) DialHook(next redis.DialHook) redis.DialHook { return next }

func (r *repeat) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if err := next(ctx, cmd); err != nil || !strings.HasPrefix(cmd.Name(), "eval") {
			return err
		}
		r.repeated.Add(1)
		return next(ctx, cmd)
	}
}

func (*repeat) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func TestRepeatedScriptsHaveOneEffect(t *testing.T) {
	t.Parallel()
	client := closing(t, redis.NewClient(&redis.Options{Addr: miniredis.RunT(t).Addr()}))
	hook := new(repeat)
	client.AddHook(hook)
	s := newStore(t, client)
	for g := range uint64(3) {
		swapped, err := s.CompareAndSwap(t.Context(), organization, g, aRecord(g+1))
		require.NoError(t, err)
		assert.True(t, swapped, "the swap of generation %d has succeeded, if not the second time", g)
	}
	for i, want := range [][]string{{"a"}, {"a", "b"}, {"a", "b"}} {
		members, err := s.Claim(t.Context(), organization, failover.Claim{Topic: "lease", Member: string("aba"[i]), TTL: time.Minute})
		require.NoError(t, err)
		assert.Equal(t, want, members.Names)
	}
	assert.EqualValues(t, 6, hook.repeated.Load())
}

// The permissions in the package comment suffice; without the permission to publish,
// everything but notifications works.
func TestPermissions(t *testing.T) {
	t.Parallel()
	server := startServer(t)
	admin := server.client(t)
	doc, err := os.ReadFile("doc.go")
	require.NoError(t, err)
	_, acl, _ := strings.Cut(string(doc), "ACL SETUSER failover ")
	acl, _, found := strings.Cut(acl, "\n//\n")
	require.True(t, found, "the package comment has the permissions")
	rules := strings.Fields(strings.NewReplacer("//", "", ">...", ">secret").Replace(acl))
	users := map[string][]string{"failover": rules, "silent": append(rules, "resetchannels", "-publish")}
	for user, rules := range users {
		args := []any{"ACL", "SETUSER", user}
		for _, rule := range rules {
			args = append(args, rule)
		}
		require.NoError(t, admin.Do(t.Context(), args...).Err())
		s := newStore(t, closing(t, redis.NewClient(&redis.Options{Addr: server.addr, Username: user, Password: "secret"})))
		o := user + "." + organization
		changed := s.Changes(t.Context(), o)
		swapped, err := s.CompareAndSwap(t.Context(), o, 0, aRecord(1))
		require.NoError(t, err)
		assert.True(t, swapped)
		_, _, err = s.Load(t.Context(), o)
		require.NoError(t, err)
		_, err = s.Claim(t.Context(), o, failover.Claim{Topic: "lease", Member: "member", TTL: time.Minute})
		require.NoError(t, err)
		if user == "failover" {
			<-changed
		}
	}

	s := newStore(t, closing(t, redis.NewClient(&redis.Options{Addr: server.addr, Username: "failover", Password: "wrong-secret"})))
	_, _, err = s.Load(t.Context(), organization)
	require.ErrorContains(t, err, recordKey)
	assert.NotContains(t, err.Error(), "secret", "no password in errors")
}

// blackHole is a server that accepts connections and is silent. The timeouts of its clients are
// configurable.
func blackHole(t *testing.T) string {
	ln := closing(t, must(net.Listen("tcp", "127.0.0.1:0")))
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { c.Close() })
		}
	}()
	return ln.Addr().String()
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// A call ends with its context, whatever the client's own timeouts are.
func TestCallsEndWithTheirContext(t *testing.T) {
	t.Parallel()
	client := closing(t, redis.NewClient(&redis.Options{Addr: blackHole(t), ReadTimeout: time.Minute, MaxRetries: -1}))
	s := newStore(t, client)
	start := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	for range 100 { // more than can run at a time
		_, _, err := s.Load(ctx, organization)
		require.ErrorIs(t, err, context.DeadlineExceeded)
	}
	assert.Less(t, time.Since(start), 30*time.Second)
}

func TestClose(t *testing.T) {
	t.Parallel()
	client := closing(t, redis.NewClient(&redis.Options{Addr: blackHole(t), ReadTimeout: time.Second, MaxRetries: -1}))
	s := failoverredis.New(client, nil)
	s.Changes(t.Context(), organization)
	failed := make(chan error)
	go func() {
		_, err := s.Claim(context.Background(), organization, failover.Claim{Topic: "lease", Member: "member", TTL: time.Minute})
		failed <- err
	}()
	require.NoError(t, s.Close())
	require.NoError(t, s.Close(), "again")
	assert.ErrorContains(t, <-failed, "closed")
	_, _, err := s.Load(t.Context(), organization)
	assert.ErrorContains(t, err, "closed")
	_, err = s.CompareAndSwap(t.Context(), organization, 0, aRecord(1))
	assert.ErrorContains(t, err, "closed")
	assert.Nil(t, s.Changes(t.Context(), organization))
	assert.False(t, errors.Is(client.Ping(t.Context()).Err(), redis.ErrClosed), "the client is its owner's to close")
}

// One connection serves all watchers, from the first to the last.
func TestOneSubscription(t *testing.T) {
	t.Parallel()
	m := miniredis.RunT(t)
	s := newStore(t, closing(t, redis.NewClient(&redis.Options{Addr: m.Addr()})))
	subscriptions := func(want int) {
		t.Helper()
		eventually(t, patience, func() error {
			if n := m.PubSubNumSub("failover:changes")["failover:changes"]; n != want {
				return fmt.Errorf("%d subscriptions, want %d", n, want)
			}
			return nil
		})
	}
	subscriptions(0)
	for range 2 {
		all, cancelAll := context.WithCancel(t.Context())
		for i := range 50 {
			require.NotNil(t, s.Changes(all, fmt.Sprintf("%d.%s", i%7, organization)))
		}
		one, cancelOne := context.WithCancel(t.Context())
		s.Changes(one, organization)
		subscriptions(1)
		cancelAll()
		c := s.Changes(one, organization)
		_, err := s.CompareAndSwap(t.Context(), organization, generation(t, s), aRecord(generation(t, s)+1))
		require.NoError(t, err)
		<-c
		subscriptions(1)
		cancelOne()
		subscriptions(0)
	}
}

func generation(t *testing.T, s *failoverredis.Store) uint64 {
	r, _, err := s.Load(t.Context(), organization)
	require.NoError(t, err)
	return r.Version
}

// When a server comes back, the Store subscribes again and notifies watchers, who may have missed
// a change.
func TestSubscriptionComesBack(t *testing.T) {
	t.Parallel()
	server := startServer(t)
	s := newStore(t, server.client(t))
	c := s.Changes(t.Context(), organization)
	<-c // the Store is subscribed
	for range 2 {
		server.kill()
		server.start(t)
		select {
		case <-c:
		case <-time.After(patience):
			t.Fatal("not told")
		}
		_, err := newStore(t, server.client(t)).CompareAndSwap(t.Context(), organization, 0, aRecord(1))
		require.NoError(t, err)
		<-c
	}
}

// A server that hangs, as if its machine were suspended, blocks nobody, and works again when it
// resumes.
func TestPausedServer(t *testing.T) {
	t.Parallel()
	server := startServer(t)
	s := newStore(t, closing(t, redis.NewClient(&redis.Options{Addr: server.addr, ReadTimeout: time.Minute})))
	_, err := s.CompareAndSwap(t.Context(), organization, 0, aRecord(1))
	require.NoError(t, err)
	server.pause(t)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, _, err = s.Load(ctx, organization)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	assert.Less(t, time.Since(start), 30*time.Second, "the client's own is a minute")
	server.resume(t)
	assert.EqualValues(t, 1, generation(t, s))
}
