package failover

import (
	"fmt"
	"time"

	"github.com/d365failover/failover/internal/rule"
)

// This file carries out what the rule has decided: it publishes where traffic goes and over
// which connections, and reports it.

// A state is an immutable picture of where traffic goes. Every attempt loads it once. A change
// replaces it and closes changed.
type state struct {
	active      Endpoint
	generation  uint64 // number of switches
	epoch       uint64 // number of judgements: switches, and ends of outages
	since       time.Time
	pinned      bool
	down        bool // neither endpoint has proved that it serves
	provisional bool // see rule.View
	closed      bool
	pool        *pool // the connections for requests
	changed     chan struct{}
}

// outage is what is known while neither endpoint serves. Transport.mu guards it.
type outage struct {
	since  time.Time
	faults [2]*Fault // by endpoint, of the probes that failed
	until  time.Time // when both are probed again
	untold bool      // not reported yet: see downQuiet
}

const (
	// damping is how long switches are remembered.
	damping = time.Hour
	// fenceDamping is the same for switches that a fence asks for. These must not wait, but
	// two endpoints that pass their probes and refuse requests must not pass every request
	// back and forth.
	fenceDamping = time.Minute
	// maxSwitches within that time latch the Transport: something is wrong that further
	// switches will not fix, and each puts a few seconds of writes at risk.
	maxSwitches = 4
	// keptSwitches is the maximum number of remembered switches.
	keptSwitches = 16
	// findingsFresh is how long the findings of an early question replace new probes.
	findingsFresh = 2 * time.Second
	// provisionalPause is the pause between a provisional switch that was undone and the next
	// one. It doubles each time, up to an hour.
	provisionalPause = time.Minute

	// In a brown-out, down and up alternate. Of outages that follow each other within
	// downQuiet, those after the first maxDowns are reported only if they last for downReported.
	downQuiet    = 10 * time.Minute
	maxDowns     = 3
	downReported = 30 * time.Second
)

// newRule returns the rule of a Transport.
func newRule(c *Config, org *Org, now time.Time) rule.Rule {
	return rule.Rule{
		View: rule.View{Since: now},
		Limits: rule.Limits{
			Single: org.Alternate == nil, Manual: c.ManualFailback, MinDwell: c.MinDwell,
			Damping: damping, FenceDamping: fenceDamping, MaxSwitches: maxSwitches, Keep: keptSwitches, Fresh: findingsFresh, ProvisionalPause: provisionalPause,
		},
	}
}

// publishLocked makes the view of the rule the state that requests use, with the connections
// of p, or with the present ones if p is nil. It wakes everything that waits for a change, and
// starts the watch if endpoints must be watched. Old connections are closed by unlock.
func (t *Transport) publishLocked(p *pool) {
	v, old := t.rule.View, t.state.Load()
	next := &state{
		active: Endpoint(v.Active), generation: v.Generation, epoch: v.Epoch, since: v.Since,
		pinned: v.Pinned, down: v.Down, provisional: v.Provisional, closed: v.Closed,
		pool: p, changed: make(chan struct{}),
	}
	if p == nil {
		next.pool = old.pool
	}
	if next.down || next.provisional {
		t.endpoints[next.active].suspect.Store(true) // waits for its first success
	}
	t.state.Store(next)
	close(old.changed)
	if next.pool != old.pool {
		t.left = old.pool
	}
	if q := t.question; q != nil && (next.epoch != old.epoch || next.pinned || next.closed) {
		q.cancel()
	}
	if t.needsWatchLocked() && !t.watching {
		t.watching = true
		if t.wake == nil {
			t.wake = make(chan struct{}, 1)
		}
		t.wg.Go(t.watch)
	}
	t.wakeWatch()
}

// unlock releases mu and then closes the connections retired meanwhile: that takes time, and
// Base may be the program's own.
func (t *Transport) unlock() {
	left := t.left
	t.left = nil
	t.mu.Unlock()
	if left != nil {
		left.retire()
	}
}

