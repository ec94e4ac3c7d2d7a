// Package rule decides when traffic switches between two sides, the endpoints of an organization. A
// Rule is a value without clock, lock or I/O: each method is one atomic step, which takes the time and
// what was seen, and returns what to do. A Transport calls the methods under its lock and carries out
// the results after it has released the lock, so the steps here are exactly those that can interleave.
// The test of this package takes them in every order.
//
// Evidence against the active side, such as a fault, raises a question: both sides are probed, and the
// rule judges the findings. A question is early if its evidence is too weak to decide; its findings are
// kept for a moment, in case stronger evidence follows. Every judgement begins a new epoch, and evidence
// from earlier epochs no longer counts.
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
	Single       bool          // the organization has one address and never switches
	Manual       bool          // Config.ManualFailback
	MinDwell     time.Duration // Config.MinDwell
	Damping      time.Duration // how long switches are remembered: an hour
	FenceDamping time.Duration // the same for switches that a fence asks for: a minute
	MaxSwitches  int           // this many switches within Damping latch the rule: 4
	Keep         int           // the maximum number of remembered switches, at least MaxSwitches
	Fresh        time.Duration // how long the findings of a question stay valid
	// ProvisionalPause is the pause between a provisional switch that was undone and the next
	// one. It doubles each time, up to Damping.
	ProvisionalPause time.Duration
}

// View is where traffic goes. The request path loads it and never changes it.
type View struct {
	Active     Side
	Generation uint64 // number of switches
	// Epoch grows by one with every judgement: a switch, or a renewal at the same side.
	// Connections and faults from before it no longer count.
	Epoch  uint64
	Since  time.Time // of the last switch
	Pinned bool      // by hand: neither Down nor Provisional
	Down   bool      // neither side has proved that it serves
	// Provisional: the last switch was made on weak evidence, and the side has given no
	// healthy answer to a request since.
	Provisional bool
	Closed      bool
}

// Rule is the current View, and the state from which the next one follows.
type Rule struct {
	View
	Limits
	switches []time.Time // within Damping before the last one, at most Keep

	asking   bool     // a question is under way
	question uint64   // its number, by which overtaken questions are recognized
	evidence Evidence // that raised or joined it

	// The findings of the last early question whose verdict was Switch.
	kept   Findings
	keptAt time.Time // zero if there are none

	heldUntil time.Time // evidence of the kinds in heldBy raises no question before then
	heldBy    Kind
	quietTill time.Time // no early question before then

	// The current ProvisionalPause, and when it ends.
	pause           time.Duration
	nextProvisional time.Time
}

// Kind is a set of kinds of evidence.
type Kind uint8

const (
	Answered    Kind = 1 << iota // the side answered with a fault
	Unreachable                  // no connection
	TimedOut                     // no answer in time
	Slow                         // a request waits; it has not failed
	Fenced                       // the side itself says that it does not serve
)

// Evidence is evidence against the active side.
type Evidence struct {
	Kinds Kind
	// Decides: the circuit breaker is open, the side has answered with a fence, or an attempt
	// has timed out or been waiting for long. Otherwise the question is early.
	Decides bool
}

// Definite reports whether the side itself has said that it does not serve.
func (e Evidence) Definite() bool { return e.Kinds&Fenced != 0 }

// Outcome is the outcome of a probe.
type Outcome uint8

const (
	Pending      Outcome = iota
	Inconclusive         // an answer that proves neither
	Passed
	PassedWeakly // the answer only asks for a token, or throttles
	Failed
)

// Findings are the outcomes of one question.
type Findings struct {
	Active, Other Outcome
	// Reached: the active side has answered over a new connection.
	Reached bool
	// NewAddress: the answer came from an address at which the active side was not seen before.
	NewAddress bool
	// Alive: the active side has given a healthy answer to a request since the question was
	// asked, or since the evidence that led to it.
	Alive bool
}

// Verdict is the verdict on findings.
type Verdict uint8

const (
	Undecided Verdict = iota
	Stay
	Switch
	GoDown
)

// Judge returns the verdict on what the probes have shown so far. The probe of the other side decides
// whether a failover has happened. If that passes only weakly, a switch requires that the active side
// failed its probe; a fence is not enough.
func Judge(definite bool, f Findings) Verdict {
	failed := f.Active == Failed
	switch {
	case f.Other == Passed && (definite || failed), f.Other == PassedWeakly && failed:
		return Switch
	case f.Active == Pending || (definite || failed) && f.Other == Pending:
		return Undecided
	case failed:
		return GoDown
	default:
		return Stay
	}
}

// Answer says what to do about evidence.
type Answer uint8

