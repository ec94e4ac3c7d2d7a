// Package rule is the rule of switching as a value. It has no clock, no lock and
// no I/O: each method is one atomic step that takes the time and what was seen,
// and returns what has to be done about it. A Transport calls the methods under
// its lock and carries the results out after it has let go of it, so the steps
// here are exactly those that can interleave; the test of this package takes them
// in every order there is.
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

// Limits of a rule. They belong to the value, so that a test can take small ones.
type Limits struct {
	Single       bool          // the organization has one address and never moves
	Manual       bool          // Config.ManualFailback
	MinDwell     time.Duration // Config.MinDwell
	Damping      time.Duration // how long moves are remembered: an hour
	FenceDamping time.Duration // the same for moves that a fence asks for: a minute
	MaxMoves     int           // that many within that time latch the rule: 4
	Keep         int           // moves that are remembered at the most, at least MaxMoves
	Fresh        time.Duration // how long the findings of a question are as good as new ones
	// TrialPause is how long no move on weak evidence follows one that was taken back;
	// it doubles with each, up to Damping.
	TrialPause time.Duration
}

// View is where traffic goes. The request path loads it and never changes it.
type View struct {
	Active     Side
	Generation uint64 // one more with every move
	// Epoch is one more with every judgement: a move, or a renewal at the same
	// side. Connections and faults from before it do not count any more.
	Epoch  uint64
	Since  time.Time // of the last move
	Pinned bool      // by hand: neither Down nor Provisional
	Down   bool      // neither side has proved that it serves
	// Provisional: the move here rested on weak evidence, and the side has not
	// given a healthy answer to a request since.
	Provisional bool
	Closed      bool
}