// spawn runs f in a goroutine that Close waits for. It reports false after Close.
func (t *Transport) spawn(f func()) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.rule.Closed {
		return false
	}
	t.wg.Go(f)
	return true
}

// A switchover is a switch that is being made.
type switchover struct {
	to          Endpoint
	reason      string
	fault       *Fault // that led to it, or nil
	provisional bool
	undoes      bool // a provisional switch
	abandon     bool // the old endpoint does not answer: abandon the reads that wait there
	follows     bool // the fleet
	alone       bool // made without the required quorum, because nobody could be asked
}

// switchLocked carries out a switch, with the connections of p. The rule makes it by calling by.
func (t *Transport) switchLocked(m switchover, p *pool, by func(now time.Time) (latched bool)) {
	old := t.state.Load()
	now := time.Now()
	from, down := old.active, t.rule.Down
	latched := by(now)
	loss := t.reportLossLocked(from, m.to, t.rule.Epoch, m.reason)
	if m.to == Alternate {
		t.endpoints[Primary].trip()
	} else {
		t.endpoints[Alternate].reset()
	}
	t.endpoints[m.to].reset()
	t.growth = nil
	t.lastRefusal = ""
	if down {
		t.endOutageLocked(now)
	}
	t.publishLocked(p)
	t.leftProvisionally = nil
	switch {
	case m.abandon && m.provisional:
		t.leftProvisionally = old.pool
	case m.abandon:
		old.pool.waits.abandon()
	}
	t.fleet.noteSwitch(m, t.rule.Pinned)
	t.emit(Event{Kind: EventSwitched, From: from, To: m.to, Reason: m.reason, Fault: m.fault, Loss: loss})
	t.reportTokensLocked(from, m.to)
	if latched {
		t.reportLatchedLocked()
	}
}

// reportTokensLocked warns about tokens from before an outage.
func (t *Transport) reportTokensLocked(from, to Endpoint) {
	what := fmt.Sprintf("delta tokens, session tokens and ETags that were issued before may not match the content of the %v", to)
	if from == to {
		what = fmt.Sprintf("delta tokens, session tokens and ETags that were issued before may not match what the %v serves now", to)
	}
	t.emit(Event{Kind: EventTokensSuspect, From: from, To: to, Reason: what})
}

func (t *Transport) reportLatchedLocked() {
	e := t.state.Load().active
	t.emit(Event{Kind: EventLatched, From: e, To: e, Reason: fmt.Sprintf("%d switches within an hour", maxSwitches)})
}

// rememberLocked takes over the times of the fleet's switches.
func (t *Transport) rememberLocked(switches []time.Time) {
	if t.rule.Remember(time.Now(), switches) {
		t.reportLatchedLocked()
	}
}

// renewLocked stays at the active endpoint after a false alarm, with the connections of p: the
// rule has begun a new epoch. There may now be another place behind the address, in which case
// earlier writes are at risk. Moved says what suggests that, "" if nothing does.
func (t *Transport) renewLocked(p *pool, reason, moved string, q *question) {
	e := t.state.Load().active
	event := Event{Kind: EventRenewed, From: e, To: e, Reason: reason + "; " + moved, Fault: q.fault}
	if moved != "" {
		event.Loss = t.reportLossLocked(e, e, t.rule.Epoch, event.Reason)
	}
	t.endpoints[e].reset()
	t.publishLocked(p)
	if moved == "" {
		t.refusedLocked(q, reason)
		return
	}
	t.emit(event)
	t.reportTokensLocked(e, e)
}

// downLocked begins an outage: the rule has found that neither endpoint serves.
func (t *Transport) downLocked(faults [2]*Fault) {
	now := time.Now()
	e := t.state.Load().active
	recent := t.downs[:0]
	for _, at := range t.downs {
		if now.Sub(at) < downQuiet {
			recent = append(recent, at)
		}
	}
	t.downs = append(recent, now)
	t.outage = &outage{since: now, faults: faults, until: now.Add(downInterval), untold: len(t.downs) > maxDowns}
	t.downs = t.downs[max(0, len(t.downs)-maxDowns-1):]
	t.publishLocked(nil)
	if !t.outage.untold {
		t.reportDownLocked(e, false)
	}
}

