package failover

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Endpoints are probed when a request has waited for SuspectAfter. As long as requests wait,
// they are probed again, at intervals that double up to twelve times SuspectAfter. After a
// while without waiting requests, the intervals start again.
func TestWhenARequestHasWaitedForLong(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var probed []time.Time
		base := roundTripFunc(func(req *http.Request) (*http.Response, error) {
			if req.URL.Path == "/slow" {
				<-req.Context().Done()
				return nil, req.Context().Err()
			}
			return acknowledging(req)
		})
		transport := newTestTransport(t, base, Config{ProbeInterval: -1, SuspectAfter: 10 * time.Second, MaxAttempts: -1,
			Probe: func(_ context.Context, _ *http.Client, endpoint *url.URL) error {
				mu.Lock()
				if endpoint.Host == "contoso.api.crm.dynamics.com" {
					probed = append(probed, time.Now())
				}
				mu.Unlock()
				time.Sleep(time.Second) // other requests are answered meanwhile
				return nil
			}})
		send := func(ctx context.Context, path string) {
			req, err := http.NewRequestWithContext(ctx, "GET", "https://contoso.api.crm.dynamics.com"+path, nil)
			require.NoError(t, err)
			if resp, err := transport.RoundTrip(req); err == nil {
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
		}
		serving := func(d time.Duration) { // all other requests are answered
			for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(500 * time.Millisecond) {
				send(t.Context(), "/")
			}
		}
		seen := func() []time.Time { // since the last call
			mu.Lock()
			defer mu.Unlock()
			defer func() { probed = nil }()
			return probed
		}
		for range 2 {
			serving(time.Minute)
			ctx, cancel := context.WithCancel(t.Context())
			last := time.Now()
			go send(ctx, "/slow")
			serving(9500 * time.Millisecond)
			require.Empty(t, seen(), "not yet")
			serving(10 * time.Minute)
			probed := seen()
			require.Len(t, probed, 8)
			// A single request is looked at only every twelve ticks, so it may take that much
			// longer.
			for i, want := range []float64{10, 10, 20, 40, 80, 120, 120, 120} {
				got := probed[i].Sub(last).Seconds()
				assert.True(t, want <= got && got <= min(1.2*want, want+9), "%d: %v s, not %v", i, got, want)
				last = probed[i]
			}
			cancel()
			serving(3 * time.Minute)
			seen()
		}
		time.Sleep(time.Hour)
		assert.False(t, transport.state.Load().pool.waits.armed.Load(), "nobody waits, and no timer runs")
		assert.Empty(t, seen())

		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go send(ctx, "/slow")
		time.Sleep(3 * time.Second)
		w := &transport.state.Load().pool.waits
		require.True(t, w.armed.Load())
		transport.Close()
		time.Sleep(2 * time.Second)
		tick := w.tick.Load()
		time.Sleep(time.Minute)
		assert.Equal(t, tick, w.tick.Load(), "after Close nobody looks")
		assert.False(t, w.armed.Load())
	})
}

func TestTheTicksOfWaits(t *testing.T) {
	t.Parallel()
	for after, want := range map[time.Duration]time.Duration{0: time.Second, time.Second: 100 * time.Millisecond, time.Millisecond: time.Millisecond, -1: 0} {
		w := &newTestTransport(t, acknowledging, Config{SuspectAfter: after}).state.Load().pool.waits
		assert.Equal(t, want, w.interval, "%v", after)
		assert.Equal(t, want > 0, w.silent(), "no answer has come yet")
		w.armed.Store(true)
		w.tick.Store(7)
		w.last.Store(0)
		for now, silent := range map[uint32]bool{7: false, 8: false, 9: true, 100: true} {
			w.tick.Store(7)
			w.answered()
			w.tick.Store(now)
			assert.Equal(t, silent && want > 0, w.silent(), "%d", now)
		}
		w.armed.Store(false)
		w.answered()
		assert.Equal(t, want > 0, w.silent(), "the ticks stand still: it may be long ago")
		waiting := w.enter()
		assert.Equal(t, int32(1), waiting.Add(0))
		assert.Equal(t, want > 0, w.armed.Load())
		assert.Equal(t, want > 0, w.silent(), "so it may for the next one")
		assert.True(t, w.any())
		waiting.Add(-1)
		assert.False(t, w.any())
	}
}

