package chaos

import (
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

// After a failover that keeps the address, the new place answers, no later request goes to the
// old one, whatever it still does, and the loss report lists the writes in its window. Not
// parallel: it measures times.
func TestMovedName(t *testing.T) {
	judgeMoves(t, movedCells())
}

// The same with a real front end before each place. Not parallel: it measures times.
func TestMovedNameBehindFrontEnds(t *testing.T) {
	for i := range fronts {
		f := &fronts[i]
		if f.recycle || !strings.HasPrefix(f.name, "nginx") && !strings.HasPrefix(f.name, "HAProxy") {
			continue
		}
		t.Run(f.name, func(t *testing.T) {
			if !f.installed() {
				t.Skipf("%s is not installed", f.program[0])
			}
			judgeMoves(t, frontCells(f))
		})
	}
}

func judgeMoves(t *testing.T, all []movedCell) {
	t.Helper()
	results := make([]movedResult, len(all))
	slots := make(chan struct{}, 8)
	var wg sync.WaitGroup
	for i, c := range all {
		slots <- struct{}{}
		wg.Go(func() {
			results[i] = patiently(t, func(slower time.Duration) movedResult {
				c.slower = slower
				return c.run()
			}, checkMove)
			<-slots
		})
	}
	wg.Wait()
	if testing.Verbose() {
		writeMoved(os.Stdout, results)
	}
	atRisk := 0
	for _, r := range results {
		atRisk += r.atRisk
		if r.cell.kind.exact {
			assert.Zero(t, r.old, "%v: requests to the old place", r.cell)
		}
	}
	assert.Positive(t, atRisk, "or the lists were not tested")
}

func checkMove(t assert.TestingT, r movedResult) {
	assert.Empty(t, r.wrong, "%v", r.cell)
	assert.Less(t, r.first, 10*time.Second, "%v: a probe interval", r.cell)
	assert.Positive(t, r.reports, "%v", r.cell)
	if r.cell.kind.exact {
		assert.Contains(t, r.reason, "127.0.0.1 before, 127.0.0.2 now", "%v", r.cell)
		assert.Equal(t, 1, r.reports, "%v", r.cell)
		assert.Zero(t, r.old, "%v: requests to the old place", r.cell)
		assert.Zero(t, r.failed, "%v", r.cell)
	}
}
