package failover

import (
	"sync/atomic"
	"time"
)

// RecentTime is what [Recent] looks back on: the current minute and the four
// before it.
const RecentTime = recentMinutes * time.Minute

const recentMinutes = 5

// Recent counts what became of the attempts at an endpoint within [RecentTime].
type Recent struct {
	// Succeeded are the attempts that got a healthy answer. At most one in a
	// millisecond is counted, so shares are exact for up to some hundred requests
	// a second and too high beyond that. An answer of [ClassApplication] is one.
	Succeeded int
	// Faults are the attempts that met a fault, by class. Classes without any are
	// left out.
	Faults map[Class]int
	// InDoubt are writes that were sent and got no definite answer.
	InDoubt int
	// RefusedSwitches is how often a switch away from the endpoint was called for
	// and refused.
	RefusedSwitches int
}

// recent is what an endpoint counts for its status.
type recent struct {
	succeeded recentCount
	made      atomic.Pointer[trouble] // nil as long as there was none
}

// trouble are the counts that an endpoint in good health has no use for.
type trouble struct {
	inDoubt, refused recentCount
	faults           [ClassLocal + 1]struct { // by class
		recent recentCount
		all    atomic.Uint64
	}
}

// trouble returns the counts, which it makes when they are first needed.
func (r *recent) trouble() *trouble {
	if r.made.Load() == nil {
		r.made.CompareAndSwap(nil, new(trouble))
	}
	return r.made.Load()
}

// fault counts a fault.
func (r *recent) fault(c Class) {
	n := &r.trouble().faults[min(c, ClassLocal)]
	n.all.Add(1)
	n.recent.add(time.Now())
}

// faults returns how many there were in all.
func (r *recent) faults() map[Class]uint64 {
	all := make(map[Class]uint64)
	if t := r.made.Load(); t != nil {
		for class := range t.faults {
			if n := t.faults[class].all.Load(); n > 0 {
				all[Class(class)] = n
			}
		}
	}
	return all
}

// status returns the recent counts at a time.
func (r *recent) status(now time.Time) Recent {
	s := Recent{Succeeded: r.succeeded.sum(now), Faults: make(map[Class]int)}
	t := r.made.Load()
	if t == nil {
		return s
	}
	s.InDoubt, s.RefusedSwitches = t.inDoubt.sum(now), t.refused.sum(now)
	for class := range t.faults {
		if n := t.faults[class].recent.sum(now); n > 0 {
			s.Faults[Class(class)] = n
		}
	}
	return s
}

// recentCount counts by the minute: a ring of words, each with the minute that it
// is about in the upper half and the number in the lower one. So a word that is
// out of date is replaced and counted up in one step, without a lock.
type recentCount [recentMinutes]atomic.Uint64

// minuteOf returns the minutes since 1970, which do for 8,000 years.
func minuteOf(t time.Time) uint64 { return uint64(t.Unix()/60) & (1<<32 - 1) }

func (c *recentCount) add(now time.Time) {
	minute := minuteOf(now)
	word := &c[minute%recentMinutes]
	for {
		old := word.Load()
		next := old + 1
		if old>>32 != minute {
			next = minute<<32 | 1
		} else if uint32(next) == 0 {
			return // full
		}
		if word.CompareAndSwap(old, next) {
			return
		}
	}
}

func (c *recentCount) sum(now time.Time) (n int) {
	minute := minuteOf(now)
	for i := range c {
		word := c[i].Load()
		if age := minute - word>>32; age < recentMinutes { // not of a time to come either
			n += int(uint32(word))
		}
	}
	return n
}
