package chaos

import (
	"flag"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var only = flag.String("only", "", "only the brown-outs whose name contains this")

// A program is never worse off with a Transport than without one.
func TestNeverWorse(t *testing.T) {
	t.Parallel()
	busy, seeds, clients := 90*time.Second, 1, contenders[:2]
	want := func(b brownOut) bool {
		return b.alternate != "fenced" && b.alternate != "429" && (b.load == "quiet" || slices.Contains([]float64{0.17, 0.7, 1}, b.rate))
	}
	if *full {
		busy, clients = 5*time.Minute, contenders
		want = func(brownOut) bool { return true }
	}
	all := brownOuts(busy, seeds, func(b brownOut) bool { return want(b) && strings.Contains(b.String(), *only) })
	require.NotEmpty(t, all)
	results := make([]brownOutResult, len(all))
	var wg sync.WaitGroup
	places := make(chan struct{}, runtime.GOMAXPROCS(0))
	for i, b := range all {
		places <- struct{}{}
		wg.Go(func() {
			defer func() { <-places }()
			results[i] = b.measure(func(f func()) { synctest.Test(t, func(*testing.T) { f() }) }, clients)
		})
	}
	wg.Wait()
	if testing.Verbose() {
		writeBrownOuts(os.Stdout, results)
		writeBrownOutDigest(os.Stdout, results, clients)
	}
	for _, r := range results {
		assert.Empty(t, r.wrong(), "%v", r.brownOut)
	}
}
