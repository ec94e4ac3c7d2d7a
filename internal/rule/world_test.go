package rule

import (
	"fmt"
	"time"
)

// The test plays the rule's world. From every state that can be reached, it takes every step
// that any world could take, with time in small units, and checks what must hold. A question,
// a confirmation and a round of probes take time, so each of their ends is a step of its own:
// others may come before it, and it may come too late, after something has overtaken it.

var small = Limits{Damping: 3, FenceDamping: 1, MaxSwitches: 2, MinDwell: 1, Keep: 3, Fresh: 1, ProvisionalPause: 1}

// hold is how long a question that changed nothing is held.
const hold = 1

// A world is a rule, with what is in progress around it.
type world struct {
	r   Rule
	now time.Time
	// proposed: the current question has led to a proposal, which waits for ConfirmSwitch;
	// weak says whether on weak evidence.
	proposed, weak bool
	ghost          []time.Time // the automatic switches that the latch must bound, since a person last cleared it
}

// remember adds an automatic switch to those that the latch must bound. Worlds share the
// slice, so it is copied.
func (w *world) remember() {
	last := w.ghost[max(0, len(w.ghost)-w.r.MaxSwitches):]
	w.ghost = append(append(make([]time.Time, 0, len(last)+1), last...), w.now)
}

// age is how long ago t was, as far as that matters.
func (w *world) age(t time.Time) byte { return byte(min(w.now.Sub(t), 2*w.r.Damping)) }

// left is how long it is until t.
func (w *world) left(t time.Time) byte { return byte(max(t.Sub(w.now), 0)) }

func bits(list ...bool) (x byte) {
	for i, v := range list {
		if v {
			x |= 1 << i
		}
	}
	return x
}

// A key is the same for worlds that behave in the same way. The findings of an early question
// are left out, because no step of the rule depends on them.
type key [24]byte

func (w *world) key() (k key) {
	r := &w.r
	k[0] = bits(r.Active == Alternate, r.Pinned, r.Down, r.Provisional, r.Closed)
	if r.Closed {
		return k // nothing else matters after Close
	}
	k[1] = bits(r.asking, w.proposed, w.proposed && w.weak, r.asking && r.evidence.Decides)
	if r.asking {
		k[2] = byte(r.evidence.Kinds)
	}
	if k[3] = w.left(r.heldUntil); k[3] > 0 {
		k[4] = byte(r.heldBy)
	}
	k[5] = w.left(r.quietTill)
	if n := len(r.switches); n == 0 {
		k[6] = min(w.age(r.Since), byte(r.MinDwell))
	} else if k[6] = 0xff; w.age(r.switches[n-1]) < byte(r.Damping) {
		k[7] = byte(n)
		for i, m := range r.switches {
			k[8+i] = w.age(m)
		}
	}
	i := 8 + r.Keep
	for _, m := range w.ghost {
		if w.now.Sub(m) < r.Damping {
			k[i], i = 1+w.age(m), i+1
		}
	}
	return k
}

// complain returns what if wrong is set.
func complain(wrong bool, what string) string {
	if wrong {
		return what
	}
	return ""
}

// asks reports whether evidence seen now leads to a question.
func (w world) asks(e Evidence) bool { return w.r.See(w.now, w.r.Epoch, e) == Ask }

// mayAsk reports whether a question may begin, apart from holds.
func (w *world) mayAsk() bool {
	return !w.r.Closed && !w.r.Down && !w.r.Pinned && !w.r.asking
}

// window is how long switches count.
func (w *world) window(definite bool) time.Duration {
	if definite {
		return w.r.FenceDamping
	}
	return w.r.Damping
}

// sound says what is wrong with a state, however it was reached.
func (w *world) sound() string {
	r := &w.r
	long := w.now.Add(100 * r.Damping)
	automatic := r.MaySwitch(long, r.View, 0) == nil
	home := r.MayReturn(long, r.View, true)
	switch {
	case automatic != !(r.Closed || r.Pinned || r.Single):
		return "a switch that may not be, or none for good"
	case home != (!r.Closed && !r.Pinned && !r.Down && !r.Manual && r.Active == Alternate):
		return "a way home that may not be taken, or none for good"
	case r.Pinned && (r.Down || r.Provisional || r.asking):
		return "pinned, and down, provisional or asked about"
	case r.Closed && r.asking:
		return "a question after Close"
	case r.Single && (r.Active != Primary || r.Provisional):
		return "a second address where there is one"
	case r.NeedsWatch(false) != (!r.Closed && (r.Down || r.Provisional)):
		return "nobody looks for a way out, or for no reason"
	case r.NeedsWatch(true) != (!r.Closed && (r.Down || r.Provisional || r.Active == Alternate || r.Pinned)):
		return "nobody looks for the way home, or for no reason"
	case len(r.switches) > r.Keep || len(r.switches) > 0 && r.switches[len(r.switches)-1].Sub(r.switches[0]) >= r.Damping:
		return "switches are remembered for ever"
	}
	return ""
}

// check says what is wrong with a step from a to b, whatever step it is.
func check(a, b *world, s *step) string {
	switched := a.r.Active != b.r.Active
	switch {
	case switched != (b.r.Generation == a.r.Generation+1) || !switched && a.r.Generation != b.r.Generation:
		return "the generation does not count the switches"
	case switched && !b.r.Since.Equal(b.now) || !switched && !b.r.Since.Equal(a.r.Since):
		return "since when is not that of the last switch"
	case b.r.Epoch < a.r.Epoch || b.r.Epoch > a.r.Epoch+1 || switched && b.r.Epoch == a.r.Epoch:
		return "a switch is no judgement, or a step is more than one"
	case a.r.Down && !b.r.Down && b.r.Epoch == a.r.Epoch && !b.r.Pinned:
		return "the end of an outage is no judgement"
	case switched && b.r.Down:
		return "a switch to what is down"
	case switched && !b.r.Pinned && !(b.asks(Evidence{Kinds: Answered, Decides: true}) && b.asks(Evidence{Kinds: Answered})):
		return "what was held before a switch still is"
	case switched && a.r.Pinned && !s.hand:
		return "an automatic switch while pinned"
	case a.r.Closed && a.r.View != b.r.View:
		return "something happens after Close"
	case b.r.asking && b.r.question == a.r.question && b.r.Epoch != a.r.Epoch:
		return "a question survives a judgement"
	}
	if wrong := b.sound(); wrong != "" {
		return wrong
	}
	n := 0
	for _, m := range b.ghost {
		if b.now.Sub(m) < b.r.Damping {
			n++
		}
	}
	if n > b.r.MaxSwitches {
		return fmt.Sprintf("%d automatic switches within the time that allows %d", n, b.r.MaxSwitches)
	}
	return ""
}
