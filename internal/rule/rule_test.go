package rule

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// The test is the rule's world: it takes every step that any world could make from
// every state that can be reached, with time in small units, and checks what must
// hold of each. A question, a confirmation and the probes of a watch take time, so
// that each of their ends is a step of its own, which others may come before; each
// of them may also come too late, after something else has overtaken it.

var small = Limits{Damping: 3, FenceDamping: 1, MaxMoves: 2, MinDwell: 1, Keep: 3, Fresh: 1, TrialPause: 1}

// hold is for how long the world has a question that changed nothing held.
const hold = 1

// world is a rule, and who waits for what.
type world struct {
	r   Rule
	now time.Time
	// proposed: the question under way has led to a proposal, which ConfirmSwitch
	// thinks about, on weak evidence or not.
	proposed, weak bool
	ghost          []time.Time // automatic moves that the latch is to bound, since a hand has cleared them
}

// remember adds an automatic move to those that the latch is to bound. Worlds share
// what they remember, so it is copied.
func (w *world) remember() {
	last := w.ghost[max(0, len(w.ghost)-w.r.MaxMoves):]
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

// key tells worlds apart that behave differently. What an early question has found is
// left out: no step of the rule goes by it.
type key [24]byte

func (w *world) key() (k key) {
	r := &w.r
	k[0] = bits(r.Active == Alternate, r.Pinned, r.Down, r.Provisional, r.Closed)
	if r.Closed {
		return k // nothing else matters any more
	}
	k[1] = bits(r.asking, w.proposed, w.proposed && w.weak, r.asking && r.evidence.Decides)
	if r.asking {
		k[2] = byte(r.evidence.Kinds)
	}
	if k[3] = w.left(r.heldUntil); k[3] > 0 {
		k[4] = byte(r.heldBy)
	}
	k[5] = w.left(r.quietTill)
	if n := len(r.moves); n == 0 {
		k[6] = min(w.age(r.Since), byte(r.MinDwell))
	} else if k[6] = 0xff; w.age(r.moves[n-1]) < byte(r.Damping) {
		k[7] = byte(n)
		for i, m := range r.moves {
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

// step is something that can happen. It returns what is wrong with what came of it,
// "" if nothing is, and false if it cannot happen here.
type step struct {
	name string
	hand bool
	do   func(w *world) (wrong string, ok bool)
}

// complain returns what is wrong, if it is.
func complain(wrong bool, what string) string {
	if wrong {
		return what
	}
	return ""
}

// asks reports whether evidence seen now leads to a question.
func (w world) asks(e Evidence) bool { return w.r.See(w.now, w.r.Epoch, e) == Ask }

// mayAsk reports whether a question may be begun, if nothing is held.
func (w *world) mayAsk() bool {
	return !w.r.Closed && !w.r.Down && !w.r.Pinned && !w.r.asking
}

var (
	kinds    = []Kind{Answered, Slow, Fenced}
	outcomes = []Outcome{Inconclusive, Passed, PassedWeakly, Failed}
)

// finds lists what probes can find.
func finds() (list []Findings) {
	for _, active := range outcomes {
		for _, other := range outcomes {
			f := Findings{Active: active, Other: other, Reached: active != Failed}
			list = append(list, f)
			switch active {
			case Passed:
				alive, moved := f, f
				alive.Alive, moved.Moved = true, true
				late := f
				late.Other = Pending // which another kind of evidence makes necessary, after all
				list = append(list, alive, moved, late)
			case PassedWeakly:
				f.Moved = true
				list = append(list, f)
			case Inconclusive: // this machine is in trouble
				f.Reached = false
				list = append(list, f)
				f.Alive, f.Moved = false, true
				list = append(list, f)
			}
		}
	}
	return list
}

func allSteps() []step {
	all := []step{
		{"a unit of time passes", false, passed},
		{"Unpin", true, func(w *world) (string, bool) {
			w.r.Unpin()
			w.ghost = nil
			return complain(w.r.Pinned && !w.r.Closed || len(w.r.moves) > 0, "pinned for ever, or latched after a hand has cleared that"), true
		}},
		{"Close", true, func(w *world) (string, bool) {
			w.r.Close()
			return complain(!w.r.Closed || w.r.asking, "open after Close"), true
		}},
		{"the move is confirmed", false, confirmed},
		{"the move is vetoed", false, func(w *world) (string, bool) {
			if !w.proposed {
				return "", false
			}
			w.r.Refuse(w.now, w.r.question, hold)
			w.proposed = false
			if w.r.asking {
				return "a vetoed question never ends", true
			}
			return "", true
		}},
		{"something that was overtaken ends", false, overtaken},
		{"the watch finds the primary risen", false, returned},
		{"the watch finds that the side left passes", false, takenBack},
	}
	for _, e := range []Side{Primary, Alternate} {
		all = append(all,
			step{fmt.Sprint("Pin ", e), true, func(w *world) (string, bool) { return pinned(w, e), true }},
			step{fmt.Sprint("Switch ", e), true, func(w *world) (string, bool) { return switched(w, e), true }})
	}
	for old := range uint64(2) {
		for _, kind := range kinds {
			for _, decides := range []bool{false, true} {
				if kind == Fenced && !decides || kind == Slow && !decides {
					continue
				}
				e := Evidence{Kinds: kind, Decides: decides}
				all = append(all, step{fmt.Sprintf("evidence %+v, %d epochs old", e, old), false, func(w *world) (string, bool) { return seen(w, old, e) }})
			}
		}
		all = append(all, step{fmt.Sprintf("a healthy answer, %d epochs old", old), false, func(w *world) (string, bool) { return healthy(w, old) }})
	}
	for _, f := range finds() {
		all = append(all,
			step{fmt.Sprintf("the question finds %+v", f), false, func(w *world) (string, bool) { return concluded(w, f) }},
			step{fmt.Sprintf("the watch finds %+v", f), false, func(w *world) (string, bool) { return recovered(w, f) }})
	}
	return all
}

// seen: a fault or a suspicion of a request that was sent some epochs ago.
func seen(w *world, old uint64, e Evidence) (string, bool) {
	if w.r.Epoch < old || w.r.Single && w.r.Closed {
		return "", false
	}
	before := w.r
	before.moves = nil
	switch answer := w.r.See(w.now, w.r.Epoch-old, e); {
	case answer != Ignore && old > 0:
		return "evidence from before a judgement counts", true
	case answer == Ask && (before.Down || before.Pinned || before.Closed):
		return "a question is begun that nothing may come of", true
	case answer == Ask && before.asking:
		return "two questions at the same time", true
	case answer == Ask && w.now.Before(before.heldUntil) && e.Kinds == before.heldBy:
		return "a storm of faults becomes a storm of questions", true
	case answer == Ask && !e.Decides && w.now.Before(before.quietTill):
		return "a storm of early questions", true
	case answer == Ignore && old == 0 && e.Decides && e.Kinds&before.heldBy == 0 && !before.Down && !before.Pinned && !before.Closed:
		return "evidence of another kind is held", true
	case answer == Ignore && old == 0 && !w.now.Before(before.heldUntil) && (e.Decides || !w.now.Before(before.quietTill)) && !before.Down && !before.Pinned && !before.Closed:
		return "evidence is ignored without a reason", true
	case answer == Join && e.Decides && !w.r.evidence.Decides, answer == Join && e.Kinds&^w.r.evidence.Kinds != 0:
		return "evidence that joins a question is lost", true
	case answer == Join && w.r.evidence.Decides != (before.evidence.Decides || e.Decides):
		return "a question decides by nothing, or does not decide any more", true
	case answer == Ask && w.r.question == before.question:
		return "a question cannot be told from one that it has overtaken", true
	case answer == Ask && w.r.evidence != e:
		return "a question goes by what has led to another", true
	case answer == Ask && !w.r.asking:
		return "a question that is not begun", true
	}
	return "", true
}

// concluded: the probes of a question have ended.
func concluded(w *world, f Findings) (string, bool) {
	if !w.r.asking || w.proposed {
		return "", false
	}
	before := w.r
	v, renewed := w.r.Conclude(w.now, w.r.question, f, hold)
	decides, definite := before.evidence.Decides || f.Moved && f.Active == Passed, before.evidence.Kinds&Fenced != 0
	passes := f.Other == Passed && (definite || f.Active == Failed) || f.Other == PassedWeakly && f.Active == Failed
	switch {
	case v != Move && w.r.asking:
		return "a question never ends", true
	case renewed != (w.r.Epoch != before.Epoch):
		return "a renewal is not told", true
	case !decides && (v != Undecided || w.r.View != before.View):
		return "an early question decides", true
	case !decides:
		kept, ok := w.r.Kept(w.now)
		if moves := Judge(false, f) == Move; moves && !(ok && kept == f) || !moves && w.r.keptAt != before.keptAt {
			return "an early question that says move is lost, or another one is kept", true
		}
		if w.asks(Evidence{Kinds: before.evidence.Kinds}) {
			return "an early question is asked again at once", true
		}
		moved := w.r
		moved.MoveTo(w.now, w.r.Active.Other(), false)
		if _, ok := moved.Kept(w.now); ok {
			return "what was found before a judgement is kept", true
		}
	case v == Undecided:
		return "a question that decides has no verdict", true
	case (v == Move) != passes:
		return "the other side's answer is not the arbiter", true
	case (v == GoDown) != (!passes && f.Active == Failed), v == GoDown != (w.r.Down && !before.Down):
		return "down without two sides that fail, or not down with them", true
	case v == Stay && w.r.Epoch == before.Epoch && f.Reached && !(before.evidence.Kinds == Slow && f.Alive):
		return "a judgement is not followed by a renewal", true
	case v == Stay && w.r.Epoch != before.Epoch && before.evidence.Kinds == Slow && f.Alive:
		return "a slow call takes the connections of others", true
	case v == Stay && w.r.Epoch != before.Epoch && !f.Reached:
		return "a renewal although no new connection was answered", true
	case v == Stay && before.evidence.Kinds == Slow && w.r.heldUntil != before.heldUntil:
		return "a slow request holds the questions of others", true
	case v == Stay && before.evidence.Kinds != Slow && w.r.See(w.now, w.r.Epoch, Evidence{Kinds: before.evidence.Kinds, Decides: true}) != Ignore:
		return "a false alarm is not held", true
	}
	if v == Move {
		if w.r.MayMove(w.now, w.r.View, w.memory(definite)) != nil {
			w.r.Refuse(w.now, w.r.question, hold)
			return "", true
		}
		w.proposed, w.weak = true, f.Other == PassedWeakly
	}
	return "", true
}

// memory is how long moves count.
func (w *world) memory(definite bool) time.Duration {
	if definite {
		return w.r.FenceDamping
	}
	return w.r.Damping
}

// confirmed: ConfirmSwitch agrees.
func confirmed(w *world) (string, bool) {
	if !w.proposed {
		return "", false
	}
	w.proposed = false
	q, e := w.r.Question()
	memory := w.memory(e.Kinds&Fenced != 0)
	if w.r.Memory(e.Definite()) != memory {
		return "other moves count than those that should", true
	}
	if w.r.MayMove(w.now, w.r.View, memory) != nil {
		w.r.Refuse(w.now, q, hold)
		return "", true
	}
	w.r.MoveTo(w.now, w.r.Active.Other(), w.weak)
	if memory != w.r.FenceDamping {
		w.remember()
	}
	if w.r.Provisional != w.weak {
		return "a move on weak evidence is not provisional, or another one is", true
	}
	return "", true
}

// overtaken: a question, a watch or a proposal ends that something else came before.
func overtaken(w *world) (string, bool) {
	late := w.r.View
	late.Epoch--
	flipped := w.r.View
	flipped.Down = !flipped.Down
	all := Findings{Active: Failed, Other: Passed}
	home := Findings{Active: Passed, Other: Passed, Reached: true}
	before := w.r
	for _, f := range []Findings{all, home} {
		if v, renewed := w.r.Conclude(w.now, w.r.question-1, f, hold); v != Undecided || renewed {
			return "a question that was overtaken has a say", true
		}
		if !w.r.asking {
			if v, renewed := w.r.Conclude(w.now, w.r.question, f, hold); v != Undecided || renewed {
				return "a question that has ended has a say", true
			}
		}
		if w.r.Recover(late, f) != Undecided || (!w.r.Down || w.r.Closed) && w.r.Recover(w.r.View, f) != Undecided {
			return "a watch that was overtaken has a say", true
		}
	}
	w.r.Refuse(w.now, w.r.question-1, hold)
	if !w.r.asking {
		w.r.Refuse(w.now, w.r.question, hold)
	}
	switch {
	case w.r.View != before.View || w.r.asking != before.asking || w.r.heldUntil != before.heldUntil || w.r.keptAt != before.keptAt:
		return "what was overtaken changes something", true
	case w.r.MayMove(w.now, late, 0) == nil || w.r.MayMove(w.now, flipped, 0) == nil:
		return "a proposal from before a change moves", true
	case w.r.MayReturn(w.now, late, true) || w.r.MayTakeBack(late):
		return "a return from before a change", true
	}
	return "", true
}

// recovered: the probes of a watch have ended while down.
func recovered(w *world, f Findings) (string, bool) {
	if !w.r.Down || w.r.Closed {
		return "", false
	}
	before := w.r
	v := w.r.Recover(w.r.View, f)
	switch {
	case v != Stay && v != Move && v != GoDown:
		return "the watch has no say", true
	case (v == Move) != (f.Active == Failed && (f.Other == Passed || f.Other == PassedWeakly)):
		return "a way out is not taken, or another one is", true
	case v == Stay && (w.r.Down || w.r.Epoch == before.Epoch):
		return "the end of an outage is not followed by a renewal", true
	case v == Stay && !f.Reached:
		return "up without an answer", true
	case f.Active == Passed && w.r.Down:
		return "down although the active side passes", true
	case f.Active == PassedWeakly && w.r.Down && v != Move:
		return "weak evidence is not enough to come back from down", true
	case v != Move || before.Single:
		return "", true
	}
	if err := w.r.MayMove(w.now, w.r.View, 0); err != nil {
		return "nothing may leave a side that is down: " + err.Error(), true
	}
	w.r.MoveTo(w.now, w.r.Active.Other(), f.Other == PassedWeakly)
	return "", true
}

// returned: the primary has risen.
func returned(w *world) (string, bool) {
	at := w.r.View
	if !w.r.MayReturn(w.now, at, true) || w.r.MayMove(w.now, at, w.r.Damping) != nil {
		return "", false
	}
	switch {
	case w.r.MayReturn(w.now, at, false):
		return "back although the primary has not risen", true
	case w.now.Before(w.r.Since.Add(w.r.MinDwell)):
		return "back before the dwell is over", true
	case w.r.Manual:
		return "back although people are to say when", true
	}
	w.r.MoveTo(w.now, Primary, false)
	w.remember()
	return "", true
}

// takenBack: the side that was left on weak evidence passes.
func takenBack(w *world) (string, bool) {
	stands := w.r.Provisional && !w.r.Closed && !w.r.Down
	may := w.r.MayTakeBack(w.r.View)
	switch {
	case stands != may:
		return "a provisional move that cannot be taken back, or another one that can", true
	case !may:
		return "", true
	case w.r.MayMove(w.now, w.r.View, 0) != nil:
		return "latch or dwell keep a provisional move", true
	}
	before, trial := len(w.r.Moves()), w.r.Since
	latched := w.r.TakeBack(w.now)
	if n := len(w.ghost); n > 0 && w.ghost[n-1].Equal(trial) {
		w.ghost = w.ghost[:n-1]
	}
	switch {
	case latched, len(w.r.Moves()) > before:
		return "a trial counts towards the latch", true
	case w.r.Weigh(w.now, PassedWeakly) != Inconclusive || w.r.Weigh(w.now, Passed) != Passed:
		return "weak evidence leads to one trial after the other, or proof is held back", true
	case w.r.Weigh(w.now.Add(w.r.Damping+1), PassedWeakly) != PassedWeakly:
		return "weak evidence is worth nothing for ever", true
	}
	return "", true
}

// healthy: an answer to a request that was sent some epochs ago.
func healthy(w *world, old uint64) (string, bool) {
	if w.r.Epoch < old {
		return "", false
	}
	before := w.r
	up, confirmed := w.r.Healthy(w.now, w.r.Epoch-old, hold)
	switch {
	case (old > 0 || before.Closed) && (up || confirmed || w.r.View != before.View):
		return "an answer from before a judgement counts", true
	case old > 0 || before.Closed:
	case w.r.Down || w.r.Provisional:
		return "a healthy answer is no proof of life", true
	case up != before.Down || confirmed != before.Provisional:
		return "what a healthy answer has ended is not told", true
	case up && w.asks(Evidence{Kinds: Answered, Decides: true}):
		return "a brown-out becomes a storm of questions", true
	case up && !(w.asks(Evidence{Kinds: Fenced, Decides: true}) && w.asks(Evidence{Kinds: Slow, Decides: true})):
		return "a fence or a black hole after a brown-out is held", true
	case up != (w.r.Epoch != before.Epoch):
		return "the end of an outage is no judgement, or another answer is", true
	}
	return "", true
}

// passed: time has.
func passed(w *world) (string, bool) {
	held, quiet := w.now.Before(w.r.heldUntil), w.now.Before(w.r.quietTill)
	w.now = w.now.Add(1)
	switch {
	case !w.mayAsk():
	case held && !w.now.Before(w.r.heldUntil) && !w.asks(Evidence{Kinds: w.r.heldBy, Decides: true}):
		return "a hold never ends", true
	case quiet && !w.now.Before(w.r.quietTill) && !w.now.Before(w.r.heldUntil) && !w.asks(Evidence{Kinds: Answered}):
		return "no early question any more", true
	}
	return "", true
}

func pinned(w *world, to Side) string {
	before := w.r
	moved := w.r.Pin(w.now, to)
	switch {
	case before.Closed || before.Single && to == Alternate:
		return complain(w.r.View != before.View || moved, "a pin to what there is not")
	case moved != (before.Active != to):
		return "what a pin has done is not told"
	case !w.r.Pinned || w.r.Active != to || w.r.asking:
		return "not pinned, or a question goes on"
	}
	return ""
}

func switched(w *world, to Side) string {
	before := w.r
	moved, up := w.r.Switch(w.now, to)
	switch {
	case before.Closed || before.Single && to == Alternate:
		return complain(w.r.View != before.View || moved || up, "a switch to what there is not")
	case w.r.Active != to || w.r.Down || w.r.Provisional:
		return "a hand does not get what it wants"
	case moved != (before.Active != to) || up != (!moved && before.Down):
		return "what a hand has done is not told"
	case !w.r.Pinned && !w.r.asking && w.r.MayMove(w.now, w.r.View, w.r.Damping) == ErrLatched:
		return "latched after a hand has cleared that"
	}
	w.ghost = nil
	return ""
}

// sound says what is wrong with a state, however it has come about.
func (w *world) sound() string {
	r := &w.r
	long := w.now.Add(100 * r.Damping)
	automatic := r.MayMove(long, r.View, 0) == nil
	home := r.MayReturn(long, r.View, true)
	switch {
	case automatic != !(r.Closed || r.Pinned || r.Single):
		return "a move that may not be, or none for good"
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
	case len(r.moves) > r.Keep || len(r.moves) > 0 && r.moves[len(r.moves)-1].Sub(r.moves[0]) >= r.Damping:
		return "moves are remembered for ever"
	}
	return ""
}

// check says what is wrong with a step from a to b, whatever it was.
func check(a, b *world, s *step) string {
	moved := a.r.Active != b.r.Active
	switch {
	case moved != (b.r.Generation == a.r.Generation+1) || !moved && a.r.Generation != b.r.Generation:
		return "the generation does not count the moves"
	case moved && !b.r.Since.Equal(b.now) || !moved && !b.r.Since.Equal(a.r.Since):
		return "since when is not that of the last move"
	case b.r.Epoch < a.r.Epoch || b.r.Epoch > a.r.Epoch+1 || moved && b.r.Epoch == a.r.Epoch:
		return "a move is no judgement, or a step is more than one"
	case a.r.Down && !b.r.Down && b.r.Epoch == a.r.Epoch && !b.r.Pinned:
		return "the end of an outage is no judgement"
	case moved && b.r.Down:
		return "a move to what is down"
	case moved && !b.r.Pinned && !(b.asks(Evidence{Kinds: Answered, Decides: true}) && b.asks(Evidence{Kinds: Answered})):
		return "what was held before a move still is"
	case moved && a.r.Pinned && !s.hand:
		return "an automatic move while pinned"
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
	if n > b.r.MaxMoves {
		return fmt.Sprintf("%d automatic moves within the time that allows %d", n, b.r.MaxMoves)
	}
	return ""
}

// TestHold: what is held, for how long, and what is not.
func TestHold(t *testing.T) {
	t.Parallel()
	refuse := func(r *Rule, at int64, k Kind, hold time.Duration) {
		t.Helper()
		if r.See(time.Unix(at, 0), 0, Evidence{Kinds: k, Decides: true}) != Ask {
			t.Fatalf("evidence %v at %d is held", k, at)
		}
		r.Refuse(time.Unix(at, 0), r.question, hold)
	}
	asks := func(r Rule, at int64, k Kind) bool {
		return r.See(time.Unix(at, 0), 0, Evidence{Kinds: k, Decides: true}) == Ask
	}
	var r Rule
	refuse(&r, 0, Answered, 4*time.Second)
	if asks(r, 3, Answered) || !asks(r, 4, Answered) {
		t.Error("a hold does not last for its time")
	}
	refuse(&r, 1, Unreachable, 4*time.Second)
	if asks(r, 2, Answered) || asks(r, 2, Unreachable) || asks(r, 2, Answered|Unreachable) || !asks(r, 2, Fenced|Answered) {
		t.Error("a second hold is not about both kinds of evidence, or about more")
	}
	refuse(&r, 9, Answered, 4*time.Second)
	if !asks(r, 10, Unreachable) {
		t.Error("a hold that is over has become part of another")
	}
	refuse(&r, 10, Slow, 100*time.Second)
	if asks(r, 12, Answered) || !asks(r, 13, Answered) || !asks(r, 11, Slow) {
		t.Error("a slow request has changed what is held")
	}
}

// TestFindingsAreFreshForAWhile: what an early question has found need not be asked
// again within that time.
func TestFindingsAreFreshForAWhile(t *testing.T) {
	t.Parallel()
	r := Rule{Limits: Limits{Fresh: 2 * time.Second}}
	if _, ok := r.Kept(time.Unix(0, 0)); ok {
		t.Error("findings before any question")
	}
	r.See(time.Unix(0, 0), 0, Evidence{Kinds: Answered})
	r.Conclude(time.Unix(0, 0), r.question, Findings{Active: Failed, Other: Passed}, time.Second)
	for at, want := range []bool{true, true, false, false} {
		if f, ok := r.Kept(time.Unix(int64(at), 0)); ok != want || ok && f.Active != Failed {
			t.Errorf("after %d s: %v, %+v", at, ok, f)
		}
	}
}

// TestDwellAndLatch: what a history of moves means, in hours and minutes.
func TestDwellAndLatch(t *testing.T) {
	t.Parallel()
	limits := Limits{MinDwell: 10 * time.Minute, Damping: time.Hour, FenceDamping: time.Minute, MaxMoves: 4, Keep: 6}
	for _, row := range []struct {
		name    string
		minutes []int // of the moves, the last one at 0
		dwell   int
		latched bool
	}{
		{"one move", []int{0}, 10, false},
		{"the second within the hour", []int{-30, 0}, 20, false},
		{"the third", []int{-59, -30, 0}, 40, false},
		{"the hour is the most", []int{-59, -40, -30, 0}, 60, true},
		{"an hour ago is long ago", []int{-60, 0}, 10, false},
		{"and does not latch", []int{-60, -30, -20, 0}, 40, false},
	} {
		r := Rule{Limits: limits, View: View{Active: Alternate}}
		now := time.Unix(1e9, 0)
		latched := false
		var moves []time.Time
		for _, m := range row.minutes {
			moves = append(moves, now.Add(time.Duration(m)*time.Minute))
			latched = r.MoveTo(moves[len(moves)-1], Alternate, false)
		}
		home := now.Add(time.Duration(row.dwell) * time.Minute)
		if got := r.DwellUntil(); !got.Equal(home) {
			t.Errorf("%s: home after %v", row.name, got.Sub(now))
		}
		if r.MayReturn(home.Add(-1), r.View, true) || !r.MayReturn(home, r.View, true) {
			t.Errorf("%s: not home when the dwell is over", row.name)
		}
		if latched != row.latched || r.Latched(now) != row.latched || (r.MayMove(now, r.View, time.Hour) == ErrLatched) != row.latched {
			t.Errorf("%s: latched: %v", row.name, latched)
		}
		if r.MayMove(now, r.View, time.Minute) != nil {
			t.Errorf("%s: a fence moves nothing", row.name)
		}
		if again := r.MoveTo(now, Primary, false); row.latched && again {
			t.Errorf("%s: latched a second time", row.name)
		}
		fleet := Rule{Limits: limits, View: View{Active: Alternate, Since: now.Add(time.Hour)}}
		if got := fleet.Remember(now, moves); got != row.latched || fleet.Remember(now, fleet.moves) {
			t.Errorf("%s: latched by a fleet: %v", row.name, got)
		}
		if got := fleet.DwellUntil(); !got.Equal(home) {
			t.Errorf("%s: the fleet goes home after %v", row.name, got.Sub(now))
		}
	}
	for moves := range 3 {
		r := Rule{Limits: Limits{MinDwell: 2 * time.Hour, Damping: time.Hour, Keep: 9}}
		for range moves {
			r.MoveTo(time.Unix(1e9, 0), Alternate, false)
		}
		if r.DwellUntil() != r.Since.Add(2*time.Hour) {
			t.Error("MinDwell is shortened, or longer than it has to be")
		}
	}
}

// TestTrials: a move on weak evidence that is taken back leaves no trace but a pause, in
// minutes, before the next one.
func TestTrials(t *testing.T) {
	t.Parallel()
	r := Rule{Limits: Limits{Damping: 30 * time.Minute, MaxMoves: 3, Keep: 9, TrialPause: 5 * time.Minute}}
	now := time.Unix(1e9, 0)
	r.MoveTo(now, Alternate, false)
	r.MoveTo(now, Primary, false)
	for i, pause := range append([]time.Duration{5, 10, 20}, slices.Repeat([]time.Duration{30}, 99)...) {
		began := now.Add(time.Duration(i) * time.Second)
		r.MoveTo(began, Alternate, true)
		if r.TakeBack(began.Add(1)) || r.Active != Primary || r.Provisional || len(r.Moves()) != 2 || r.Latched(now) {
			t.Errorf("trial %d: %+v after it", i, r)
		}
		if pause *= time.Minute; r.Weigh(began.Add(pause), PassedWeakly) != Inconclusive || r.Weigh(began.Add(pause+1), PassedWeakly) != PassedWeakly {
			t.Errorf("trial %d: the next one is not tried after %v", i, pause)
		}
		if r.Weigh(began, Passed) != Passed || r.Weigh(began, Failed) != Failed {
			t.Error("a trial that has failed says something about what passes or fails")
		}
		r.Healthy(began, r.Epoch, 0) // of the side that was left and come back to: confirms nothing
	}
	r.MoveTo(now, Alternate, true)
	r.Healthy(now, r.Epoch, 0)
	r.MoveTo(now, Primary, false)
	r.MoveTo(now.Add(time.Second), Alternate, true)
	before := len(r.Moves())
	r.Remember(now, r.Moves()[:before-1]) // of a fleet that does not know the trial
	if r.TakeBack(now.Add(time.Second)); len(r.Moves()) != before-1 || r.Weigh(now.Add(5*time.Minute+time.Second), PassedWeakly) != PassedWeakly {
		t.Error("a trial that was confirmed counts, or the moves of a fleet do not")
	}
}

// TestMovesThatAreRemembered: they are few, the newest, and the rule's own.
func TestMovesThatAreRemembered(t *testing.T) {
	t.Parallel()
	r := Rule{Limits: Limits{Damping: time.Hour, Keep: 3}}
	theirs := make([]time.Time, 5)
	for i := range theirs {
		theirs[i] = time.Unix(int64(i), 0)
	}
	r.Remember(theirs[4], theirs)
	theirs[4] = time.Time{}
	if m := r.Moves(); len(m) != 3 || m[0] != time.Unix(2, 0) || m[2] != time.Unix(4, 0) {
		t.Error(m)
	}
	r.MoveTo(time.Unix(5, 0), Alternate, false)
	if m := r.Moves(); len(m) != 3 || m[0] != time.Unix(3, 0) || m[2] != time.Unix(5, 0) {
		t.Error(m)
	}
}

func TestEveryOrderOfEvents(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*Limits){
		"two addresses":   func(*Limits) {},
		"manual failback": func(l *Limits) { l.Manual = true },
		"one address":     func(l *Limits) { l.Single = true },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			limits := small
			change(&limits)
			explore(t, limits)
		})
	}
}

func explore(t *testing.T, limits Limits) {
	began := time.Unix(0, 0)
	start := world{r: Rule{Limits: limits, View: View{Since: began}}, now: began}
	type came struct{ from, by int32 }
	steps := allSteps()
	ids := map[key]int32{start.key(): 0}
	trail := []came{{-1, -1}}
	queue := []world{start}
	var auto, ends []int32 // what follows a state without a hand, and where the list of each state ends
	edges := 0
	var next world
	for from := int32(0); int(from) < len(queue); from++ {
		w := queue[from]
		for i := range steps {
			next = w
			wrong, ok := steps[i].do(&next)
			if !ok {
				continue
			}
			edges++
			if !next.r.asking || next.r.question != w.r.question {
				next.proposed = false // by a question that is no more
			}
			if wrong == "" {
				wrong = check(&w, &next, &steps[i])
			}
			if wrong != "" {
				story := "  " + steps[i].name
				for k := from; trail[k].by >= 0; k = trail[k].from {
					story = "  " + steps[trail[k].by].name + "\n" + story
				}
				t.Fatalf("%s:\n%s\nfrom %+v\nto   %+v", wrong, story, w.r, next.r)
			}
			key := next.key()
			id, known := ids[key]
			if !known {
				id = int32(len(queue))
				ids[key] = id
				trail = append(trail, came{from, int32(i)})
				queue = append(queue, next)
				if len(queue) == maxStates {
					t.Fatal("too many states")
				}
			}
			if !steps[i].hand && id != from {
				auto = append(auto, id)
			}
		}
		ends = append(ends, int32(len(auto)))
	}
	t.Logf("%d states, %d steps", len(queue), edges)

	// Whatever has happened, as long as nobody has closed or pinned it, the world can
	// bring the traffic to either side without a hand.
	for _, side := range []Side{Primary, Alternate} {
		if limits.Single && side == Alternate {
			continue
		}
		leads := make([]bool, len(queue))
		for more := true; more; {
			more = false
			for id := len(queue) - 1; id >= 0; id-- {
				if leads[id] {
					continue
				}
				first := int32(0)
				if id > 0 {
					first = ends[id-1]
				}
				leads[id] = queue[id].r.Active == side || slices.ContainsFunc(auto[first:ends[id]], func(next int32) bool { return leads[next] })
				more = more || leads[id]
			}
		}
		for id := range queue {
			if r := &queue[id].r; !leads[id] && !r.Closed && !r.Pinned {
				t.Fatalf("no way to side %d from %+v", side, *r)
			}
		}
	}
}

// maxStates is twice what the rule has.
const maxStates = 160_000
