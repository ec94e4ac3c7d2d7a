package failover

import (
	"context"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// While requests wait for long all the time, the endpoint is asked in the tick in which
// that shows, and then ten ticks later, twice as many, and so on. It begins anew when
// nobody has waited for long for a while.
func TestTheTicksBetweenQuestions(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var asked []int
		start := time.Now()
		var transport *Transport
		transport = newTestTransport(t, acknowledging, Config{ProbeInterval: -1, Probe: func(_ context.Context, _ *http.Client, u *url.URL) error {
			transport.mu.Lock()
			defer transport.mu.Unlock()
			if !strings.Contains(u.Host, "--s.") {
				asked = append(asked, int(time.Since(start)/time.Second)) // a tick is a second
			}
			transport.endpoints[Primary].lastWhole = time.Since(start) // so that connections are not renewed
			return nil
		}})
		w := &transport.state.Load().pool.waits
		slots := &w.shards[0].counts
		for i := range slots {
			slots[i].Add(1)
		}
		w.enter().Add(-1)
		seen := func() []int {
			synctest.Wait()
			transport.mu.Lock()
			defer transport.mu.Unlock()
			return asked
		}
		time.Sleep(600*time.Second + time.Millisecond)
		assert.Equal(t, []int{1, 11, 31, 71, 151, 271, 391, 511}, seen())
		for i := range slots[:len(slots)-1] {
			slots[i].Add(-1)
		}
		// The last question allows the next one at 631, and 12 ticks later all is forgotten. One
		// request is seen in the tick in which its slot is filled next, each 12 ticks.
		time.Sleep(100 * time.Second)
		require.Greater(t, len(seen()), 8)
		assert.InDelta(t, 631, seen()[8], 11)
		slots[len(slots)-1].Add(-1)
		time.Sleep(10 * time.Second)
		assert.False(t, w.armed.Load())
	})
}

// Until an answer comes, every read can be given up.
func TestSilenceLastsUntilAnAnswer(t *testing.T) {
	t.Parallel()
	w := &waits{shards: make([]waitShard, 1), interval: time.Hour}
	w.tick.Store(100)
	w.last.Store(100)
	w.enter()
	for now := range uint32(2 * suspectTicks) {
		w.tick.Store(100 + now)
		assert.True(t, w.silent(), now)
	}
	w.answered()
	assert.False(t, w.silent())
}

// What is asked about a request that waits for long names the endpoint and why. An old pool
// says nothing about the connections of now.
func TestWhatASuspicionIsAbout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := &probers{takes: [2]time.Duration{time.Second, time.Second}}
		transport := newTestTransport(t, acknowledging, Config{ProbeInterval: -1, Probe: p.probe, SuspectAfter: 20 * time.Second})
		transport.suspect(new(pool))
		assert.Nil(t, transport.question)
		transport.suspect(transport.state.Load().pool)
		q := transport.question
		require.NotNil(t, q)
		assert.Equal(t, &Fault{Class: ClassTransient, Endpoint: Primary, Err: errSilent}, q.fault)
		assert.Equal(t, 20*time.Second, time.Since(q.since))
		<-q.done
		assert.False(t, q.toSwitch)
	})
}

// An attempt that begins to wait while the timer finds nobody is not overlooked: one timer runs as
// long as any waits.
func TestOneTimerRunsWhileAnyAttemptWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		transport := newTestTransport(t, acknowledging, Config{ProbeInterval: -1})
		const rounds, shards = 100, 1 << 11 // so many that looking for somebody takes its time
		w := &waits{t: transport, pool: new(pool), interval: time.Second, shards: make([]waitShard, shards)}
		for round := range rounds {
			before := w.tick.Load()
			w.armed.Store(true) // the timer has just fired
			var n *atomic.Int32
			var both sync.WaitGroup
			both.Go(func() {
				if round%2 == 0 { // while it looks the first time
					for w.tick.Load() == before {
						runtime.Gosched()
					}
					for range round * 4 * shards * len(w.shards[0].counts) / rounds {
						w.tick.Load()
					}
				} else { // when it has found nobody
					for w.armed.Load() {
						runtime.Gosched()
					}
				}
				n = w.enter()
			})
			both.Go(w.look)
			both.Wait()
			time.Sleep(2*w.interval + w.interval/2)
			require.Equal(t, before+3, w.tick.Load(), round)
			require.True(t, w.armed.Load(), round)
			n.Add(-1)
			time.Sleep(w.interval)
			require.False(t, w.armed.Load(), round)
		}
	})
}

// A read is sent again once it has waited for 15 times SuspectAfter, and only once.
func TestWhenAReadIsRescued(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rescued := 0
		w := &waits{t: &Transport{cfg: Config{SuspectAfter: 10 * time.Second}}, shards: make([]waitShard, 1)}
		leave := w.list(&waitingRead{rescue: func() { rescued++ }})
		defer leave()
		time.Sleep(150*time.Second - 1)
		w.rescue()
		assert.Zero(t, rescued)
		time.Sleep(time.Nanosecond)
		for range 2 {
			w.rescue()
			assert.Equal(t, 1, rescued)
		}
	})
}