// Rule is the view, and the memory that decides on the next one.
type Rule struct {
	View
	Limits
	moves []time.Time // within Damping before the last one, Keep at the most

	// The question under way: what do both sides say to a probe?
	asking   bool
	question uint64   // its number; one that was overtaken has another
	evidence Evidence // all that has led to it

	// What an early question has found, if the traffic is to move by it.
	kept   Findings
	keptAt time.Time // long ago for none

	heldUntil time.Time // no question that decides before, but on evidence of another kind
	heldBy    Kind      // the evidence that is held
	quietTill time.Time // no early question before

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

// Evidence is what speaks against the active side.
type Evidence struct {
	Kinds Kind
	// Decides: the breaker is open, the side is fenced, or an attempt has timed
	// out or waits for long. Otherwise the answers are only to be at hand.
	Decides bool
}

// Definite reports whether the side has said itself that it does not serve.
func (e Evidence) Definite() bool { return e.Kinds&Fenced != 0 }

// Outcome of a probe.
type Outcome uint8

const (
	Pending      Outcome = iota
	Inconclusive         // answered, but with nothing that proves either
	Passed
	PassedWeakly // something answers: it asks for a token, or throttles
	Failed
)

// Findings are the outcomes of one question.
type Findings struct {
	Active, Other Outcome
	// Reached: a new connection to the active side has led to an answer.
	Reached bool
	// Moved: from an address at which the active side was not seen before.
	Moved bool
	// Alive: the active side has given a healthy answer to a request since the
	// question was asked, or since what raised it.
	Alive bool
}

// Verdict on findings.
type Verdict uint8

const (
	Undecided Verdict = iota
	Stay
	Move
	GoDown
)

// Judge applies the rule to what the probes have shown so far. The other side's
// answer is the arbiter of whether a failover happened. A move on weak evidence
// takes a failed probe of the active side; its word alone is not enough.
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

// Answer to evidence.
type Answer uint8

const (
	Ignore Answer = iota // old news, or nothing may come of it
	Join                 // the question under way will tell
	Ask                  // ask both sides, unless Kept has their answers
)

// See takes note of evidence against the active side, of a request that was sent
// in epoch.
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

// Question is the number of the question under way, and what has led to it.
func (r *Rule) Question() (uint64, Evidence) { return r.question, r.evidence }

// Kept returns what an early question has found so short a while ago that it need not
// be asked again: that the traffic is to move. Any other finding is out of date when
// there is new evidence.
func (r *Rule) Kept(now time.Time) (Findings, bool) {
	return r.kept, now.Sub(r.keptAt) < r.Fresh
}

// open reports whether question is the one under way.
func (r *Rule) open(question uint64) bool { return r.asking && r.question == question }

// Conclude takes what both sides have said. Hold is for how long nothing is asked
// again if the traffic stays. The verdict is Undecided if the question was
// overtaken, or does not decide; it is Stay or GoDown if that is in force now, and
// Move if a move may be proposed: then MoveTo or Refuse ends the question.
func (r *Rule) Conclude(now time.Time, question uint64, f Findings, hold time.Duration) (v Verdict, renewed bool) {
	if !r.open(question) {
		return Undecided, false
	}
	// A fault, and another place behind the name that serves, decide as well.
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

// Refuse ends a question whose move is not made, for hold at the least.
func (r *Rule) Refuse(now time.Time, question uint64, hold time.Duration) {
	if r.open(question) {
		r.refuse(now, hold)
	}
}

func (r *Rule) refuse(now time.Time, hold time.Duration) {
	if kinds := r.evidence.Kinds; kinds != Slow { // who asks about slow requests knows when to ask again
		if now.Before(r.heldUntil) {
			kinds |= r.heldBy
		}
		r.heldUntil, r.heldBy = now.Add(hold), kinds
	}
	r.asking = false
}

// judged begins a new epoch: what was seen before it does not count any more.
func (r *Rule) judged() {
	r.Epoch++
	r.asking, r.keptAt = false, time.Time{}
}

// Why a move may not be made.
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

// Memory is how long moves count against one that definite evidence asks for, or not.
func (r *Rule) Memory(definite bool) time.Duration {
	if definite { // the service itself sends the traffic away
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

// Healthy takes note of a healthy answer to a request that was sent in epoch: it is
// proof of life. It reports whether it ended Down, which begins a new epoch, and
// whether it confirmed a provisional move.
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
		// In a brown-out not every fault is to ask again at once.
		r.heldUntil, r.heldBy = now.Add(hold), Answered|Unreachable|TimedOut
	}
	return up, confirmed
}

// Recover takes what both sides have said while down, seen under at. Stay means that
// the traffic goes on at the active side, over new connections; Move that a move may be
// proposed; GoDown that it is still down; Undecided that at is overtaken.
func (r *Rule) Recover(at View, f Findings) Verdict {
	if r.Closed || !r.Down || r.Epoch != at.Epoch {
		return Undecided
	}
	v := Judge(false, f)
	if v == Stay && !f.Reached {
		return GoDown // inconclusive without an answer is no way out
	}
	if v == Stay {
		r.Down = false
		r.judged()
	}
	return v
}

// MayReturn reports whether the traffic may go home: the primary has risen, and the
// dwell at the alternate is over. A provisional move is taken back whenever the side
// that was left passes, see MayTakeBack.
func (r *Rule) MayReturn(now time.Time, at View, risen bool) bool {
	return !r.Closed && r.Epoch == at.Epoch && r.Active == Alternate && !r.Pinned && !r.Down &&
		risen && !r.Manual && !now.Before(r.DwellUntil())
}

// MayTakeBack reports whether the provisional move that led to at may be taken back.
func (r *Rule) MayTakeBack(at View) bool {
	return !r.Closed && r.Epoch == at.Epoch && r.Provisional && !r.Down
}

// TakeBack ends a provisional move that may be taken back: the side that was left
// passes, or this one has not given a healthy answer to a request. Neither move counts
// towards the latch and the dwell, and weak evidence is worth nothing for a while.
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

// Weigh returns what the outcome of a probe of the side that is not active is worth:
// a weak pass is inconclusive as long as a move on such evidence is not to be tried.
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

// Latched reports whether further moves are up to people for now.
func (r *Rule) Latched(now time.Time) bool { return r.movesWithin(now, r.Damping) >= r.MaxMoves }

// Moves returns the times of the moves that are remembered, oldest first.
func (r *Rule) Moves() []time.Time { return r.moves }

// Remember takes over the times of a fleet's moves. It reports whether that has
// latched the rule.
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

// Pin keeps the traffic at a side until Unpin. It reports whether it has moved for it.
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

// Unpin allows automatic moves again. Like Switch it clears the memory of moves.
func (r *Rule) Unpin() {
	r.moves = nil
	if !r.Closed {
		r.Pinned = false
	}
}

// Switch takes the traffic to a side by hand, which has passed its probe. It reports
// whether it has moved, or else has ended Down.
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

// NeedsWatch reports whether sides have to be probed without traffic. Failback is
// whether probes for the way home are wanted at all.
func (r *Rule) NeedsWatch(failback bool) bool {
	return !r.Closed && (r.Down || r.Provisional || (r.Active == Alternate || r.Pinned) && failback)
}
