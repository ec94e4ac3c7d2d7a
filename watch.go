package failover

import (
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/d365failover/failover/internal/rule"
)

// This file probes endpoints in the background: while down, pinned or failed over.

const (
	// downInterval is the first time between two rounds of probes while down, or after
	// a move on weak evidence; it grows to maxDownInterval, jitter excluded.
	downInterval    = time.Second
	maxDownInterval = 8 * time.Second
	// demandInterval is the least time between two rounds of probes while down, however
	// many callers bring credentials that have not been tried.
	demandInterval = downInterval / 4
	probeGrowth    = 1.5
	probeJitter    = 0.2

	// A question that has changed nothing is not asked again for holdInterval at
	// first, which doubles to maxHold while requests go on failing, jitter included.
	holdInterval = time.Second
	maxHold      = 4 * time.Second
)

// needsWatchLocked reports whether endpoints have to be probed without traffic.
func (t *Transport) needsWatchLocked() bool {
	return t.rule.NeedsWatch(t.cfg.ProbeInterval != never)
}

// wakeWatch has the watch look again at what there is to do.
func (t *Transport) wakeWatch() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// watch probes whatever has to be probed without traffic: both endpoints while
// down or pinned, the primary while the alternate is active, and the endpoint that was
// left on weak evidence. It ends when nothing is left to watch.
func (t *Transport) watch() {
	var st *state
	var schedule *backoff.ExponentialBackOff
	var due, began time.Time // of the next round, of the last one
	for {
		t.mu.Lock()
		now := t.state.Load()
		if !t.needsWatchLocked() {
			t.watching = false
			t.mu.Unlock()
			return
		}
		if now != st {
			st, schedule = now, t.schedule(now)
			due = t.nextProbeLocked(st, schedule)
		}
		demanded := t.demanded
		if demanded {
			due = began.Add(demandInterval) // which is over, as a rule
		}
		t.mu.Unlock()

		if wait := time.Until(due); wait > 0 {
			select {
			case <-t.wake:
				continue
			case <-time.After(wait):
			}
		}
		if !demanded && !t.mayProbe(st) { // another of the fleet does
			t.mu.Lock()
			if !st.down {
				schedule.Reset()
			}
			due = t.nextProbeLocked(st, schedule)
			t.mu.Unlock()
			continue
		}
		if began = time.Now(); demanded {
			t.mu.Lock()
			t.demanded = false
			t.mu.Unlock()
		}
		good := t.round(st)
		if good {
			schedule.Reset()
		}
		t.mu.Lock()
		due = t.nextProbeLocked(st, schedule)
		t.mu.Unlock()
	}
}

// nextProbeLocked returns when to probe next: as scheduled, or when the dwell is over
// if nothing else is missing for a fail-back.
func (t *Transport) nextProbeLocked(st *state, schedule *backoff.ExponentialBackOff) time.Time {
	due := time.Now().Add(schedule.NextBackOff())
	switch {
	case t.outage != nil:
		t.outage.until = due
	case st.provisional || st.pinned:
	default:
		dwell := t.rule.DwellUntil()
		if t.primaryRisenLocked() && time.Now().Before(dwell) && dwell.Before(due) {
			return dwell
		}
	}
	return due
}

// schedule returns the times between probes for a state.
func (t *Transport) schedule(st *state) *backoff.ExponentialBackOff {
	first, last := t.cfg.ProbeInterval, t.cfg.MaxProbeInterval
	if st.down || st.provisional {
		first, last = downInterval, maxDownInterval
	}
	return intervals(first, last, probeGrowth)
}

// intervals returns times that grow from first to last, jittered as probes are,
// without an end.
func intervals(first, last time.Duration, growth float64) *backoff.ExponentialBackOff {
	return backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(first), backoff.WithMaxInterval(last), backoff.WithMaxElapsedTime(0),
		backoff.WithMultiplier(growth), backoff.WithRandomizationFactor(probeJitter))
}

// holdLocked returns for how long nothing is asked again after an answer that leaves
// the traffic where it is. It grows until growth is nil again.
func (t *Transport) holdLocked() time.Duration {
	if t.growth == nil {
		t.growth = intervals(holdInterval, maxHold, 2)
	}
	return t.growth.NextBackOff()
}

// round probes once and acts on it. It reports whether the probes are good, so
// that the next ones may follow soon.
func (t *Transport) round(st *state) (good bool) {
	switch {
	case st.down:
		return t.tryRecovery(st)
	case st.pinned:
		good = t.runProbe(t.ctx, Primary) == nil
		if t.org.Alternate != nil {
			good = t.runProbe(t.ctx, Alternate) == nil && good
		}
		return good
	case st.provisional:
		return t.tryUndo(st)
	default:
		return t.tryFailback(st)
	}
}

