// Package rule is the rule of switching as a value. It has no clock, no lock and no I/O: each method
// is one atomic step, which takes the time and what was seen, and returns what to do. A Transport
// calls the methods under its lock and carries out the results after it has released the lock, so the
// steps here are exactly those that can interleave. The test of this package takes them in every
// order.
package rule

import (
	"errors"
	"time"
)

// Side is one of the two endpoints; its values are those of failover.Endpoint.
type Side uint8

const (
	Primary Side = iota
	Alternate
)

// Other returns the opposite side.
func (s Side) Other() Side { return s ^ 1 }

// Limits are the limits of a rule. They are part of the value, so that a test can use small ones.
type Limits struct {
	Single       bool          // the organization has one address, so there are no moves
	Manual       bool          // Config.ManualFailback
	MinDwell     time.Duration // Config.MinDwell
	Damping      time.Duration // how long moves are remembered: an hour
	FenceDamping time.Duration // the same for moves that a fence asks for: a minute
	MaxMoves     int           // so many moves within Damping latch the rule: 4
	Keep         int           // the maximum number of remembered moves, at least MaxMoves
	Fresh        time.Duration // how long the findings of a question stay valid
	// TrialPause is how long no move on weak evidence follows one that was taken back;
	// it doubles with each, up to Damping.
	TrialPause time.Duration
}

// View is where traffic goes. The request path loads it and never changes it.
type View struct {
	Active     Side
	Generation uint64 // one more with every move
	// Epoch grows by one with every judgement: a move, or a renewal at the same side.
	// Connections and faults from before it no longer count.
	Epoch  uint64
	Since  time.Time // of the last move
	Pinned bool      // by hand: neither Down nor Provisional
	Down   bool      // neither side has proved that it serves
	// Provisional: the last move had only weak evidence, and the side has given no healthy
	// answer to a request since.
	Provisional bool
	Closed      bool
}

// Rule is the view, and the state that decides on the next one.
type Rule struct {
	View
	Limits
	moves []time.Time // within Damping before the last one, at most Keep

	// The question under way: what do both sides say to a probe?
	asking   bool
	question uint64   // its number, by which overtaken questions are recognized
	evidence Evidence // all that led to it

	// What an early question has found, if the traffic should move.
	kept   Findings
	keptAt time.Time // long ago for none

	heldUntil time.Time // no question that decides before that, except on evidence of another kind
	heldBy    Kind      // the kinds of evidence that are held
	quietTill time.Time // no early question before that

	// How long no move on weak evidence follows the last one that was taken back, and
	// when the next may be tried.
	pause     time.Duration
	nextTrial time.Time
}

// Kind is a kind of evidence, a set of them.
type Kind uint8

const (
	Answered    Kind = 1 << iota // a fault that the side answered
	Unreachable                  // no connection
	TimedOut                     // no answer in time
	Slow                         // a request waits; it has not failed
	Fenced                       // the side itself says that it does not serve
)

// Evidence is evidence against the active side.
type Evidence struct {
	Kinds Kind
	// Decides: the breaker is open, the side has answered with a fence, or an attempt has
	// timed out or waits for long. Otherwise the question is early: it only prepares a
	// decision.
	Decides bool
}

// Definite reports whether the side itself has said that it does not serve.
func (e Evidence) Definite() bool { return e.Kinds&Fenced != 0 }

// Outcome of a probe.
type Outcome uint8

const (
	Pending      Outcome = iota
	Inconclusive         // answered, but proved neither
	Passed
	PassedWeakly // something answers, but asks for a token or throttles
	Failed
)

// Findings are the outcomes of one question.
type Findings struct {
	Active, Other Outcome
	// Reached: the active side has answered over a new connection.
	Reached bool
	// Moved: the answer came from an address at which the active side was not seen before.
	Moved bool
	// Alive: the active side has given a healthy answer to a request since the question was
	// asked, or since the evidence that led to it.
	Alive bool
}

