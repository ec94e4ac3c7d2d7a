package chaos

import (
	"flag"
	"os"
	"runtime"
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
	results := runMatrix(all, 8*runtime.GOMAXPROCS(0))
	if testing.Verbose() {
		writeMatrix(os.Stdout, results)
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
	callers, timeout := 200, 2*time.Second
	if *full {
		callers, timeout = 2000, 10*time.Second
	}
	var results []loadResult
	for _, o := range outages {
		for _, h2 := range []bool{false, true} {
			if !*full && h2 != (o.name == "refused" || o.name == "reset after apply") {
				continue
			}
			r := load{callers: callers, h2: h2, outage: o, healthy: time.Second, timeout: timeout}.run()
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
