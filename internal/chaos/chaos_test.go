package chaos

import (
	"flag"
	"io"
	"log"
	"log/slog"
	"net/http"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/d365failover/failover"
)

var full = flag.Bool("full", false, "run the whole matrix")

func TestMain(m *testing.M) {
	log.SetOutput(io.Discard) // what net/http logs about odd answers
	os.Exit(m.Run())
}

func TestMatrix(t *testing.T) {
	t.Parallel()
	all := cells(methods, nil)
	if !*full {
		all = cells([]string{"GET", "POST"}, func(c cell) bool { return !c.fault.mild && c.at != during })
	}
	require.NotEmpty(t, all)
	parallel := 12 * runtime.GOMAXPROCS(0)
	if *full {
		parallel = 4 * runtime.GOMAXPROCS(0)
	}
	results := runMatrix(all, parallel, func(c cell) result {
		return patiently(t, func(slower time.Duration) result {
			c.slower = slower
			r := c.run()
			assert.False(t, r.doubled, "%v: %q", c, r.wrong)
			return r
		}, func(t assert.TestingT, r result) { assert.Empty(t, r.wrong, "%v", c) })
	})
	if testing.Verbose() {
		writeMatrix(os.Stdout, results)
		writeDigest(os.Stdout, results)
	}
}

func TestFaultsAreNamedOnce(t *testing.T) {
	t.Parallel()
	seen := make(map[string]bool)
	for _, f := range faults {
		assert.False(t, seen[f.name], f.name)
		seen[f.name] = true
		assert.NotEmpty(t, f.moments, f.name)
		assert.NotEmpty(t, f.by, f.name)
	}
}

// Not parallel: it counts the goroutines and the memory of the process.
func TestLoad(t *testing.T) {
	callers, healthy := 200, 300*time.Millisecond
	if *full {
		callers, healthy = 2000, 3*time.Second
	}
	var results []loadResult
	for _, o := range outages {
		for _, h2 := range []bool{false, true} {
			if !*full && (h2 != (o.name == "reset after apply") || o.name == "refused" || o.name == "503") {
				continue
			}
			timeout := 20 * time.Second // even a busy machine must not time out
			if o.name == "data lost" && !*full {
				timeout = 4 * time.Second
			}
			results = append(results, patiently(t, func(slower time.Duration) loadResult {
				r := load{callers: callers, h2: h2, outage: o, healthy: healthy, timeout: slower * timeout}.run()
				assert.Zero(t, r.doubled, o.name)
				return r
			}, func(t assert.TestingT, r loadResult) {
				assert.Zero(t, r.avoidable, "%s: %q", o.name, r.samples)
				assert.Equal(t, 2, r.switches, o.name)
				assert.Equal(t, 2, r.decisions, "%s: a switch each way and no other decision", o.name)
				assert.LessOrEqual(t, r.storm, 2*int64(callers), "%s: connections to the alternate", o.name)
				assert.Zero(t, r.conns, o.name)
				assert.Zero(t, r.goroutines, o.name)
				assert.Less(t, r.heapPeak, r.heapBefore+uint64(callers)<<20, "%s: a MiB for each caller, both ends of its connections included", o.name)
			}))
		}
	}
	if testing.Verbose() {
		writeLoad(os.Stdout, results)
	}
}

// Not parallel: the other tests measure the process.
func TestPeers(t *testing.T) {
	callers, duration := 20, 300*time.Millisecond
	if *full {
		callers, duration = 200, 3*time.Second
	}
	var all []contest
	for _, o := range peerOutages {
		for _, p := range peers {
			if *full || p.name == "failover" || o.name == "fence code, status 503" {
				all = append(all, contest{p, o, callers, duration})
			}
		}
	}
	results := make([]contestResult, len(all))
	var wg sync.WaitGroup
	for i, c := range all {
		wg.Go(func() {
			results[i] = patiently(t, func(slower time.Duration) contestResult {
				c.duration = slower * duration
				r := c.run()
				if c.peer.name == "failover" {
					assert.Zero(t, r.doubled, c.outage.name)
				}
				return r
			}, func(t assert.TestingT, r contestResult) {
				if c.peer.name == "failover" {
					assert.Positive(t, r.out.calls-r.out.failures, c.outage.name)
				}
			})
		})
		if *full {
			wg.Wait() // one after the other, for the sake of the figures
		}
	}
	wg.Wait()
	if testing.Verbose() {
		writePeers(os.Stdout, results)
	}
}

// Not parallel: it watches the memory of the process.
func TestSoak(t *testing.T) {
	// The calm must outlast the first hold after a false alarm, as it does between real
	// outages.
	k := soak{callers: 20, duration: 14 * time.Second, calm: 3 * time.Second, storm: 4 * time.Second}
	if *full {
		k = soak{callers: 50, duration: 10 * time.Minute, calm: 4 * time.Second, storm: 12 * time.Second}
	}
	r := patiently(t, func(slower time.Duration) soakResult {
		k := k
		k.duration, k.calm, k.storm = slower*k.duration, slower*k.calm, slower*k.storm
		r := k.run()
		assert.Zero(t, r.load.doubled)
		return r
	}, func(t assert.TestingT, r soakResult) {
		assert.False(t, r.grows(), "from %v to %v", r.first, r.last)
		assert.True(t, r.endedWell)
		assert.Zero(t, r.load.avoidable, "%q", r.load.samples)
		assert.Zero(t, r.load.conns)
		assert.Zero(t, r.load.goroutines)
	})
	if testing.Verbose() {
		writeSoak(os.Stdout, r)
		t.Logf("%q", r.load.samples)
	}
}

// Not parallel: it watches the memory of the process.
func TestHostileAnswersAreBounded(t *testing.T) {
	const callers = 16
	var results []hostileResult
	for _, h := range hostileAnswers {
		for _, ours := range []bool{false, true} {
			r := h.run(callers, ours)
			results = append(results, r)
			if ours {
				assert.Positive(t, r.attempts, h.name)
				// net/http accounts for half of it: it reads 10 MiB of headers, and socket
				// buffers take several MiB.
				assert.Less(t, r.written/int64(max(1, r.attempts)), int64(32<<20), h.name)
				assert.Less(t, r.heap, uint64(callers*64)<<20, h.name)
				assert.Less(t, r.slowest, time.Minute, h.name)
			}
		}
	}
	if testing.Verbose() {
		writeHostile(os.Stdout, results)
	}
}

// A stalled error page delays a caller without a deadline for a bounded time.
func TestAStalledPageHoldsNobody(t *testing.T) {
	t.Parallel()
	for name, h2 := range map[string]bool{"h1": false, "h2": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPair(false)
			defer p.close()
			w := p.newWire(h2)
			defer w.CloseIdleConnections()
			rt, err := failover.New(orgURL, &failover.Config{Base: w.Transport, Logger: slog.New(slog.DiscardHandler)})
			require.NoError(t, err)
			defer rt.Close()
			answers(stalledError)(p.primary)
			begun := time.Now()
			resp, err := rt.RoundTrip(newSmallRequest(t.Context(), "POST", "stalled"))
			require.NoError(t, err)
			defer resp.Body.Close()
			assert.Equal(t, http.StatusServiceUnavailable, resp.StatusCode)
			assert.Less(t, time.Since(begun), time.Minute)
		})
	}
}