// Verdict is the verdict on findings.
type Verdict uint8

const (
	Undecided Verdict = iota
	Stay
	Move
	GoDown
)

// Judge applies the rule to what the probes have shown so far. The answer of the other side decides
// whether a failover has happened. A move on weak evidence needs a failed probe of the active side; a
// fence is not enough.
func Judge(definite bool, f Findings) Verdict {
	failed := f.Active == Failed
	switch {
	case f.Other == Passed && (definite || failed), f.Other == PassedWeakly && failed:
		return Move
	case f.Active == Pending || (definite || failed) && f.Other == Pending:
		return Undecided
	case failed:
		return GoDown
	default:
		return Stay
	}
}

// Answer is the answer to evidence.
type Answer uint8

const (
	Ignore Answer = iota // the evidence is old, or can have no effect
	Join                 // wait for the question under way
	Ask                  // probe both sides, unless Kept has their answers
)

// See records evidence against the active side, from a request that was sent in epoch.
func (r *Rule) See(now time.Time, epoch uint64, e Evidence) Answer {
	switch {
	case r.Closed || epoch != r.Epoch || r.Down || r.Pinned:
		return Ignore
	case r.asking:
		r.evidence.Kinds |= e.Kinds
		r.evidence.Decides = r.evidence.Decides || e.Decides
		return Join
	case now.Before(r.heldUntil) && e.Kinds&^r.heldBy == 0:
		return Ignore
	case !e.Decides && now.Before(r.quietTill):
		return Ignore
	}
	r.asking, r.evidence = true, e
	r.question++
	return Ask
}

// Question returns the number of the question under way, and the evidence that led to it.
func (r *Rule) Question() (uint64, Evidence) { return r.question, r.evidence }

// Kept returns the findings of a recent early question if they say that the traffic should move, so
// that there is no need to probe again. Any other finding is outdated by new evidence.
func (r *Rule) Kept(now time.Time) (Findings, bool) {
	return r.kept, now.Sub(r.keptAt) < r.Fresh
}

// open reports whether question is the one under way.
func (r *Rule) open(question uint64) bool { return r.asking && r.question == question }

// Conclude ends a question with the findings of its probes. Hold is how long no question follows if the
// traffic stays. The verdict is Undecided if the question was overtaken or does not decide; Stay or
// GoDown if that is now in force; and Move if a move may be proposed: MoveTo or Refuse then ends the
// question.
func (r *Rule) Conclude(now time.Time, question uint64, f Findings, hold time.Duration) (v Verdict, renewed bool) {
	if !r.open(question) {
		return Undecided, false
	}
	// A fault, and another address behind the name that serves, also decide.
	if !r.evidence.Decides && !(f.Moved && f.Active == Passed) {
		r.asking = false
		if r.quietTill = now.Add(hold); Judge(false, f) == Move {
			r.kept, r.keptAt = f, now
		}
		return Undecided, false
	}
	switch v = Judge(r.evidence.Definite(), f); v {
	case Move:
	case GoDown:
		r.asking, r.Down = false, true
	default:
		v = Stay
		slow := r.evidence.Kinds == Slow
		r.refuse(now, hold)
		if renewed = f.Reached && !(slow && f.Alive); renewed {
			r.judged()
		}
	}
	return v, renewed
}

// Refuse ends a question whose move is not made. No question follows for at least hold.
func (r *Rule) Refuse(now time.Time, question uint64, hold time.Duration) {
	if r.open(question) {
		r.refuse(now, hold)
	}
}

func (r *Rule) refuse(now time.Time, hold time.Duration) {
	if kinds := r.evidence.Kinds; kinds != Slow { // questions about slow requests have a schedule of their own
		if now.Before(r.heldUntil) {
			kinds |= r.heldBy
		}
		r.heldUntil, r.heldBy = now.Add(hold), kinds
	}
	r.asking = false
}