const (
	Ignore Answer = iota // nothing: the evidence is outdated or makes no difference
	Join                 // wait for the question under way
	Ask                  // probe both sides, unless Kept returns findings
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

// Question returns the number of the last question and its evidence.
func (r *Rule) Question() (uint64, Evidence) { return r.question, r.evidence }

// Kept returns the findings of a recent early question whose verdict was Switch; there is no need to
// probe again. All other findings are outdated by new evidence.
func (r *Rule) Kept(now time.Time) (Findings, bool) {
	return r.kept, now.Sub(r.keptAt) < r.Fresh
}

// open reports whether question is the one under way.
func (r *Rule) open(question uint64) bool { return r.asking && r.question == question }

// Conclude ends a question with the findings of its probes. If the traffic stays, no question follows
// for hold. The verdict is Undecided if the question was overtaken or is early; Stay or GoDown if that is
// now in force; and Switch if a switch may be proposed: SwitchTo or Refuse then ends the question.
// Renewed: Stay has begun a new epoch, so the connections must be renewed.
func (r *Rule) Conclude(now time.Time, question uint64, f Findings, hold time.Duration) (v Verdict, renewed bool) {
	if !r.open(question) {
		return Undecided, false
	}
	// Even weak evidence decides if the active side passes at a new address.
	if !r.evidence.Decides && !(f.NewAddress && f.Active == Passed) {
		r.asking = false
		if r.quietTill = now.Add(hold); Judge(false, f) == Switch {
			r.kept, r.keptAt = f, now
		}
		return Undecided, false
	}
	switch v = Judge(r.evidence.Definite(), f); v {
	case Switch:
	case GoDown:
		r.asking, r.Down = false, true
	default:
		v = Stay
		slow := r.evidence.Kinds == Slow
		r.refuse(now, hold)
		if renewed = f.Reached && !(slow && f.Alive); renewed {
			r.beginEpoch()
		}
	}
	return v, renewed
}

// Refuse ends a question whose switch is not made. No question follows for at least hold.
func (r *Rule) Refuse(now time.Time, question uint64, hold time.Duration) {
	if r.open(question) {
		r.refuse(now, hold)
	}
}

func (r *Rule) refuse(now time.Time, hold time.Duration) {
	if kinds := r.evidence.Kinds; kinds != Slow { // the caller schedules questions about slow requests
		if now.Before(r.heldUntil) {
			kinds |= r.heldBy
		}
		r.heldUntil, r.heldBy = now.Add(hold), kinds
	}
	r.asking = false
}

// beginEpoch ends the question under way and discards the kept findings.
func (r *Rule) beginEpoch() {
	r.Epoch++
	r.asking, r.keptAt = false, time.Time{}
}

// Reasons against a switch.
var (
	ErrOvertaken = errors.New("overtaken by another change")
	ErrLatched   = errors.New("latched")
	ErrSingle    = errors.New("the organization has one address")
)

// MaySwitch returns nil if the rule allows an automatic switch away from the view at, and otherwise the
// reason against it. Window is how long earlier switches count: Damping, FenceDamping, or 0.
func (r *Rule) MaySwitch(now time.Time, at View, window time.Duration) error {
	switch {
	case r.Single:
		return ErrSingle
	case r.Closed || r.Pinned || r.Epoch != at.Epoch || r.Down != at.Down:
		return ErrOvertaken
	case r.switchesWithin(now, window) >= r.MaxSwitches:
		return ErrLatched
	}
	return nil
}

// Window returns how long earlier switches count against one with definite evidence, or without.
func (r *Rule) Window(definite bool) time.Duration {
	if definite {
		return r.FenceDamping
	}
	return r.Damping
}

// SwitchTo makes a side the active one, and reports whether that has latched the rule.
func (r *Rule) SwitchTo(now time.Time, to Side, provisional bool) (latched bool) {
	before := r.Latched(now)
	keep := min(r.switchesWithin(now, r.Damping), r.Keep-1)
	r.switches = append(append(make([]time.Time, 0, keep+1), r.switches[len(r.switches)-keep:]...), now)
	r.heldUntil, r.quietTill = time.Time{}, time.Time{}
	r.Active, r.Since, r.Down, r.Provisional = to, now, false, provisional
	r.Generation++
	r.beginEpoch()
	return !before && r.Latched(now)
}

// Healthy records a healthy answer to a request that was sent in epoch, which proves that the side
// serves. It reports whether that ended Down, which begins a new epoch, and whether it confirmed a
// provisional switch.
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
		r.beginEpoch()
		// In a brown-out, not every fault should lead to a question at once.
		r.heldUntil, r.heldBy = now.Add(hold), Answered|Unreachable|TimedOut
	}
	return up, confirmed
}

