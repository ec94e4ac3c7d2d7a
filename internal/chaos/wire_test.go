package chaos

import (
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

// Whatever a server does to the stream of a write, and whether it does so before or after
// carrying it out: the write is carried out at most once, and its caller is told the truth.
func TestNoStreamCarriesAWriteOutTwice(t *testing.T) {
	t.Parallel()
	all := wireCells()
	if !*full { // the part covers every break-off, shape and aftermath
		all = slices.DeleteFunc(all, func(c wireCell) bool { return c.warm == c.shape.body && c.then != dies })
	}
	ours, bare := make([]wireResult, len(all)), make([]wireResult, len(all))
	slots := make(chan struct{}, 16*runtime.GOMAXPROCS(0))
	var wg sync.WaitGroup
	for i, c := range all {
		slots <- struct{}{}
		wg.Go(func() {
			ours[i] = patiently(t, func(slower time.Duration) wireResult {
				r := c.play(true, slower)
				assert.Empty(t, r.untrue(), "%v", c)
				return r
			}, func(t assert.TestingT, r wireResult) { assert.Empty(t, r.wrong(), "%v", c) })
			if *full || i%10 == 0 {
				bare[i] = c.play(false, 1)
			}
			<-slots
		})
	}
	wg.Wait()
	var doubled, doubts, carriedOut, good, bareDoubled, bareGood int
	for i, r := range ours {
		doubled += count(r.applied > 1)
		doubts += count(r.inDoubt)
		carriedOut += count(r.inDoubt && r.applied == 1)
		good += count(r.good)
		bareDoubled += count(bare[i].applied > 1)
		bareGood += count(bare[i].good)
	}
	t.Logf("%d cells: %d answered, %d in doubt of which %d carried out, %d doubled; without a Transport: %d answered, %d doubled",
		len(all), good, doubts, carriedOut, doubled, bareGood, bareDoubled)
}
