package rule

import (
	"fmt"
	"testing"
	"time"
)

// The test is the rule's world: it takes every step that any world could make from
// every state that can be reached, with time in small units, and checks what must
// hold of each. A question, a confirmation and the probes of a watch take time, so
// that each of their ends is a step of its own, which others may come before; each
// of them may also come too late, after something else has overtaken it.

var small = Limits{Damping: 3, FenceDamping: 1, MaxMoves: 2, MinDwell: 1, Keep: 3, Fresh: 1}

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

func (w world) clone() world {
	w.r.moves = append([]time.Time(nil), w.r.moves...)
	w.ghost = append([]time.Time(nil), w.ghost[max(0, len(w.ghost)-w.r.MaxMoves-1):]...)
	return w
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
func (w *world) key() string {
	r := &w.r
	head := bits(r.Active == Alternate, r.Pinned, r.Down, r.Provisional, r.Closed)
	if r.Closed {
		return string([]byte{head}) // nothing else matters any more
	}
	b := append(make([]byte, 0, 24), head, bits(r.asking, w.proposed, w.proposed && w.weak))
	if r.asking {
		b = append(b, byte(r.evidence.Kinds), bits(r.evidence.Decides))
	}
	held := w.left(r.heldUntil)
	b = append(b, 0xff, held, w.left(r.quietTill))
	if held > 0 {
		b = append(b, byte(r.heldBy))
	}
	b = append(b, 0xfd)
	if n := len(r.moves); n == 0 {
		b = append(b, min(w.age(r.Since), byte(r.MinDwell)))
	} else if w.age(r.moves[n-1]) < byte(r.Damping) {
		for _, m := range r.moves {
			b = append(b, w.age(m))
		}
	}
	b = append(b, 0xfc)
	for _, m := range w.ghost {
		if w.now.Sub(m) < r.Damping {
			b = append(b, w.age(m))
		}
	}
	return string(b)
}

// step is something that can happen. It returns what is wrong with what came of it,
// "" if nothing is, and false if it cannot happen here.
type step struct {
	name string
	hand bool
	do   func(w *world) (wrong string, ok bool)
}

// always makes a step of what can always happen.
func always(name string, hand bool, do func(*world)) step {
	return step{name, hand, func(w *world) (string, bool) { do(w); return "", true }}
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
			if active == Passed {
				f.Alive = true
				list = append(list, f)
			}
		}
	}
	return list
}

func allSteps() []step {
	all := []step{
		always("a unit of time passes", false, func(w *world) { w.now = w.now.Add(1) }),
		always("Unpin", true, func(w *world) { w.r.Unpin(); w.ghost = nil }),
		always("Close", true, func(w *world) { w.r.Close() }),
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
			always(fmt.Sprint("Pin ", e), true, func(w *world) { w.r.Pin(w.now, e) }),
			always(fmt.Sprint("Switch ", e), true, func(w *world) {
				if !w.r.Closed && !(w.r.Single && e == Alternate) {
					w.ghost = nil
				}
				w.r.Switch(w.now, e)
			}))
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
	case answer == Ask:
		if w.r.question == before.question {
			return "a question cannot be told from one that it has overtaken", true
		}
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
	decides, definite := before.evidence.Decides, before.evidence.Definite()
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
	case (v == Move) != passes:
		return "the other side's answer is not the arbiter", true
	case (v == GoDown) != (!passes && f.Active == Failed), v == GoDown != (w.r.Down && !before.Down):
		return "down without two sides that fail, or not down with them", true
	case v == Stay && w.r.Epoch == before.Epoch && f.Reached && !(before.evidence.Kinds == Slow && f.Alive):
		return "a judgement is not followed by a renewal", true
	case v == Stay && w.r.Epoch != before.Epoch && !f.Reached:
		return "a renewal although no new connection was answered", true
	case v == Stay && before.evidence.Kinds == Slow && w.r.heldUntil != before.heldUntil:
		return "a slow request holds the questions of others", true
	case v == Stay && before.evidence.Kinds != Slow && w.r.See(w.now, w.r.Epoch, Evidence{Kinds: before.evidence.Kinds, Decides: true}) != Ignore:
		return "a false alarm is not held", true
	}
	if v == Move {
		if w.r.MayMove(w.now, w.r.View, w.r.Memory(definite)) != nil {
			w.r.Refuse(w.now, w.r.question, hold)
			return "", true
		}
		w.proposed, w.weak = true, f.Other == PassedWeakly
	}
	return "", true
}

