package chaos

import (
	"flag"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var full = flag.Bool("full", false, "run the whole matrix")

// Not parallel: with -v it writes one table.
func TestMatrix(t *testing.T) {
	all := cells(methods, nil)
	if !*full {
		all = cells([]string{"GET", "POST"}, func(c cell) bool { return !c.fault.mild && c.at != during })
	}
	require.NotEmpty(t, all)
	parallel := 12 * runtime.GOMAXPROCS(0)
	if *full {
		parallel = 4 * runtime.GOMAXPROCS(0)
	}
	results := runMatrix(all, parallel)
	if testing.Verbose() {
		writeMatrix(os.Stdout, results)
		writeDigest(os.Stdout, results)
	}
	for _, r := range results {
		assert.Empty(t, r.wrong, "%v", r.cell)
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
	callers, timeout, healthy := 200, time.Second, 300*time.Millisecond
	if *full {
		callers, timeout, healthy = 2000, 10*time.Second, 3*time.Second
	}
	var results []loadResult
	for _, o := range outages {
		for _, h2 := range []bool{false, true} {
			if !*full && (h2 != (o.name == "reset after apply") || o.name == "refused" || o.name == "503") {
				continue
			}
			r := load{callers: callers, h2: h2, outage: o, healthy: healthy, timeout: timeout}.run()
			results = append(results, r)
			assert.Zero(t, r.avoidable, "%s: %q", o.name, r.samples)
			assert.Zero(t, r.doubled, o.name)
			assert.Equal(t, 2, r.switches, o.name)
			assert.Equal(t, 2, r.decisions, "%s: a switch each way and no other decision", o.name)
			assert.LessOrEqual(t, r.storm, 2*int64(callers), "%s: connections to the alternate", o.name)
			assert.Zero(t, r.conns, o.name)
			assert.Zero(t, r.goroutines, o.name)
			assert.Less(t, r.heapPeak, r.heapBefore+uint64(callers)<<20, "%s: a MiB for each caller, both ends of its connections included", o.name)
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
		wg.Go(func() { results[i] = c.run() })
		if *full {
			wg.Wait() // for figures, one after the other
		}
	}
	wg.Wait()
	for _, r := range results {
		if r.contest.peer.name == "failover" {
			assert.Zero(t, r.doubled, r.contest.outage.name)
			assert.Positive(t, r.out.calls-r.out.failures, r.contest.outage.name)
		}
	}
	if testing.Verbose() {
		writePeers(os.Stdout, results)
	}
}

// Not parallel: it watches the memory of the process.
func TestSoak(t *testing.T) {
	k := soak{callers: 20, duration: 5 * time.Second, calm: 500 * time.Millisecond, storm: time.Second}
	if *full {
		k = soak{callers: 50, duration: 10 * time.Minute, calm: 3 * time.Second, storm: 5 * time.Second}
	}
	r := k.run()
	if testing.Verbose() {
		writeSoak(os.Stdout, r)
		t.Logf("%q", r.load.samples)
	}
	assert.False(t, r.grows(), "from %v to %v", r.first, r.last)
	assert.True(t, r.endedWell)
	assert.Zero(t, r.load.doubled)
	assert.Zero(t, r.load.avoidable, "%q", r.load.samples)
	assert.Zero(t, r.load.conns)
	assert.Zero(t, r.load.goroutines)
}