// tryRecovery probes both endpoints while down, and lets the traffic go on at
// the one that serves, the active one if both do. The latch does not apply:
// there is nothing to move away from.
func (t *Transport) tryRecovery(st *state) (good bool) {
	found := t.probeBoth(t.ctx, st.active, time.Now(), func() bool { return false })
	if t.ctx.Err() != nil {
		return false
	}
	if found.Active == rule.Failed && found.Other != rule.Passed {
		t.reportFailure(st.active, 1) // still
	}
	p := t.poolAfter(found)
	t.mu.Lock()
	verdict := t.rule.Recover(rule.View{Epoch: st.epoch}, found.Findings)
	switch verdict {
	case rule.Stay:
		t.upLocked(p, found.whyStay(st.active)+found.addresses)
	case rule.GoDown, rule.Switch: // which may be objected to
		t.outage.faults = found.faults
		if t.outage.untold && time.Since(t.outage.since) >= downTold {
			t.tellDownLocked(st.active, verdict == rule.Switch)
		}
	}
	t.unlock()
	if verdict == rule.Stay {
		t.tellRecovery()
	}
	if verdict != rule.Switch {
		return verdict == rule.Stay
	}
	to := st.active.other()
	m := switchover{to: to, reason: fmt.Sprintf("of two endpoints that were down, the %v passes its probe first", to)}
	m.provisional, m.abandon = found.Other == rule.PassedWeakly, true // the active endpoint has failed
	var err error
	if m.alone, err = t.reportFailure(st.active, t.quorum(to, found.faults[st.active].Definitive)); err == nil {
		err = t.propose(t.ctx, st, m, 0)
	}
	return t.reportRefusal(st, to, err)
}

// tryUndo goes back to the endpoint that was left on weak evidence, if that passes:
// no dwell, latch or ManualFailback keeps the traffic where nothing proves that the
// organization is served.
func (t *Transport) tryUndo(st *state) (good bool) {
	left := st.active.other()
	if t.runProbe(t.ctx, left) != nil {
		return false
	}
	t.undoSwitch(st, fmt.Sprintf("the %v passes its probe, and the %v has not given a healthy answer", left, st.active), nil)
	return true
}

// tried takes note of a fault of a request that was sent under st, where a move on weak
// evidence has led the traffic. It was a trial: the first healthy answer confirms it, any
// other one takes it back. It reports whether the traffic has left the endpoint.
func (t *Transport) undoIfProvisional(st *state, f *Fault, own bool) (left bool) {
	if !st.provisional || own || f.Class == ClassLocal || f.Class == ClassCanceled || f.Class == ClassApplication || f.Endpoint != st.active {
		return false
	}
	if t.state.Load().epoch == st.epoch {
		t.undoSwitch(st, fmt.Sprintf("the %v does not answer requests in good health", st.active), f)
	}
	return t.state.Load().active != st.active
}

// undoSwitch undoes the move on weak evidence that has led to st, unless that is
// overtaken or the traffic is pinned. It is no switch that needs to be confirmed.
func (t *Transport) undoSwitch(st *state, reason string, f *Fault) {
	p := t.newPool()
	t.mu.Lock()
	defer t.unlock()
	if t.rule.MayUndo(rule.View{Epoch: st.epoch}) {
		t.switchLocked(switchover{to: st.active.other(), reason: reason, fault: f, undoes: true}, p, t.rule.Undo)
	}
}

// tryFailback probes the primary and returns to it once it has passed Rise
// times in a row and the alternate's dwell is over.
func (t *Transport) tryFailback(st *state) (good bool) {
	err := t.runProbe(t.ctx, Primary)
	t.countProbe(err == nil)
	switch {
	case err != nil:
		return false
	case !t.readyToFailBack(st):
		return true
	default:
		return t.reportRefusal(st, Primary, t.propose(t.ctx, st, switchover{to: Primary, reason: "the primary serves again"}, damping))
	}
}

// reportRefusal takes note of what came of a proposal, and reports whether the traffic has
// moved. The reason why it did not is told once.
func (t *Transport) reportRefusal(st *state, to Endpoint, err error) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil && !errors.Is(err, errOvertaken) && t.rule.Epoch == st.epoch && t.objection != err.Error() {
		t.objection = err.Error()
		t.emit(Event{Kind: EventSwitchRefused, From: st.active, To: to, Reason: err.Error()})
	}
	return err == nil
}

// readyToFailBack counts a good probe of the primary and reports whether it is time to
// return there.
func (t *Transport) readyToFailBack(st *state) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.rule.Epoch == st.epoch {
		t.endpoints[Primary].success()
	}
	return t.rule.MayReturn(time.Now(), rule.View{Epoch: st.epoch}, t.primaryRisenLocked())
}

// primaryRisenLocked reports whether enough probes of the primary have passed in a row:
// those made here, or by the fleet if it is this Transport's turn.
func (t *Transport) primaryRisenLocked() bool {
	return t.endpoints[Primary].breaker.state() == StateClosed || t.fleet.primaryRisen(t.cfg.Rise)
}