// judged begins a new epoch: what was seen before no longer counts.
func (r *Rule) judged() {
	r.Epoch++
	r.asking, r.keptAt = false, time.Time{}
}

// Reasons against a move.
var (
	ErrOvertaken = errors.New("overtaken by another change")
	ErrLatched   = errors.New("latched")
	ErrSingle    = errors.New("the organization has one address")
)

// MayMove reports whether the rule allows an automatic move away from the view at.
// Memory is how long moves count against it: Damping, FenceDamping, or 0.
func (r *Rule) MayMove(now time.Time, at View, memory time.Duration) error {
	switch {
	case r.Single:
		return ErrSingle
	case r.Closed || r.Pinned || r.Epoch != at.Epoch || r.Down != at.Down:
		return ErrOvertaken
	case r.movesWithin(now, memory) >= r.MaxMoves:
		return ErrLatched
	}
	return nil
}

// Memory returns how long earlier moves count against a move that has definite evidence, or not.
func (r *Rule) Memory(definite bool) time.Duration {
	if definite { // the service itself says that it does not serve
		return r.FenceDamping
	}
	return r.Damping
}

// MoveTo makes a side the active one. It reports whether that has latched the rule.
func (r *Rule) MoveTo(now time.Time, to Side, provisional bool) (latched bool) {
	before := r.Latched(now)
	keep := min(r.movesWithin(now, r.Damping), r.Keep-1)
	r.moves = append(append(make([]time.Time, 0, keep+1), r.moves[len(r.moves)-keep:]...), now)
	r.heldUntil, r.quietTill = time.Time{}, time.Time{}
	r.Active, r.Since, r.Down, r.Provisional = to, now, false, provisional
	r.Generation++
	r.judged()
	return !before && r.Latched(now)
}

// Healthy records a healthy answer to a request that was sent in epoch, which proves that the side
// serves. It reports whether that ended Down, which begins a new epoch, and whether it confirmed a
// provisional move.
func (r *Rule) Healthy(now time.Time, epoch uint64, hold time.Duration) (up, confirmed bool) {
	if r.Closed || epoch != r.Epoch {
		return false, false
	}
	up, confirmed = r.Down, r.Provisional
	r.Down, r.Provisional = false, false
	if confirmed {
		r.pause = 0
	}
	if up {
		r.judged()
		// In a brown-out, not every fault should lead to a question at once.
		r.heldUntil, r.heldBy = now.Add(hold), Answered|Unreachable|TimedOut
	}
	return up, confirmed
}

// Recover takes the findings of probes while down, made under the view at. Stay means that the traffic
// continues at the active side, over new connections; Move that a move may be proposed; GoDown that
// neither side serves yet; and Undecided that at was overtaken.
func (r *Rule) Recover(at View, f Findings) Verdict {
	if r.Closed || !r.Down || r.Epoch != at.Epoch {
		return Undecided
	}
	v := Judge(false, f)
	if v == Stay && !f.Reached {
		return GoDown // an inconclusive probe without an answer does not end Down
	}
	if v == Stay {
		r.Down = false
		r.judged()
	}
	return v
}

// MayReturn reports whether the traffic may return to the primary: the primary has risen, and the dwell at
// the alternate is over. A provisional move is undone as soon as the other side passes; see MayTakeBack.
func (r *Rule) MayReturn(now time.Time, at View, risen bool) bool {
	return !r.Closed && r.Epoch == at.Epoch && r.Active == Alternate && !r.Pinned && !r.Down &&
		risen && !r.Manual && !now.Before(r.DwellUntil())
}

// MayTakeBack reports whether the provisional move that led to the view at may be undone.
func (r *Rule) MayTakeBack(at View) bool {
	return !r.Closed && r.Epoch == at.Epoch && r.Provisional && !r.Down
}

