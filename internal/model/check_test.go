package model_test

import (
	"slices"
	"strings"
	"time"

	"github.com/d365failover/failover"
)

// The invariants. The model compares what the Transport reports (events, Status) with what the
// world has seen.

// observe is Config.OnEvent. It checks every change against what the world has seen so far.
func (m *model) observe(e failover.Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.add("event %v %v->%v gen %d: %s", e.Kind, e.From, e.To, e.Generation, e.Reason)
	if m.ended {
		m.fail("event %v after Close", e.Kind)
	}
	next := m.now
	next.from = e.Time
	switch e.Kind {
	case failover.EventTripped:
		m.checkTrip(e)
	case failover.EventSwitched:
		m.made[e.Reason] = true
		m.checkSwitch(e)
		next.active, next.generation, next.down = e.To, e.Generation, false
		if undoes(e) {
			m.dwells = m.dwelt
		} else {
			m.dwelt, m.dwells = m.dwells, e.Time
		}
		if n := len(m.switches); !undoes(e) {
			m.switches = append(m.switches, e.Time)
		} else if n > 0 && m.switches[n-1].Equal(m.switched) {
			m.switches = m.switches[:n-1] // the switch and its undoing cancel out
		}
		m.switched = e.Time
	case failover.EventSwitchRefused:
		if strings.HasSuffix(e.Reason, "answers its probe") || strings.Contains(e.Reason, "is inconclusive: ") {
			m.cleared = e.Time
		}
	case failover.EventRenewed:
		if !m.found(m.now.active, good, weak, unclear) {
			m.fail("renewed without a sign of life")
		}
		m.cleared = e.Time
	case failover.EventDown:
		active, other, stuck := m.now.active, m.now.active^1, strings.Contains(e.Reason, "no switch is allowed")
		if m.now.down || m.now.pinned || !m.found(active, bad) || !stuck && !m.single() && !m.found(other, bad, unclear, weak) {
			m.fail("down without two failed probes")
		}
		next.down = true
		m.downs = append(m.downs, e.Time)
	case failover.EventUp:
		m.checkRecovery(e.Time)
		if !m.now.down || !strings.HasSuffix(e.Reason, "answers a request") && !m.found(m.now.active, good, weak, unclear) {
			m.fail("up without a sign of life")
		}
		m.cleared = e.Time
		next.down = false
	case failover.EventPinned:
		next.pinned, next.down = true, false
	case failover.EventUnpinned:
		next.pinned, m.switches = false, nil
	}
	if next.generation != e.Generation && e.Kind != failover.EventPinned {
		m.fail("%v in generation %d, the last switch led to %d", e.Kind, e.Generation, next.generation)
	}
	if e.Kind != failover.EventProbed {
		m.now = next
		m.history = append(m.history, next)
	}
}

// single reports whether the organization has one address.
func (m *model) single() bool { return m.cfg.Alternate == failover.NoAlternate }

// checkTrip: neither faults of an older generation nor canceled callers trip a breaker.
func (m *model) checkTrip(e failover.Event) {
	since := m.lastServed(e.From, m.switched, e.Time)
	if m.cleared.After(since) {
		since = m.cleared
	}
	n, trips := m.evidenceSince(e.From, m.switched, since)
	if e.From != m.now.active {
		m.fail("the %v trips, which is not active", e.From)
	}
	if threshold := orDefault(m.cfg.FailureThreshold, 3, 0); n < threshold && !trips {
		m.fail("the %v trips with %d faults on record, threshold %d", e.From, n, threshold)
	}
}

// undoes reports whether a switch undoes a provisional one.
func undoes(e failover.Event) bool {
	return refutes(e) || strings.HasSuffix(e.Reason, "has not given a healthy answer")
}

// refutes reports whether it does so because of the answer to a request.
func refutes(e failover.Event) bool {
	return strings.HasSuffix(e.Reason, "does not answer requests in good health")
}

