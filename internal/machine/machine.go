// Package machine makes tests independent of the machine on which they run. It keeps account of
// the time in which the machine keeps a test's process from running, because it is busy or has
// stalled. Tests of promises in real time leave that time out of their bounds. The account begins
// with the first call of a function that needs it, and is no use in a bubble of testing/synctest,
// whose time stands still while something runs.
package machine

import (
	"sync"
	"sync/atomic"
	"time"
)

const (
	period = 10 * time.Millisecond
	stall  = 300 * time.Millisecond // ends the patience of the most impatient parts of the core
)

// An account counts the ticks of a clock. Those that are due while the process does not run
// are dropped.
type account struct {
	begun         time.Time
	last          time.Time
	ticks, stalls atomic.Int64
}

var ours = sync.OnceValue(func() *account {
	a := &account{begun: time.Now(), last: time.Now()}
	ticker := time.NewTicker(period) // for as long as the process
	go func() {
		for range ticker.C {
			a.tick(time.Now())
		}
	}()
	return a
})

func (a *account) tick(now time.Time) {
	a.ticks.Add(1)
	if now.Sub(a.last) > stall {
		a.stalls.Add(1)
	}
	a.last = now
}

// withheld returns the time up to now in which there were no ticks.
func (a *account) withheld(now time.Time) time.Duration {
	return max(0, now.Sub(a.begun)-time.Duration(a.ticks.Load()+1)*period)
}

// Stopwatch starts to measure a time, and returns a function that returns it: taken is the time
// that has passed, and withheld how much of that the process was kept from running.
func Stopwatch() func() (taken, withheld time.Duration) {
	a, start := ours(), time.Now()
	before := a.withheld(start)
	return func() (taken, withheld time.Duration) {
		now := time.Now()
		return now.Sub(start), max(0, a.withheld(now)-before)
	}
}

// Stalls returns how often the process was kept from running for longer than 300 ms at a time.
func Stalls() int64 { return ours().stalls.Load() }

// Try calls f, and again for as long as it reports false and the process has stalled meanwhile.
// It returns what f has reported last.
func Try(f func() bool) bool {
	for {
		stalls := Stalls()
		if f() {
			return true
		}
		<-time.After(3 * period) // for the stall to be noticed
		if stalls == Stalls() {
			return false
		}
	}
}