// reportDownLocked reports an outage. Stuck: the other endpoint passes its probe, but the
// traffic may not switch.
func (t *Transport) reportDownLocked(e Endpoint, stuck bool) {
	t.outage.untold = false
	reason := "neither endpoint passes its probe"
	switch {
	case t.org.Alternate == nil:
		reason = "the endpoint does not pass its probe"
	case stuck:
		reason = fmt.Sprintf("the %v does not pass its probe, and no switch is allowed", e)
	}
	if len(t.downs) > maxDowns {
		reason += ", again"
	}
	t.emit(Event{Kind: EventDown, From: e, To: e, Reason: reason, Fault: t.outage.faults[e]})
}

// upLocked ends an outage at the active endpoint, with the connections of p: the rule has
// begun a new epoch. If p is nil, a request was answered over a connection older than the
// outage, and the present connections are kept.
func (t *Transport) upLocked(p *pool, reason string) {
	e := t.state.Load().active
	told := !t.outage.untold
	t.endOutageLocked(time.Now())
	loss := t.reportLossLocked(e, e, t.rule.Epoch, reason)
	t.lastRefusal = ""
	t.endpoints[e].reset()
	t.publishLocked(p)
	if told {
		t.emit(Event{Kind: EventUp, From: e, To: e, Reason: reason, Loss: loss})
		t.reportTokensLocked(e, e)
	}
}

// endOutageLocked records how long an outage lasted.
func (t *Transport) endOutageLocked(now time.Time) {
	t.timeDown += now.Sub(t.outage.since)
	t.outage = nil
}

// timeDownLocked returns how long the Transport has been down in total.
func (t *Transport) timeDownLocked() time.Duration {
	if t.outage == nil {
		return t.timeDown
	}
	return t.timeDown + time.Since(t.outage.since)
}

// downInfo returns the faults that the last probes of an outage met, and the time until the
// next probes.
func (t *Transport) downInfo() (faults [2]*Fault, retryAfter time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.outage == nil {
		return faults, 0
	}
	return t.outage.faults, max(0, time.Until(t.outage.until))
}

// answered records a healthy answer of the active endpoint to a request that was sent under
// st: it clears the faults, and is proof of life. W is how the request was sent, nil if that
// is not known. If its connection is new, or leads elsewhere than earlier ones, older
// connections may lead to a place that no longer serves.
func (t *Transport) answered(st *state, w *sendWatch) {
	if t.endpoints[st.active].suspect.Load() {
		t.clearFaults(st, w)
	}
}

// clearFaults is answered for an endpoint that has recorded faults, or whose success is
// awaited.
func (t *Transport) clearFaults(st *state, w *sendWatch) {
	e := &t.endpoints[st.active]
	var p *pool // nil keeps the present connections
	var moved string
	now := t.state.Load()
	if now.down && now.epoch == st.epoch {
		known := w.saw(sawGotConn)
		if known {
			e.addresses.see(w.address, time.Now())
		}
		if moved = e.addresses.news(time.Now()); moved != "" || known && !w.saw(sawReuse) {
			p = t.newPool()
		}
	}
	t.mu.Lock()
	if t.state.Load() != now { // overtaken: look again
		t.mu.Unlock()
		t.answered(st, w)
		return
	}
	defer t.unlock()
	if now.epoch != st.epoch {
		return
	}
	e.lastWhole = time.Since(t.started)
	up, confirmed := t.rule.Healthy(time.Now(), st.epoch, t.holdLocked())
	defer e.success() // releases the anchor that the report needs
	switch {
	case up:
		t.upLocked(p, fmt.Sprintf("the %v answers a request%s", st.active, moved))
	case confirmed:
		t.publishLocked(nil)
		if t.leftProvisionally != nil {
			t.leftProvisionally.waits.abandon()
			t.leftProvisionally = nil
		}
		if !t.rule.Pinned {
			t.fleet.announce(fmt.Sprintf("the %v answers requests", st.active))
		}
	}
}
