package failover_test

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover"
	"github.com/d365failover/failover/failovertest"
)

var (
	writes = flag.Int("writes", 1600, "number of writes for TestNoWriteIsLostOrDoubled")
	seed   = flag.Uint64("seed", 0, "seed for TestNoWriteIsLostOrDoubled; 0 picks one")
	upload = flag.Int64("upload", 2<<30, "bytes of the upload for TestALargeUploadStreams")
)

// fenceStatus distinguishes the fence from every other answer.
const fenceStatus = 590

// ledgerOfWrites is what the callers of one storm saw.
type ledgerOfWrites struct {
	acknowledged map[string]int // by id: status
	failed       map[string]error
	inDoubt      int // outcomes that the library must have reported
}

// Whatever happens to the endpoints, a write without a mark is carried out at most once and
// never sent again after an unknown outcome; every unknown outcome is reported; and what was
// acknowledged was carried out.
func TestNoWriteIsLostOrDoubled(t *testing.T) {
	t.Parallel()
	const perStorm = 1000
	first := *seed
	if first == 0 {
		first = rand.Uint64()
	}
	var all totals
	t.Run("storms", func(t *testing.T) {
		for n := 0; n < *writes; n += perStorm {
			number := first + uint64(n/perStorm)
			t.Run(fmt.Sprintf("seed %d", number), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) { storm(t, number, min(perStorm, *writes-n), &all) })
			})
		}
	})
	t.Logf("%d writes: %d acknowledged, %d in doubt, %d switches", *writes, all.acknowledged.Load(), all.inDoubt.Load(), all.switches.Load())
	assert.Greater(t, all.acknowledged.Load(), int64(*writes/4), "the storm leaves room for success")
	assert.NotZero(t, all.inDoubt.Load())
	assert.NotZero(t, all.switches.Load())
}

// totals of all storms.
type totals struct{ acknowledged, inDoubt, switches atomic.Int64 }

// storm sends writes while both datacenters fail and the organization moves at random.
func storm(t *testing.T, seed uint64, count int, all *totals) {
	org := failovertest.StartInMemory(&failovertest.Config{FenceStatus: fenceStatus, Lag: time.Second})
	defer org.Close()
	var reported atomic.Int64
	client, transport, err := failover.Wrap(nil, org.URL(), &failover.Config{
		Base: org.Transport(), Authorize: org.Authorize, AttemptTimeout: 3 * time.Second, Logger: slog.New(slog.DiscardHandler),
		MinDwell: time.Second, ProbeInterval: time.Second, RetryThrottled: 2 * time.Second,
		OnEvent: func(e failover.Event) {
			if e.Kind == failover.EventOutcomeUnknown {
				reported.Add(1)
			}
		},
	})
	require.NoError(t, err)
	began := time.Now()

	stop := make(chan struct{})
	var weather sync.WaitGroup
	weather.Go(func() { changeWeather(org, rand.New(rand.NewPCG(seed, 1)), stop) })
	weather.Go(func() { switchByHand(t, transport, rand.New(rand.NewPCG(seed, 0)), stop) })
	seen := ledgerOfWrites{acknowledged: make(map[string]int), failed: make(map[string]error)}
	var mu sync.Mutex
	var callers sync.WaitGroup
	const workers = 8
	for w := range workers {
		callers.Go(func() {
			random := rand.New(rand.NewPCG(seed, uint64(w+2)))
			for n := w; n < count; n += workers {
				id := strconv.Itoa(n)
				req := newWrite(t, org, random, id)
				resp, err := client.Do(req)
				mu.Lock()
				seen.record(t, id, resp, err)
				mu.Unlock()
				time.Sleep(time.Duration(random.IntN(1000)) * time.Millisecond)
			}
		})
	}
	callers.Wait()
	close(stop)
	weather.Wait()
	transport.Close() // after this, every event has been delivered
	seen.check(t, org)
	seen.checkBooks(t, org, transport, began)
	assert.EqualValues(t, seen.inDoubt, reported.Load(), "unknown outcomes reported")
	all.acknowledged.Add(int64(len(seen.acknowledged)))
	all.inDoubt.Add(int64(seen.inDoubt))
	all.switches.Add(int64(transport.Status().Generation))
}

// newWrite returns a write that must not be repeated in doubt.
func newWrite(t *testing.T, org *failovertest.Org, random *rand.Rand, id string) *http.Request {
	method, path := http.MethodPost, accounts
	if random.IntN(3) == 0 {
		method, path = http.MethodPatch, fmt.Sprintf("%s(%s)", accounts, failovertest.SeedID(1+random.IntN(25)))
	}
	var body io.Reader = strings.NewReader(`{"name":"Contoso ` + id + `"}`)
	if random.IntN(2) == 0 {
		body = struct{ io.Reader }{body} // without GetBody
	}
	req, err := http.NewRequestWithContext(failover.WithLabel(t.Context(), id), method, org.URL()+path, body)
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Test-Id", id)
	return req
}

func (l *ledgerOfWrites) record(t *testing.T, id string, resp *http.Response, err error) {
	if err != nil {
		l.failed[id] = err
		if errors.Is(err, failover.ErrOutcomeUnknown) {
			l.inDoubt++
		}
		return
	}
	defer resp.Body.Close()
	f := failover.Classify(resp, nil)
	switch {
	case f == nil:
		l.acknowledged[id] = resp.StatusCode
	default:
		l.failed[id] = f
		if f.Delivery == failover.Unknown {
			l.inDoubt++
		}
	}
	io.Copy(io.Discard, resp.Body)
}

