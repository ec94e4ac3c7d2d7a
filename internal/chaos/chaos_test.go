package chaos

import (
	"flag"
	"os"
	"runtime"
	"testing"

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