// TakeBack undoes a provisional move, because the other side passes or this one has given no healthy
// answer to a request. Neither move counts towards the latch and the dwell, and weak evidence leads to
// no move for a while.
func (r *Rule) TakeBack(now time.Time) (latched bool) {
	moves := r.moves
	if n := len(moves); n > 0 && moves[n-1].Equal(r.Since) {
		moves = moves[:n-1]
	}
	r.MoveTo(now, r.Active.Other(), false)
	r.moves = moves
	r.pause = min(max(2*r.pause, r.TrialPause), max(r.Damping, r.TrialPause))
	r.nextTrial = now.Add(r.pause)
	return false
}

// Weigh returns the outcome of a probe of the side that is not active, with a weak pass turned into
// Inconclusive as long as no move may follow from it.
func (r *Rule) Weigh(now time.Time, other Outcome) Outcome {
	if other == PassedWeakly && now.Before(r.nextTrial) {
		return Inconclusive
	}
	return other
}

// DwellUntil is when a return may follow the last move: MinDwell, doubled for every
// earlier move within Damping, which is also the most that it grows to.
func (r *Rule) DwellUntil() time.Time {
	since := r.Since
	if n := len(r.moves); n > 0 {
		since = r.moves[n-1] // of the fleet, which may be earlier
	}
	dwell := r.MinDwell
	for n := r.movesWithin(since, r.Damping); n > 1; n-- {
		dwell = min(2*dwell, max(r.Damping, r.MinDwell))
	}
	return since.Add(dwell)
}

// Latched reports whether further moves need a person, a fence, or time.
func (r *Rule) Latched(now time.Time) bool { return r.movesWithin(now, r.Damping) >= r.MaxMoves }

// Moves returns the times of the moves that are remembered, oldest first.
func (r *Rule) Moves() []time.Time { return r.moves }

// Remember replaces the remembered moves by those of a fleet. It reports whether that has latched the
// rule.
func (r *Rule) Remember(now time.Time, moves []time.Time) (latched bool) {
	before := r.Latched(now)
	r.moves = append([]time.Time(nil), moves[max(0, len(moves)-r.Keep):]...)
	return !before && r.Latched(now)
}

func (r *Rule) movesWithin(at time.Time, memory time.Duration) (n int) {
	for _, m := range r.moves {
		if at.Sub(m) < memory {
			n++
		}
	}
	return n
}

// Pin keeps the traffic at a side until Unpin. It reports whether the traffic has moved.
func (r *Rule) Pin(now time.Time, to Side) (moved bool) {
	if r.Closed || r.Single && to == Alternate {
		return false
	}
	r.Pinned, r.Down, r.Provisional, r.asking = true, false, false, false
	if r.Active == to {
		return false
	}
	r.MoveTo(now, to, false)
	return true
}

// Unpin allows automatic moves again. Like Switch, it forgets the moves.
func (r *Rule) Unpin() {
	r.moves = nil
	if !r.Closed {
		r.Pinned = false
	}
}

// Switch moves the traffic by hand to a side that has passed its probe. It reports whether the traffic has
// moved, or else whether that has ended Down.
func (r *Rule) Switch(now time.Time, to Side) (moved, up bool) {
	if r.Closed || r.Single && to == Alternate {
		return false, false
	}
	r.moves, r.Provisional = nil, false
	switch {
	case r.Active != to:
		r.MoveTo(now, to, false)
		return true, false
	case r.Down:
		r.Down = false
		r.judged()
		return false, true
	}
	return false, false
}

// Close ends everything.
func (r *Rule) Close() { r.Closed, r.asking = true, false }

// NeedsWatch reports whether sides must be probed without traffic. Failback is whether probes for the
// return to the primary are enabled at all.
func (r *Rule) NeedsWatch(failback bool) bool {
	return !r.Closed && (r.Down || r.Provisional || (r.Active == Alternate || r.Pinned) && failback)
}