// Recover judges the findings of probes made while Down, under the view at. Stay means that the traffic
// continues at the active side, over new connections; Switch that a switch may be proposed; GoDown that
// neither side serves yet; and Undecided that at is outdated.
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
		r.beginEpoch()
	}
	return v
}

// MayReturn reports whether an automatic fail-back is allowed: the primary has risen (passed enough
// probes), and the dwell at the alternate is over. For provisional switches, see MayUndo.
func (r *Rule) MayReturn(now time.Time, at View, risen bool) bool {
	return !r.Closed && r.Epoch == at.Epoch && r.Active == Alternate && !r.Pinned && !r.Down &&
		risen && !r.Manual && !now.Before(r.DwellUntil())
}

// MayUndo reports whether the provisional switch that led to the view at may be undone.
func (r *Rule) MayUndo(at View) bool {
	return !r.Closed && r.Epoch == at.Epoch && r.Provisional && !r.Down
}

// Undo undoes a provisional switch. Neither of the two switches counts towards the latch and the dwell,
// and weak evidence leads to no switch for ProvisionalPause. It never latches the rule.
func (r *Rule) Undo(now time.Time) (latched bool) {
	switches := r.switches
	if n := len(switches); n > 0 && switches[n-1].Equal(r.Since) {
		switches = switches[:n-1]
	}
	r.SwitchTo(now, r.Active.Other(), false)
	r.switches = switches
	r.pause = min(max(2*r.pause, r.ProvisionalPause), max(r.Damping, r.ProvisionalPause))
	r.nextProvisional = now.Add(r.pause)
	return false
}

// Weigh returns the outcome of a probe of the side that is not active, but Inconclusive for a weak pass
// during ProvisionalPause.
func (r *Rule) Weigh(now time.Time, other Outcome) Outcome {
	if other == PassedWeakly && now.Before(r.nextProvisional) {
		return Inconclusive
	}
	return other
}

// DwellUntil returns when a fail-back may follow the last switch: after MinDwell, doubled for every
// earlier switch within Damping, up to Damping.
func (r *Rule) DwellUntil() time.Time {
	since := r.Since
	if n := len(r.switches); n > 0 {
		since = r.switches[n-1] // the fleet's, which may be earlier
	}
	dwell := r.MinDwell
	for n := r.switchesWithin(since, r.Damping); n > 1; n-- {
		dwell = min(2*dwell, max(r.Damping, r.MinDwell))
	}
	return since.Add(dwell)
}

// Latched reports whether further switches must wait for a person, a fence, or time.
func (r *Rule) Latched(now time.Time) bool { return r.switchesWithin(now, r.Damping) >= r.MaxSwitches }

// Switches returns the times of the remembered switches, oldest first.
func (r *Rule) Switches() []time.Time { return r.switches }

// Remember replaces the remembered switches by those of a fleet, and reports whether that has latched
// the rule.
func (r *Rule) Remember(now time.Time, switches []time.Time) (latched bool) {
	before := r.Latched(now)
	r.switches = append([]time.Time(nil), switches[max(0, len(switches)-r.Keep):]...)
	return !before && r.Latched(now)
}

func (r *Rule) switchesWithin(at time.Time, window time.Duration) (n int) {
	for _, m := range r.switches {
		if at.Sub(m) < window {
			n++
		}
	}
	return n
}

// Pin keeps the traffic at a side until Unpin. It reports whether the traffic has switched.
func (r *Rule) Pin(now time.Time, to Side) (switched bool) {
	if r.Closed || r.Single && to == Alternate {
		return false
	}
	r.Pinned, r.Down, r.Provisional, r.asking = true, false, false, false
	if r.Active == to {
		return false
	}
	r.SwitchTo(now, to, false)
	return true
}

// Unpin allows automatic switches again. Like Switch, it forgets earlier switches.
func (r *Rule) Unpin() {
	r.switches = nil
	if !r.Closed {
		r.Pinned = false
	}
}

// Switch switches to a side by hand. It reports whether the traffic has switched, or else whether that
// has ended Down.
func (r *Rule) Switch(now time.Time, to Side) (switched, up bool) {
	if r.Closed || r.Single && to == Alternate {
		return false, false
	}
	r.switches, r.Provisional = nil, false
	switch {
	case r.Active != to:
		r.SwitchTo(now, to, false)
		return true, false
	case r.Down:
		r.Down = false
		r.beginEpoch()
		return false, true
	}
	return false, false
}

// Close ends the question under way. The rule allows nothing afterwards.
func (r *Rule) Close() { r.Closed, r.asking = true, false }

// NeedsWatch reports whether sides must be probed in the background. Failback: probes for the
// fail-back are enabled.
func (r *Rule) NeedsWatch(failback bool) bool {
	return !r.Closed && (r.Down || r.Provisional || (r.Active == Alternate || r.Pinned) && failback)
}