// check compares what the callers saw with what the datacenters did.
func (l *ledgerOfWrites) check(t *testing.T, org *failovertest.Org) {
	applied, open := make(map[string]int), make(map[string]int)
	for _, d := range []*failovertest.Datacenter{org.Primary(), org.Alternate()} {
		for _, r := range d.Deliveries() {
			if r.ID == "" {
				continue // a probe
			}
			if r.Applied {
				applied[r.ID]++
			}
			if r.Status != fenceStatus && r.Status != http.StatusTooManyRequests {
				open[r.ID]++ // the caller cannot know that it was not carried out
			}
		}
	}
	for id, n := range open {
		assert.LessOrEqual(t, n, 1, "write %s was sent again without proof", id)
		assert.LessOrEqual(t, applied[id], 1, "write %s was carried out twice", id)
	}
	for id := range l.acknowledged {
		assert.Equal(t, 1, applied[id], "write %s was acknowledged and not carried out", id)
	}
	for id, err := range l.failed {
		if _, answered := err.(*failover.Fault); open[id] > 0 && !answered {
			assert.ErrorIs(t, err, failover.ErrOutcomeUnknown, "write %s may have been carried out", id)
		}
	}
}

// checkBooks compares the books with what the callers saw: they must have every write that was
// acknowledged or left in doubt, with the endpoint that carried it out.
func (l *ledgerOfWrites) checkBooks(t *testing.T, org *failovertest.Org, transport *failover.Transport, began time.Time) {
	all := transport.WritesSince(began)
	require.False(t, all.Truncated)
	sides := []*failovertest.Datacenter{org.Primary(), org.Alternate()}
	appliedAt := make(map[string]failover.Endpoint)
	for e, d := range sides {
		for _, r := range d.Deliveries() {
			if r.Applied {
				appliedAt[r.ID] = failover.Endpoint(e)
			}
		}
	}
	acknowledged, unknown := make(map[string]bool), make(map[string]bool)
	for _, w := range all.AtRisk {
		acknowledged[w.Label] = true
		assert.Equal(t, appliedAt[w.Label], w.Endpoint, "endpoint of write %s", w.Label)
	}
	for _, w := range all.Unknown {
		unknown[w.Label] = true
	}
	for id := range l.acknowledged {
		assert.True(t, acknowledged[id], "write %s was acknowledged and is not in the ledger", id)
	}
	for id, err := range l.failed {
		if errors.Is(err, failover.ErrOutcomeUnknown) {
			assert.True(t, unknown[id], "the outcome of write %s is unknown and it is not in the ledger", id)
		}
	}
}

// switchByHand switches the traffic now and then, perhaps to an endpoint that does not serve.
func switchByHand(t *testing.T, transport *failover.Transport, random *rand.Rand, stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		case <-time.After(time.Duration(random.IntN(10_000)) * time.Millisecond):
		}
		transport.Switch(t.Context(), failover.Endpoint(random.IntN(2)), "by hand") // a failed probe may refuse it
	}
}

// changeWeather makes the datacenters fail and the organization move at random.
func changeWeather(org *failovertest.Org, random *rand.Rand, stop <-chan struct{}) {
	failures := []failovertest.Failure{
		failovertest.Refuse(), failovertest.NoSuchHost(), failovertest.BadCertificate(), failovertest.BlackHole(), failovertest.Hang(),
		failovertest.Reset(failovertest.BeforeRequest), failovertest.Reset(failovertest.DuringRequest), failovertest.Reset(failovertest.BeforeAnswer),
		failovertest.Reset(failovertest.AfterApply), failovertest.Reset(failovertest.MidBody),
		failovertest.Status(502, nil, ""), failovertest.Status(503, nil, ""), failovertest.Status(504, nil, ""), failovertest.OutagePage(),
		failovertest.Delay(time.Second), failovertest.Delay(10 * time.Second), failovertest.Truncate(5), failovertest.Throttle(time.Second),
	}
	for {
		select {
		case <-stop:
			return
		case <-time.After(time.Duration(random.IntN(1000)) * time.Millisecond):
		}
		f := failures[random.IntN(len(failures))]
		switch random.IntN(10) {
		case 0:
			org.Alternate().Heal()
			org.Disaster(f)
		case 1:
			org.Primary().Heal()
			org.FailBack()
		case 2, 3:
			org.Primary().FailNext(1+random.IntN(3), f)
		case 4, 5:
			org.Alternate().FailNext(1+random.IntN(3), f)
		case 6:
			org.Primary().Fail(f)
		default:
			org.Primary().Heal()
			org.Alternate().Heal()
		}
	}
}

func TestALargeUploadStreams(t *testing.T) {
	var received atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		received.Store(n)
		w.WriteHeader(http.StatusNoContent)
	}))
	defer server.Close()
	transport, err := failover.New(server.URL, &failover.Config{Alternate: "http://127.0.0.1:1"})
	require.NoError(t, err)
	defer transport.Close()
	req, err := http.NewRequest(http.MethodPost, server.URL+"/api/data/v9.2/UploadBlocks", io.LimitReader(zeros{}, *upload))
	require.NoError(t, err)

	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	resp, err := transport.RoundTrip(req)
	require.NoError(t, err)
	resp.Body.Close()
	runtime.ReadMemStats(&after)
	assert.Equal(t, *upload, received.Load())
	assert.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(32<<20), "bytes allocated in all, whatever the size")
}

// zeros is an endless reader.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
