package failover

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
)

// Ten requests pay for one repeat, and up to ten repeats can be saved up.
func TestTheBudgetForRepeats(t *testing.T) {
	t.Parallel()
	var b budget
	takes := func() (n int) {
		for b.take() {
			n++
		}
		return n
	}
	assert.Zero(t, takes())
	b.fill()
	assert.Equal(t, 10, takes())
	for range 9 {
		b.deposit(1)
	}
	assert.Zero(t, takes())
	b.deposit(1)
	assert.Equal(t, 1, takes())
	for range 130 {
		b.deposit(1)
	}
	assert.Equal(t, int64(100), b.shares.Load())
	assert.Equal(t, 10, takes(), "no more than that is saved")
	b.giveBack()
	b.giveBack()
	assert.Equal(t, 2, takes())
	for range 12 {
		b.giveBack()
	}
	assert.Equal(t, 10, takes())
	b.shares.Store(maxShares - 1)
	b.giveBack()
	assert.Equal(t, int64(maxShares), b.shares.Load())
	b.shares.Store(sharesPerRepeat - 1)
	assert.False(t, b.take())
	assert.Equal(t, int64(sharesPerRepeat-1), b.shares.Load(), "a refusal costs nothing")
	b.giveBack()
	assert.Equal(t, int64(2*sharesPerRepeat-1), b.shares.Load())
}

// However many calls meet, they take no more than there is.
func TestTheBudgetIsNotOverdrawn(t *testing.T) {
	t.Parallel()
	var b budget
	b.fill()
	var taken atomic.Int64
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			for range 100 {
				if b.take() {
					taken.Add(1)
				}
			}
		})
	}
	wg.Wait()
	assert.EqualValues(t, maxShares/sharesPerRepeat, taken.Load())
	assert.Zero(t, b.shares.Load())
}
