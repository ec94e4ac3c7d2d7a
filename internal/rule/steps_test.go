package rule

import (
	"fmt"
)

// A step is something that can happen. It returns what went wrong, or "", and false if it
// cannot happen in this state.
type step struct {
	name string
	hand bool
	do   func(w *world) (wrong string, ok bool)
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
				alive, switched := f, f
				alive.Alive, switched.NewAddress = true, true
				late := f
				late.Other = Pending // needed after all, because of another kind of evidence
				list = append(list, alive, switched, late)
			case PassedWeakly:
				f.NewAddress = true
				list = append(list, f)
			case Inconclusive: // trouble of this machine
				f.Reached = false
				list = append(list, f)
				f.Alive, f.NewAddress = false, true
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
			return complain(w.r.Pinned && !w.r.Closed || len(w.r.switches) > 0, "pinned for ever, or latched after a hand has cleared that"), true
		}},
		{"Close", true, func(w *world) (string, bool) {
			w.r.Close()
			return complain(!w.r.Closed || w.r.asking, "open after Close"), true
		}},
		{"the switch is confirmed", false, confirmed},
		{"the switch is vetoed", false, func(w *world) (string, bool) {
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

// seen: a fault or suspicion arrives, of a request that was sent some epochs ago.
func seen(w *world, old uint64, e Evidence) (string, bool) {
	if w.r.Epoch < old || w.r.Single && w.r.Closed {
		return "", false
	}
	before := w.r
	before.switches = nil
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
	decides, definite := before.evidence.Decides || f.NewAddress && f.Active == Passed, before.evidence.Kinds&Fenced != 0
	passes := f.Other == Passed && (definite || f.Active == Failed) || f.Other == PassedWeakly && f.Active == Failed
	switch {
	case v != Switch && w.r.asking:
		return "a question never ends", true
	case renewed != (w.r.Epoch != before.Epoch):
		return "a renewal is not told", true
	case !decides && (v != Undecided || w.r.View != before.View):
		return "an early question decides", true
	case !decides:
		kept, ok := w.r.Kept(w.now)
		if switches := Judge(false, f) == Switch; switches && !(ok && kept == f) || !switches && w.r.keptAt != before.keptAt {
			return "an early question that says switch is lost, or another one is kept", true
		}
		if w.asks(Evidence{Kinds: before.evidence.Kinds}) {
			return "an early question is asked again at once", true
		}
		switched := w.r
		switched.SwitchTo(w.now, w.r.Active.Other(), false)
		if _, ok := switched.Kept(w.now); ok {
			return "what was found before a judgement is kept", true
		}
	case v == Undecided:
		return "a question that decides has no verdict", true
	case (v == Switch) != passes:
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
	if v == Switch {
		if w.r.MaySwitch(w.now, w.r.View, w.window(definite)) != nil {
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
	window := w.window(e.Kinds&Fenced != 0)
	if w.r.Window(e.Definite()) != window {
		return "other switches count than those that should", true
	}
	if w.r.MaySwitch(w.now, w.r.View, window) != nil {
		w.r.Refuse(w.now, q, hold)
		return "", true
	}
	w.r.SwitchTo(w.now, w.r.Active.Other(), w.weak)
	if window != w.r.FenceDamping {
		w.remember()
	}
	if w.r.Provisional != w.weak {
		return "a switch on weak evidence is not provisional, or another one is", true
	}
	return "", true
}

// overtaken: a question, watch or proposal ends because something else came first.
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
	case w.r.MaySwitch(w.now, late, 0) == nil || w.r.MaySwitch(w.now, flipped, 0) == nil:
		return "a proposal from before a change switches", true
	case w.r.MayReturn(w.now, late, true) || w.r.MayUndo(late):
		return "a return from before a change", true
	}
	return "", true
}

// recovered: a round of probes has ended while down.
func recovered(w *world, f Findings) (string, bool) {
	if !w.r.Down || w.r.Closed {
		return "", false
	}
	before := w.r
	v := w.r.Recover(w.r.View, f)
	switch {
	case v != Stay && v != Switch && v != GoDown:
		return "the watch has no say", true
	case (v == Switch) != (f.Active == Failed && (f.Other == Passed || f.Other == PassedWeakly)):
		return "a way out is not taken, or another one is", true
	case v == Stay && (w.r.Down || w.r.Epoch == before.Epoch):
		return "the end of an outage is not followed by a renewal", true
	case v == Stay && !f.Reached:
		return "up without an answer", true
	case f.Active == Passed && w.r.Down:
		return "down although the active side passes", true
	case f.Active == PassedWeakly && w.r.Down && v != Switch:
		return "weak evidence is not enough to come back from down", true
	case v != Switch || before.Single:
		return "", true
	}
	if err := w.r.MaySwitch(w.now, w.r.View, 0); err != nil {
		return "nothing may leave a side that is down: " + err.Error(), true
	}
	w.r.SwitchTo(w.now, w.r.Active.Other(), f.Other == PassedWeakly)
	return "", true
}

// returned: the primary has passed Rise probes.
func returned(w *world) (string, bool) {
	at := w.r.View
	if !w.r.MayReturn(w.now, at, true) || w.r.MaySwitch(w.now, at, w.r.Damping) != nil {
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
	w.r.SwitchTo(w.now, Primary, false)
	w.remember()
	return "", true
}

// takenBack: after a provisional switch, the side that was left passes.
func takenBack(w *world) (string, bool) {
	stands := w.r.Provisional && !w.r.Closed && !w.r.Down
	may := w.r.MayUndo(w.r.View)
	switch {
	case stands != may:
		return "a provisional switch that cannot be undone, or another one that can", true
	case !may:
		return "", true
	case w.r.MaySwitch(w.now, w.r.View, 0) != nil:
		return "latch or dwell keep a provisional switch", true
	}
	before, made := len(w.r.Switches()), w.r.Since
	latched := w.r.Undo(w.now)
	if n := len(w.ghost); n > 0 && w.ghost[n-1].Equal(made) {
		w.ghost = w.ghost[:n-1]
	}
	switch {
	case latched, len(w.r.Switches()) > before:
		return "a provisional switch counts towards the latch", true
	case w.r.Weigh(w.now, PassedWeakly) != Inconclusive || w.r.Weigh(w.now, Passed) != Passed:
		return "weak evidence leads to one provisional switch after the other, or proof is held back", true
	case w.r.Weigh(w.now.Add(w.r.Damping+1), PassedWeakly) != PassedWeakly:
		return "weak evidence is worth nothing for ever", true
	}
	return "", true
}

// healthy: an answer arrives to a request that was sent some epochs ago.
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

// passed: time passes.
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
	switched := w.r.Pin(w.now, to)
	switch {
	case before.Closed || before.Single && to == Alternate:
		return complain(w.r.View != before.View || switched, "a pin to what there is not")
	case switched != (before.Active != to):
		return "what a pin has done is not told"
	case !w.r.Pinned || w.r.Active != to || w.r.asking:
		return "not pinned, or a question goes on"
	}
	return ""
}

func switched(w *world, to Side) string {
	before := w.r
	switched, up := w.r.Switch(w.now, to)
	switch {
	case before.Closed || before.Single && to == Alternate:
		return complain(w.r.View != before.View || switched || up, "a switch to what there is not")
	case w.r.Active != to || w.r.Down || w.r.Provisional:
		return "a hand does not get what it wants"
	case switched != (before.Active != to) || up != (!switched && before.Down):
		return "what a hand has done is not told"
	case !w.r.Pinned && !w.r.asking && w.r.MaySwitch(w.now, w.r.View, w.r.Damping) == ErrLatched:
		return "latched after a hand has cleared that"
	}
	w.ghost = nil
	return ""
}