// confirmed: ConfirmSwitch agrees.
func confirmed(w *world) (string, bool) {
	if !w.proposed {
		return "", false
	}
	w.proposed = false
	q, e := w.r.Question()
	memory := w.r.Memory(e.Definite())
	if w.r.MayMove(w.now, w.r.View, memory) != nil {
		w.r.Refuse(w.now, q, hold)
		return "", true
	}
	w.r.MoveTo(w.now, w.r.Active.Other(), w.weak)
	if memory != w.r.FenceDamping {
		w.ghost = append(w.ghost, w.now)
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
		if w.r.Recover(late, f) != Undecided || !w.r.Down && w.r.Recover(w.r.View, f) != Undecided {
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
	case v == Undecided:
		return "the watch has no say", true
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
	w.ghost = append(w.ghost, w.now)
	return "", true
}

// takenBack: the side that was left on weak evidence passes.
func takenBack(w *world) (string, bool) {
	stands := w.r.Provisional && !w.r.Pinned && !w.r.Closed && !w.r.Down
	may := w.r.MayTakeBack(w.r.View)
	switch {
	case stands != may:
		return "a provisional move that cannot be taken back, or another one that can", true
	case !may:
		return "", true
	case w.r.MayMove(w.now, w.r.View, 0) != nil:
		return "latch or dwell keep a provisional move", true
	}
	w.r.MoveTo(w.now, w.r.Active.Other(), false)
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
	case up && w.r.See(w.now, w.r.Epoch, Evidence{Kinds: Answered, Decides: true}) == Ask:
		return "a brown-out becomes a storm of questions", true
	case up != (w.r.Epoch != before.Epoch):
		return "the end of an outage is no judgement, or another answer is", true
	}
	return "", true
}

// check says what is wrong with a step from a to b, whatever it was.
func check(a, b *world, s *step) string {
	moved := a.r.Active != b.r.Active
	switch {
	case moved != (b.r.Generation == a.r.Generation+1) || !moved && a.r.Generation != b.r.Generation:
		return "the generation does not count the moves"
	case b.r.Epoch < a.r.Epoch || b.r.Epoch > a.r.Epoch+1 || moved && b.r.Epoch == a.r.Epoch:
		return "a move is no judgement, or a step is more than one"
	case a.r.Closed && (moved || !b.r.Closed || b.r.asking && !a.r.asking):
		return "something happens after Close"
	case b.r.Pinned && (b.r.Down || b.r.Provisional && !a.r.Provisional):
		return "pinned, and down or provisional"
	case moved && a.r.Pinned && !s.hand:
		return "an automatic move while pinned"
	case b.r.Single && (b.r.Active != Primary || b.r.Provisional):
		return "a second address where there is one"
	case b.r.asking && b.r.question == a.r.question && b.r.Epoch != a.r.Epoch:
		return "a question survives a judgement"
	case len(b.r.moves) > b.r.Keep:
		return "moves are remembered for ever"
	case b.r.Down && !b.r.NeedsWatch(false), b.r.Provisional && !b.r.Pinned && !b.r.Closed && !b.r.NeedsWatch(false):
		if !b.r.Closed {
			return "nobody looks for a way out"
		}
	case (b.r.Active == Alternate || b.r.Pinned) && !b.r.Closed && !b.r.NeedsWatch(true):
		return "nobody looks for the way home"
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
	ids := map[string]int32{start.key(): 0}
	trail := []came{{-1, -1}}
	queue := []world{start}
	auto := [][]int32{nil} // what leads to a state without a hand
	free := []bool{true}   // neither closed nor pinned
	at := []Side{Primary}
	edges := 0
	for from := int32(0); int(from) < len(queue); from++ {
		w := &queue[from]
		for i := range steps {
			next := w.clone()
			wrong, ok := steps[i].do(&next)
			if !ok {
				continue
			}
			edges++
			if !next.r.asking || next.r.question != w.r.question {
				next.proposed = false // by a question that is no more
			}
			if wrong == "" {
				wrong = check(w, &next, &steps[i])
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
				w = &queue[from] // which may have moved in memory
				auto, free, at = append(auto, nil), append(free, !next.r.Closed && !next.r.Pinned), append(at, next.r.Active)
				require(t, len(queue) < 3_000_000)
			}
			if !steps[i].hand && id != from {
				auto[id] = append(auto[id], from)
			}
		}
	}
	t.Logf("%d states, %d steps", len(queue), edges)

	// Whatever has happened, as long as nobody has closed or pinned it, the world can
	// bring the traffic to either side without a hand.
	for _, side := range []Side{Primary, Alternate} {
		if limits.Single && side == Alternate {
			continue
		}
		leads := make([]bool, len(queue))
		var todo []int32
		for id := range queue {
			if at[id] == side {
				leads[id] = true
				todo = append(todo, int32(id))
			}
		}
		for len(todo) > 0 {
			id := todo[len(todo)-1]
			todo = todo[:len(todo)-1]
			for _, p := range auto[id] {
				if !leads[p] {
					leads[p] = true
					todo = append(todo, p)
				}
			}
		}
		for id := range queue {
			if free[id] && !leads[id] {
				t.Fatalf("no way to side %d from %+v", side, queue[id].r)
			}
		}
	}
}

func require(t *testing.T, ok bool) {
	t.Helper()
	if !ok {
		t.Fatal("too many states")
	}
}
