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
	// downInterval is the first time between two rounds of probes while down or provisional;
	// it grows to maxDownInterval, plus jitter.
	downInterval    = time.Second
	maxDownInterval = 8 * time.Second
	// demandInterval is the minimum time between two rounds of probes while down, however
	// many callers bring credentials that have not been tried.
	demandInterval = downInterval / 4
	probeGrowth    = 1.5
	probeJitter    = 0.2

	// After a question that changed nothing, further ones are held for holdInterval. That
	// doubles with each such question, up to maxHold plus jitter, until a switch.
	holdInterval = time.Second
	maxHold      = 4 * time.Second
)

// needsWatchLocked reports whether endpoints must be probed in the background.
func (t *Transport) needsWatchLocked() bool {
	return t.rule.NeedsWatch(t.cfg.ProbeInterval != never)
}

// wakeWatch makes the watch goroutine look at the state again.
func (t *Transport) wakeWatch() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// watch probes in the background: both endpoints while down or pinned, the primary while the
// alternate is active, and the endpoint that a provisional switch left. It returns when there
// is nothing left to probe.
func (t *Transport) watch() {
	var st *state
	var schedule *backoff.ExponentialBackOff
	var due, began time.Time // when the next round is due, and when the last one began
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
			due = began.Add(demandInterval) // usually in the past
		}
		t.mu.Unlock()

		if wait := time.Until(due); wait > 0 {
			select {
			case <-t.wake:
				continue
			case <-time.After(wait):
			}
		}
		if !demanded && !t.mayProbe(st) { // another member probes
			t.mu.Lock()
			if !st.down {
				schedule.Reset()
			}
			due = t.nextProbeLocked(st, schedule)
			t.mu.Unlock()
			continue
		}
		began = time.Now()
		t.mu.Lock()
		t.demanded = false // by this round, also what was demanded during mayProbe
		t.mu.Unlock()
		if t.round(st) {
			schedule.Reset()
		}
		t.mu.Lock()
		due = t.nextProbeLocked(st, schedule)
		t.mu.Unlock()
	}
}

// nextProbeLocked returns when to probe next: as scheduled, or at the end of the dwell if a
// fail-back waits for nothing else.
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

// intervals returns intervals without end that grow from first to last, with the jitter of
// probes.
func intervals(first, last time.Duration, growth float64) *backoff.ExponentialBackOff {
	return backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(first), backoff.WithMaxInterval(last), backoff.WithMaxElapsedTime(0),
		backoff.WithMultiplier(growth), backoff.WithRandomizationFactor(probeJitter))
}

// holdLocked returns how long to hold further questions after one that changed nothing. It
// grows until a switch resets growth.
func (t *Transport) holdLocked() time.Duration {
	if t.growth == nil {
		t.growth = intervals(holdInterval, maxHold, 2)
	}
	return t.growth.NextBackOff()
}

// round makes one round of probes and acts on it. Good: the next round may follow soon.
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

// tryRecovery probes both endpoints while down. If one passes, it ends the outage there; the
// active one is preferred. The latch does not apply, because the active endpoint does not
// serve.
func (t *Transport) tryRecovery(st *state) (good bool) {
	found := t.probeBoth(t.ctx, st.active, time.Now(), func() bool { return false })
	if t.ctx.Err() != nil {
		return false
	}
	if found.Active == rule.Failed && found.Other != rule.Passed {
		t.reportFailure(st.active, 1) // renews it
	}
	p := t.poolAfter(found)
	t.mu.Lock()
	verdict := t.rule.Recover(rule.View{Epoch: st.epoch}, found.Findings)
	switch verdict {
	case rule.Stay:
		t.upLocked(p, found.whyStay(st.active)+found.addresses)
	case rule.GoDown, rule.Switch: // which may be refused
		t.outage.faults = found.faults
		if t.outage.untold && time.Since(t.outage.since) >= downReported {
			t.reportDownLocked(st.active, verdict == rule.Switch)
		}
	}
	t.unlock()
	if verdict == rule.Stay {
		t.announceRecovery()
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

// tryUndo undoes a provisional switch if the endpoint that was left passes its probe. Neither
// dwell, latch nor ManualFailback prevents that, because nothing proves that the active
// endpoint serves.
func (t *Transport) tryUndo(st *state) (good bool) {
	left := st.active.other()
	if t.runProbe(t.ctx, left) != nil {
		return false
	}
	t.undoSwitch(st, fmt.Sprintf("the %v passes its probe, and the %v has not given a healthy answer", left, st.active), nil)
	return true
}

// undoIfProvisional undoes the provisional switch that led to st, if there is one, because a
// request under st met f. Own: the caller's own deadline has passed. It reports whether the
// traffic has left the endpoint.
func (t *Transport) undoIfProvisional(st *state, f *Fault, own bool) (left bool) {
	if !st.provisional || own || f.Class == ClassLocal || f.Class == ClassCanceled || f.Class == ClassApplication || f.Endpoint != st.active {
		return false
	}
	if t.state.Load().epoch == st.epoch {
		t.undoSwitch(st, fmt.Sprintf("the %v does not answer requests in good health", st.active), f)
	}
	return t.state.Load().active != st.active
}

// undoSwitch undoes the provisional switch that led to st, unless the state has changed. It
// does not call Config.ConfirmSwitch.
func (t *Transport) undoSwitch(st *state, reason string, f *Fault) {
	p := t.newPool()
	t.mu.Lock()
	defer t.unlock()
	if t.rule.MayUndo(rule.View{Epoch: st.epoch}) {
		t.switchLocked(switchover{to: st.active.other(), reason: reason, fault: f, undoes: true}, p, t.rule.Undo)
	}
}

// tryFailback probes the primary, and fails back once it has passed Rise times in a row and
// the dwell is over.
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

// reportRefusal reports why a proposed switch was refused, unless the last one was refused for
// the same reason. It returns whether the switch was made.
func (t *Transport) reportRefusal(st *state, to Endpoint, err error) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil && !errors.Is(err, errOvertaken) && t.rule.Epoch == st.epoch && t.lastRefusal != err.Error() {
		t.lastRefusal = err.Error()
		t.emit(Event{Kind: EventSwitchRefused, From: st.active, To: to, Reason: err.Error()})
	}
	return err == nil
}

// readyToFailBack counts a passed probe of the primary and reports whether to fail back.
func (t *Transport) readyToFailBack(st *state) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.rule.Epoch == st.epoch {
		t.endpoints[Primary].success()
	}
	return t.rule.MayReturn(time.Now(), rule.View{Epoch: st.epoch}, t.primaryRisenLocked())
}

// primaryRisenLocked reports whether enough probes of the primary have passed in a row:
// probes of this Transport, or of the fleet if it is this Transport's turn.
func (t *Transport) primaryRisenLocked() bool {
	return t.endpoints[Primary].breaker.state() == StateClosed || t.fleet.primaryRisen(t.cfg.Rise)
}
