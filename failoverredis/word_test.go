package failoverredis_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover"
	"github.com/d365failover/failover/failoverredis"
	"github.com/d365failover/failover/failovertest"
	"github.com/d365failover/failover/internal/machine"
)

// heard swaps the record repeatedly, and returns how long it takes until a watcher gets a value,
// for a change or for a new subscription, apart from the time that the machine withholds.
func heard(t *testing.T, writer *failoverredis.Store, told <-chan struct{}) time.Duration {
	t.Helper()
	for drained := false; !drained; {
		select {
		case <-told:
		default:
			drained = true
		}
	}
	stopwatch := machine.Stopwatch()
	for start := time.Now(); time.Since(start) < patience; {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		r, _, err := writer.Load(ctx, organization)
		if err == nil {
			_, err = writer.CompareAndSwap(ctx, organization, r.Version, aRecord(r.Version+1))
		}
		cancel()
		select {
		case <-told:
			if err == nil {
				taken, withheld := stopwatch()
				return taken - withheld
			}
		case <-time.After(100 * time.Millisecond):
		}
	}
	require.FailNow(t, "nothing was heard", "within %v", patience)
	return 0
}

// heardWithin is heard with a bound. After a stall of the machine it does not hold: a Sentinel that
// was stopped decides nothing for 30 s.
func heardWithin(t *testing.T, writer *failoverredis.Store, told <-chan struct{}, bound time.Duration) {
	t.Helper()
	stalls := machine.Stalls()
	took := heard(t, writer, told)
	t.Logf("heard after %v", took)
	if stalls == machine.Stalls() {
		assert.Less(t, took, bound)
	}
}

// The cluster node with the subscription dies and its replica takes over: notifications arrive
// again.
func TestWordIsHeardAfterANodeOfAClusterHasDied(t *testing.T) {
	t.Parallel()
	servers := startCluster(t, true)
	client := func() *redis.ClusterClient {
		return closing(t, redis.NewClusterClient(&redis.ClusterOptions{Addrs: addrs(servers)}))
	}
	reader := client()
	told := newStore(t, reader).Changes(t.Context(), organization)
	writer := newStore(t, client())
	t.Logf("heard after %v", heard(t, writer, told))

	master, err := reader.MasterForKey(t.Context(), "failover:changes")
	require.NoError(t, err)
	for _, s := range servers {
		if s.addr == master.Options().Addr {
			s.kill()
		}
	}
	heardWithin(t, writer, told, 15*time.Second) // of the death
}

// The master hangs, and Sentinel promotes its replica: subscribers of the old master find out,
// although their connection stays open.
func TestWordIsHeardAfterAMasterHangs(t *testing.T) {
	t.Parallel()
	master, sentinel := startSentinel(t)
	client := func() *redis.Client {
		return closing(t, redis.NewFailoverClient(&redis.FailoverOptions{MasterName: "main", SentinelAddrs: []string{sentinel}}))
	}
	told := newStore(t, client()).Changes(t.Context(), organization)
	writer := newStore(t, client())
	heard(t, writer, told)
	<-time.After(200 * time.Millisecond) // for data on its way
	master.pause(t)
	heardWithin(t, writer, told, 10*time.Second)
}

// A server hangs that nothing replaces. Notifications arrive when it resumes, or, if the machine was
// replaced behind its address, once the connection was found dead.
func TestWordIsHeardAfterAHang(t *testing.T) {
	t.Parallel()
	server := startServer(t)
	way := newPath(t, func(ctx context.Context) (c net.Conn, err error) {
		return new(net.Dialer).DialContext(ctx, "tcp", server.addr)
	})
	told := newStore(t, closing(t, redis.NewClient(&redis.Options{Addr: way.addr()}))).Changes(t.Context(), organization)
	writer := newStore(t, server.client(t))
	heard(t, writer, told)
	<-time.After(200 * time.Millisecond) // for data on its way
	way.hold()
	heardWithin(t, writer, told, 10*time.Second)
}

// While Redis hangs, New and Close take at most a second or two each, however many there are.
func TestNewAndCloseWhileRedisHangs(t *testing.T) {
	t.Parallel()
	server := startServer(t)
	store := newStore(t, server.client(t))
	var mu sync.Mutex // guards what follows
	var all []*failover.Transport
	var slowest time.Duration
	timed := func(f func()) {
		stopwatch := machine.Stopwatch()
		f()
		taken, withheld := stopwatch()
		mu.Lock()
		defer mu.Unlock()
		slowest = max(slowest, taken-withheld)
	}
	start := func(n int) {
		var wg sync.WaitGroup
		for range n {
			wg.Go(func() {
				timed(func() {
					transport, err := failover.New("https://"+organization, &failover.Config{Shared: store, ProbeTimeout: -1, Logger: slog.New(slog.DiscardHandler)})
					mu.Lock()
					defer mu.Unlock()
					if assert.NoError(t, err) {
						all = append(all, transport)
					}
				})
			})
		}
		wg.Wait()
	}
	start(150)
	server.pause(t)
	slowest = 0
	start(50)
	t.Logf("New takes up to %v", slowest)
	assert.LessOrEqual(t, slowest, 2*time.Second)
	slowest = 0
	began := time.Now()
	for _, transport := range all {
		timed(func() { transport.Close() })
	}
	t.Logf("%d Close in a row take %v, the slowest %v", len(all), time.Since(began), slowest)
	assert.LessOrEqual(t, slowest, 2*time.Second)
	server.resume(t)
}

// Redis is out of memory, or read-only: the fleet is lost once, and found once.
func TestFleetIsLostAndFoundOnce(t *testing.T) {
	t.Parallel()
	f := startFleet(t, []int{3, 3})
	stalls := machine.Stalls()
	f.org.Disaster(failovertest.Refuse())
	f.answered(f.do(f.processes[0], order{Get: 1, Times: 1}).Results)
	f.allAt(failover.Alternate) // where members take turns to probe
	require.NoError(t, f.admin.ConfigSet(t.Context(), "maxmemory", "1").Err())
	f.eventually("on their own", patience, func(s status) bool { return s.StoreErr != "" })
	<-time.After(10 * time.Second)
	require.NoError(t, f.admin.ConfigSet(t.Context(), "maxmemory", "0").Err())
	f.eventually("a fleet", found, func(s status) bool { return s.StoreErr == "" })
	for i, s := range f.status() {
		if stalls == machine.Stalls() {
			assert.EqualValues(t, 1, s.Lost, fmt.Sprint(i))
		}
		assert.NotZero(t, s.Lost, fmt.Sprint(i))
		assert.Equal(t, s.Lost, s.Found, fmt.Sprint(i))
	}
}