// Exactly the waiting reads can be abandoned, in whatever order reads come and go.
func TestWhichReadsAreAbandoned(t *testing.T) {
	t.Parallel()
	var try func(done []int)
	try = func(done []int) { // the second time a number occurs, its read ends
		w := &waits{shards: make([]waitShard, 1)}
		leaves, causes := make(map[int]func()), make(map[int]error)
		var want []int
		for _, n := range done {
			if leave := leaves[n]; leave != nil {
				leave()
				delete(leaves, n)
				want = want[:len(want):len(want)]
				for i := range want {
					if want[i] == n {
						want = append(want[:i:i], want[i+1:]...)
						break
					}
				}
				continue
			}
			r := &waitingRead{cancel: func(err error) { causes[n] = err }, rescue: func() {}}
			leave := w.list(r)
			leaves[n] = func() { leave(); assert.Nil(t, r.rescue, "it is over") }
			want = append([]int{n}, want...)
		}
		var got int
		w.each(func(*waitingRead) { got++ })
		require.Equal(t, len(want), got, done)
		require.Empty(t, causes)
		w.abandon()
		for n := range 3 {
			require.Equal(t, leaves[n] != nil, causes[n] == errAbandoned, "%d of %v", n, done)
		}
		clear(causes)
		w.list(&waitingRead{cancel: func(err error) { causes[9] = err }})
		require.Equal(t, errAbandoned, causes[9], "who comes later")
		if len(done) < 6 {
			for n := range 3 {
				if n <= len(done) && count(done, n) < 2 {
					try(append(done[:len(done):len(done)], n))
				}
			}
		}
	}
	try(nil)
	assert.True(t, isTimeout(errAbandoned))
	assert.True(t, errAbandoned.Temporary())
}

func count(list []int, n int) (found int) {
	for _, m := range list {
		if m == n {
			found++
		}
	}
	return found
}

// A read that waits on an old connection, while the endpoint answers over new ones, is tried
// again once, after fifteen times SuspectAfter. The first answer wins, and the other try is
// cancelled.
func TestWhenAReadIsTriedAgain(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		first, second time.Duration // until they are answered
		fails         bool          // the second one
		takes         time.Duration
		status        int
	}{
		"the second one answers":            {time.Hour, time.Second, false, 152 * time.Second, 202},
		"the first one answers after all":   {155 * time.Second, time.Hour, false, 155 * time.Second, 201},
		"the second one fails":              {200 * time.Second, time.Second, true, 200 * time.Second, 201},
		"the first one answers before that": {149 * time.Second, time.Second, false, 149 * time.Second, 201},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var made atomic.Int32
				var firstEnded, secondEnded error
				base := roundTripFunc(func(req *http.Request) (*http.Response, error) {
					n, wait := made.Add(1), row.first
					if n > 1 {
						wait = row.second
					}
					select {
					case <-time.After(wait):
					case <-req.Context().Done():
						if cause := context.Cause(req.Context()); n == 1 {
							firstEnded = cause
						} else {
							secondEnded = cause
						}
						return nil, req.Context().Err()
					}
					if n > 1 && row.fails {
						return nil, errors.New("connection reset")
					}
					return &http.Response{StatusCode: 200 + int(n), Header: http.Header{}, Body: http.NoBody, Request: req}, nil
				})
				transport := newTestTransport(t, base, Config{ProbeInterval: -1, Probe: func(context.Context, *http.Client, *url.URL) error { return nil }})
				req, err := http.NewRequestWithContext(t.Context(), "GET", "https://contoso.api.crm.dynamics.com/", nil)
				require.NoError(t, err)
				start := time.Now()
				resp, err := transport.RoundTrip(req)
				require.NoError(t, err)
				resp.Body.Close()
				assert.Equal(t, row.status, resp.StatusCode)
				assert.InDelta(t, row.takes.Seconds(), time.Since(start).Seconds(), 1.1)
				synctest.Wait()
				want := int32(2)
				if row.first < 150*time.Second {
					want = 1
				}
				assert.Equal(t, want, made.Load())
				assert.Equal(t, row.status == 202, firstEnded == errAbandoned)
				assert.Equal(t, row.second == time.Hour, secondEnded != nil, "it is not left behind")
			})
		})
	}
}
