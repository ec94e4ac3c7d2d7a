package chaos

import (
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestNeverWorse(t *testing.T) {
	t.Parallel()
	seeds, length, clients := 2, 5*time.Minute, contenders[:2]
	want := func(b brownOut) bool { return true }
	if *full {
		seeds, length, clients = 6, 10*time.Minute, contenders
	}
	all := brownOuts(length, want)
	results := make([]brownOutResult, len(all))
	var wg sync.WaitGroup
	places := make(chan struct{}, 2)
	for i, b := range all {
		wg.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			results[i] = b.measure(func(f func()) { synctest.Test(t, func(*testing.T) { f() }) }, seeds, clients)
		})
	}
	wg.Wait()
	if testing.Verbose() {
		writeBrownOuts(os.Stdout, results, clients)
	}
	for _, r := range results {
		assert.Empty(t, r.worse(), "%v", r.brownOut)
	}
}