// checkSwitch: a switch is manual, or it has a passed probe of the target, a failed probe of
// the active endpoint (or its fence), and the consent of the latch and of ConfirmSwitch.
func (m *model) checkSwitch(e failover.Event) {
	if m.single() {
		m.fail("a switch, and one address")
	}
	if e.From != m.now.active || e.To != e.From^1 || e.Generation != m.now.generation+1 {
		m.fail("switch from %v to %v in generation %d does not follow on %v in %d", e.From, e.To, e.Generation, m.now.active, m.now.generation)
	}
	m.switches = slices.DeleteFunc(m.switches, func(at time.Time) bool { return e.Time.Sub(at) >= time.Hour })
	if e.Reason == "pinned by hand" {
		if !m.now.pinned {
			m.fail("a switch by Pin, and not pinned")
		}
		return
	}
	back := undoes(e)
	if !refutes(e) && !m.found(e.To, good, weak) {
		m.fail("switch to the %v, which did not pass a probe", e.To)
	}
	if m.byHand[e.Reason] {
		m.switches = nil
		return
	}
	fenced := m.fenced(e.From, m.switched)
	down := strings.HasPrefix(e.Reason, "of two endpoints that were down")
	if down && !m.now.down && !m.damped() {
		m.fail("a switch out of down, and not down")
	}
	switch {
	case m.now.pinned:
		m.fail("automatic switch while pinned")
	case !back && !m.agreed[agreement{e.To, e.Time.Round(0)}]:
		m.fail("switch to the %v without ConfirmSwitch", e.To)
	case m.now.down:
		m.checkRecovery(e.Time)
	case down:
	case back:
		since := m.switched
		for _, p := range m.probes[e.From] { // may have led to a renewal, before which answers do not count
			if p.found != bad && p.ended.After(since) {
				since = p.ended
			}
		}
		if m.lastServed(e.From, since, e.Time).After(since) {
			m.fail("a move is taken back although the %v has served", e.From)
		}
	case e.Fault == nil:
		m.checkFailback(e)
	case !fenced && !m.found(e.From, bad):
		m.fail("switch away from the %v, which did not fail a probe", e.From)
	}
	if len(m.switches) >= 4 && !m.now.down && !down && !back && !fenced {
		m.fail("an undirected switch after %d within the hour", len(m.switches))
	}
}

// checkFailback: the traffic returns to the primary only after Rise passed probes and the
// dwell.
func (m *model) checkFailback(e failover.Event) {
	rise := orDefault(m.cfg.Rise, 3, 1)
	dwell := orDefault(m.cfg.MinDwell, 5*time.Minute, 0)
	if n := m.risen(m.switched); n < rise {
		m.fail("fail-back after %d good probes", n)
	}
	if stay := e.Time.Sub(m.dwells); stay < dwell || e.To != failover.Primary || m.cfg.ManualFailback {
		m.fail("fail-back to the %v after %v", e.To, stay)
	}
}

// longestDown is how long the Transport may stay down although an endpoint serves: one round
// of probes that began too early, the longest pause between two rounds, and one more round.
const longestDown = 5*time.Second + 10*time.Second + 5*time.Second

// checkRecovery: the Transport does not stay down while an endpoint is healthy.
func (m *model) checkRecovery(now time.Time) {
	for e, healthy := range m.healthy {
		if !m.now.down || healthy.IsZero() || m.single() && failover.Endpoint(e) == failover.Alternate {
			continue
		}
		since := healthy
		for _, t := range []time.Time{m.now.from, m.vetoed} {
			if t.After(since) {
				since = t
			}
		}
		if d := now.Sub(since); d > longestDown && !m.vetoes && m.busy == 0 {
			m.fail("down for %v although an endpoint serves", d)
		}
	}
}

// check checks the rest. Call it when all goroutines are blocked.
func (m *model) check() {
	status := m.transport.Status()
	m.mu.Lock()
	defer m.mu.Unlock()
	got := epoch{m.now.from, status.Generation, status.Active, status.Down, status.Pinned}
	if status.Down && m.damped() {
		got.down = m.now.down // it need not have been reported
	}
	if got != m.now && !m.closing {
		m.fail("status is %+v, events led to %+v", status, m.now)
	}
	if status.Pinned && status.Down {
		m.fail("pinned and down")
	}
	if !m.closing {
		m.checkRecovery(time.Now())
	}
	side := [2]failover.EndpointStatus{status.Primary, status.Alternate}[status.Active]
	if n, _ := m.evidenceSince(status.Active, m.switched, time.Time{}); n == 0 && side.State != failover.StateClosed {
		m.fail("the breaker of the %v is %v without a fault since the last switch", status.Active, side.State)
	}
	for _, a := range m.arrivals[m.checked:] {
		if !m.mayArrive(a) {
			m.fail("a request at the %v at %v, where it had no business", a.side, a.at.Sub(m.trail.origin))
		}
	}
	m.checked = len(m.arrivals)
	for id, n := range m.reached {
		if n > 1 && strings.HasPrefix(id, "once") {
			m.fail("write %s may have been carried out %d times", id, n)
		}
	}
}

// damped reports whether there were so many outages that further ones may go unreported. The
// model does not know those, although they count as well.
func (m *model) damped() bool {
	for i := 2; i < len(m.downs); i++ {
		if m.downs[i].Sub(m.downs[i-2]) < 10*time.Minute {
			return true
		}
	}
	return false
}

// mayArrive: all traffic of a generation goes to one endpoint. With FailFast, none is sent
// while down.
func (m *model) mayArrive(a arrival) bool {
	for i, epoch := range m.history {
		last := i+1 == len(m.history)
		if !a.at.Before(epoch.from) && (last || !a.at.After(m.history[i+1].from)) &&
			a.side == epoch.active && (!epoch.down || !m.cfg.FailFast) {
			return true
		}
	}
	return false
}
