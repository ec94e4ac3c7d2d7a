package failover

import (
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v4"
)

// This file probes endpoints in the background: while down, pinned or failed over.

// needsWatch reports whether endpoints have to be probed without traffic.
func (t *Transport) needsWatch(st *state) bool {
	away := st.active == Alternate || st.pinned
	return !st.closed && (st.down != nil || away && t.cfg.ProbeInterval != never)
}

const (
	// downInterval is the first time between two rounds of probes while down;
	// it grows to maxDownInterval, jitter excluded.
	downInterval    = time.Second
	maxDownInterval = 8 * time.Second
	probeGrowth     = 1.5
	probeJitter     = 0.2
)

// watch probes whatever has to be probed without traffic: both endpoints while
// down or pinned, the primary while the alternate is active. It ends when
// nothing is left to watch.
func (t *Transport) watch() {
	var st *state
	var schedule *backoff.ExponentialBackOff
	var due time.Time
	for {
		t.mu.Lock()
		now := t.state.Load()
		if !t.needsWatch(now) {
			t.watching = false
			t.mu.Unlock()
			return
		}
		if now != st {
			st, schedule = now, t.schedule(now)
			due = t.nextProbe(st, schedule)
		}
		t.mu.Unlock()

		select {
		case <-t.wake:
			continue
		case <-time.After(time.Until(due)):
		}
		if t.round(st) {
			schedule.Reset()
		}
		t.mu.Lock()
		due = t.nextProbe(st, schedule)
		t.mu.Unlock()
	}
}

// nextProbe returns when to probe next: as scheduled, or when the dwell is over
// if nothing else is missing for a fail-back. mu is held.
func (t *Transport) nextProbe(st *state, schedule *backoff.ExponentialBackOff) time.Time {
	due := time.Now().Add(schedule.NextBackOff())
	if st.down != nil {
		st.down.until = due
		return due
	}
	dwell := t.dwellUntil(st)
	if !st.pinned && t.endpoints[Primary].breaker.state() == StateClosed && time.Now().Before(dwell) && dwell.Before(due) {
		return dwell
	}
	return due
}

// schedule returns the times between probes for a state.
func (t *Transport) schedule(st *state) *backoff.ExponentialBackOff {
	first, last := t.cfg.ProbeInterval, t.cfg.MaxProbeInterval
	if st.down != nil {
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

// round probes once and acts on it. It reports whether the probes are good, so
// that the next ones may follow soon.
func (t *Transport) round(st *state) (good bool) {
	switch {
	case st.down != nil:
		return t.tryRecovery(st)
	case st.pinned:
		primary, alternate := t.runProbe(t.ctx, Primary), t.runProbe(t.ctx, Alternate)
		return primary == nil && alternate == nil
	default:
		return t.tryFailback(st)
	}
}

// tryRecovery probes both endpoints while down, and lets the traffic go on at
// the one that serves, the active one if both do. The latch does not apply:
// there is nothing to move away from.
func (t *Transport) tryRecovery(st *state) (good bool) {
	v, faults := t.consult(t.ctx, st.active, func() bool { return false })
	if v == move {
		to := st.active.other()
		fenced := faults[st.active] != nil && faults[st.active].Definitive
		err := t.witness(st.active, t.quorum(to, fenced))
		if err == nil {
			err = t.propose(t.ctx, st, to, fmt.Sprintf("of two endpoints that were down, the %v passes its probe first", to), nil, 0)
		}
		return t.moved(st, to, err)
	}
	if v == down {
		t.witness(st.active, 1) // still
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.state.Load() != st {
		return false
	}
	if v == stay {
		t.comeUp(fmt.Sprintf("the %v answers its probe", st.active))
		return true
	}
	st.down.faults = faults
	return false
}

// tryFailback probes the primary and returns to it once it has passed Rise
// times in a row and the alternate's dwell is over.
func (t *Transport) tryFailback(st *state) (good bool) {
	if !t.leads() {
		return false
	}
	err := t.runProbe(t.ctx, Primary)
	t.endRound(st, err == nil)
	switch {
	case err != nil:
		return false
	case !t.risen(st):
		return true
	default:
		return t.moved(st, Primary, t.propose(t.ctx, st, Primary, "the primary serves again", nil, damping))
	}
}

// moved takes note of what came of a proposal, and reports whether the traffic has
// moved. The reason why it did not is told once.
func (t *Transport) moved(st *state, to Endpoint, err error) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil && t.state.Load() == st && t.objection != err.Error() {
		t.objection = err.Error()
		t.emit(Event{Kind: EventSwitchRefused, From: st.active, To: to, Reason: err.Error()})
	}
	return err == nil
}

// risen counts a good probe of the primary and reports whether it is time to
// return there.
func (t *Transport) risen(st *state) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.state.Load() != st {
		return false
	}
	primary := &t.endpoints[Primary]
	primary.success()
	return primary.breaker.state() == StateClosed && !t.cfg.ManualFailback && !time.Now().Before(t.dwellUntil(st))
}
