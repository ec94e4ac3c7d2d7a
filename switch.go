package failover

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v4"
)

// This file holds the one rule of switching. The alternate's own answer is the
// arbiter of whether a failover happened: nobody announces one, and in normal
// times the alternate does not serve.

// outcome of a probe.
type outcome uint8

const (
	pending outcome = iota
	passed
	failed
	// inconclusive: the endpoint answered, but with something that proves
	// neither that it serves nor that it does not (403, 404, a bare 401).
	inconclusive
)

// verdict of a decision.
type verdict uint8

const (
	undecided verdict = iota
	stay              // a false alarm: the active endpoint answers
	move              // the other endpoint has taken over
	down              // neither endpoint serves
)

// judge applies the rule to what the probes have shown so far. definitive: the
// active endpoint has said itself that it does not serve.
func judge(definitive bool, active, other outcome) verdict {
	switch {
	case other == passed && (definitive || active == failed):
		return move
	case active == pending || (definitive || active == failed) && other == pending:
		return undecided
	case active == failed:
		return down
	default:
		return stay
	}
}

// decision is one run of the rule, shared by all callers that met the outage.
type decision struct {
	done   chan struct{}      // closed when the verdict has taken effect
	cancel context.CancelFunc // ends the probes: there is nothing left to decide
	// definitive is guarded by Transport.mu.
	definitive bool
}

// hold is the memory of a decision that changed nothing, so that a storm of
// failing requests does not become a storm of probes. Stronger evidence than
// the decision had overrides it.
type hold struct {
	until      time.Time
	definitive bool
	growth     *backoff.ExponentialBackOff
}

// extend starts or prolongs the hold.
func (h *hold) extend(definitive bool) {
	if h.growth == nil {
		h.growth = backoff.NewExponentialBackOff(
			backoff.WithInitialInterval(time.Second), backoff.WithMultiplier(2),
			backoff.WithMaxInterval(30*time.Second), backoff.WithMaxElapsedTime(0))
	}
	if time.Since(h.until) > time.Minute { // long quiet
		h.growth.Reset()
	}
	h.until, h.definitive = time.Now().Add(h.growth.NextBackOff()), definitive
}

// covers reports whether a decision on such evidence would only repeat the last.
func (h *hold) covers(definitive bool) bool {
	return time.Now().Before(h.until) && (h.definitive || !definitive)
}

// report takes note of a fault that an attempt made under st has met. It
// returns the decision that the fault has led to, or nil.
func (t *Transport) report(st *state, f *Fault) *decision {
	e := &t.endpoints[f.Endpoint]
	e.record(f)
	if !f.counted() {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.state.Load()
	if now.generation != st.generation || now.closed {
		return nil // old news from before a switch
	}
	wasClosed := e.breaker.state() == StateClosed
	if !e.fault(f) {
		return nil
	}
	if wasClosed {
		t.emit(Event{Kind: EventTripped, From: f.Endpoint, To: f.Endpoint, Reason: t.tripReason(f), Fault: f})
	}
	return t.decide(now, f)
}

// tripReason says why fault f has opened the breaker.
func (t *Transport) tripReason(f *Fault) string {
	switch {
	case f.Definitive:
		return fmt.Sprintf("the %v says that it does not serve", f.Endpoint)
	case f.RetryAfter > 0:
		return fmt.Sprintf("the %v asks to be left alone for %v", f.Endpoint, f.RetryAfter)
	default:
		return fmt.Sprintf("%d faults in a row", t.cfg.FailureThreshold)
	}
}

// decide starts a decision or joins the one under way. mu is held.
func (t *Transport) decide(st *state, f *Fault) *decision {
	if t.decision != nil {
		t.decision.definitive = t.decision.definitive || f.Definitive
		return t.decision
	}
	if st.down != nil || st.pinned || t.hold.covers(f.Definitive) {
		return nil
	}
	ctx, cancel := context.WithCancel(t.ctx)
	d := &decision{done: make(chan struct{}), cancel: cancel, definitive: f.Definitive}
	t.decision = d
	t.wg.Go(func() {
		defer close(d.done)
		defer cancel()
		t.settle(ctx, st, d, f)
	})
	return d
}

// settle probes both endpoints and carries the verdict out.
func (t *Transport) settle(ctx context.Context, st *state, d *decision, f *Fault) {
	definitive := func() bool {
		t.mu.Lock()
		defer t.mu.Unlock()
		return d.definitive
	}
	v, faults := t.consult(ctx, st.active, definitive)
	refusal := error(nil)
	switch v {
	case move:
		to := st.active.other()
		memory, quorum := damping, t.cfg.Quorum
		if definitive() { // the service itself sends the traffic away
			memory, quorum = fenceDamping, 1
		}
		if refusal = t.witness(st.active, quorum); refusal == nil {
			refusal = t.propose(st, to, fmt.Sprintf("the %v does not serve, the %v passes its probe", st.active, to), f, memory)
		}
	case down:
		t.witness(st.active, 1)
	}

	t.mu.Lock()
	defer t.mu.Unlock()
	t.decision = nil
	if t.state.Load() != st {
		return // moved, by this decision or by hand, or closed
	}
	switch v {
	case move:
		t.refuse(st, d, f, refusal)
	case down:
		t.goDown(faults)
	default:
		t.endpoints[st.active].reset()
		t.refuse(st, d, f, fmt.Errorf("the %v answers its probe", st.active))
	}
}

// refuse keeps the traffic where it is, for the time of the hold. mu is held.
func (t *Transport) refuse(st *state, d *decision, f *Fault, why error) {
	t.hold.extend(d.definitive)
	t.emit(Event{Kind: EventSwitchRefused, From: st.active, To: st.active.other(), Reason: why.Error(), Fault: f})
}

// propose moves the traffic to an endpoint that has passed its probe, unless the
// state has changed, there were too many switches within memory, or
// Config.ConfirmSwitch objects. It returns why it did not.
func (t *Transport) propose(st *state, to Endpoint, reason string, f *Fault, memory time.Duration) error {
	t.mu.Lock()
	latched, overtaken := t.latched(memory), t.state.Load() != st
	t.mu.Unlock()
	if overtaken {
		return errOvertaken
	}
	if latched {
		return fmt.Errorf("latched after %d switches within %v", maxSwitches, memory)
	}
	if err := t.confirm(st.active, to, reason, f); err != nil {
		return fmt.Errorf("not confirmed: %w", forShow(err))
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.state.Load() != st {
		return errOvertaken
	}
	t.moveTo(to, reason, f)
	return nil
}

var errOvertaken = errors.New("overtaken by another change")

// confirmTimeout bounds Config.ConfirmSwitch.
const confirmTimeout = 30 * time.Second

// confirm asks Config.ConfirmSwitch, if there is one.
func (t *Transport) confirm(from, to Endpoint, reason string, f *Fault) error {
	if t.cfg.ConfirmSwitch == nil {
		return nil
	}
	proposal := Switch{From: from, To: to, Reason: reason, Fault: f, Loss: t.lossReport(from)}
	ctx, cancel := context.WithTimeout(t.ctx, confirmTimeout)
	defer cancel()
	answer := make(chan error, 1)
	t.wg.Go(func() { answer <- t.cfg.ConfirmSwitch(ctx, proposal) })
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// consult probes both endpoints at the same time until the rule has a verdict,
// and returns it with the faults of the probes by endpoint.
func (t *Transport) consult(ctx context.Context, active Endpoint, definitive func() bool) (verdict, [2]*Fault) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		endpoint Endpoint
		err      error
	}
	results := make(chan result, 2)
	for _, e := range []Endpoint{Primary, Alternate} {
		t.wg.Go(func() { results <- result{e, t.runProbe(ctx, e)} })
	}
	var outcomes [2]outcome
	var faults [2]*Fault
	for range outcomes {
		r := <-results
		outcomes[r.endpoint], faults[r.endpoint] = probeOutcome(r.endpoint, r.err)
		if v := judge(definitive(), outcomes[active], outcomes[active.other()]); v != undecided {
			return v, faults
		}
	}
	return stay, faults
}

// moveTo makes e the active endpoint. mu is held.
func (t *Transport) moveTo(e Endpoint, reason string, f *Fault) {
	st := t.state.Load()
	now := time.Now()
	if e == Alternate {
		t.endpoints[Primary].trip()
	} else {
		t.endpoints[Alternate].reset()
	}
	t.endpoints[e].reset()
	t.hold = hold{}
	t.switches = append(t.switches[len(t.switches)-t.switchesBefore(now, damping):], now)
	t.loss = t.lossReport(st.active)
	next := &state{active: e, generation: st.generation + 1, since: now, pinned: st.pinned, atRisk: t.loss.created()}
	t.setState(next)
	if t.decision != nil {
		t.decision.cancel()
	}
	if !next.pinned { // a pin is this process's own
		t.tellFleet(reason)
	}
	t.emit(Event{Kind: EventSwitched, From: st.active, To: e, Reason: reason, Fault: f, Loss: t.loss})
	t.emit(Event{Kind: EventTokensSuspect, From: st.active, To: e, Reason: fmt.Sprintf(
		"the %v may not have the content that the last delta tokens and ETags of the %v are about", e, st.active)})
	if len(t.switches) == maxSwitches {
		t.emit(Event{Kind: EventLatched, From: e, To: e, Reason: fmt.Sprintf("%d switches within an hour", maxSwitches)})
	}
}

// lossReport lists the writes at risk if the traffic leaves an endpoint now.
func (t *Transport) lossReport(from Endpoint) *LossReport {
	var lastSuccess time.Time
	if at := t.endpoints[from].lastSuccess.Load(); at != 0 {
		lastSuccess = t.origin.Add(time.Duration(at))
	}
	r := t.ledger.report(from, lastSuccess, t.cfg.RPO)
	r.URL, r.verified = t.org.Primary.String(), new(atomic.Pointer[Verification])
	return r
}

// latched reports whether there were so many switches within memory that further
// ones are up to people for now. mu is held.
func (t *Transport) latched(memory time.Duration) bool {
	return t.switchesBefore(time.Now(), memory) >= maxSwitches
}

// goDown makes requests fail fast until an endpoint passes its probe. mu is held.
func (t *Transport) goDown(faults [2]*Fault) {
	next := *t.state.Load()
	now := time.Now()
	next.down = &outage{since: now, faults: faults, until: now.Add(downInterval)}
	t.setState(&next)
	t.emit(Event{Kind: EventDown, From: next.active, To: next.active, Reason: "neither endpoint passes its probe", Fault: faults[next.active]})
}

// comeUp ends Down at the active endpoint. mu is held.
func (t *Transport) comeUp(reason string) {
	next := *t.state.Load()
	next.down = nil
	t.endpoints[next.active].reset()
	t.setState(&next)
	t.emit(Event{Kind: EventUp, From: next.active, To: next.active, Reason: reason})
}

// setState publishes next, wakes everyone who waits for a change, and sees to
// it that the endpoints are watched if they have to be. mu is held.
func (t *Transport) setState(next *state) {
	next.changed = make(chan struct{})
	old := t.state.Swap(next)
	close(old.changed)
	if old.down != nil && !old.closed && (next.down == nil || next.closed) {
		t.timeDown += time.Since(old.down.since)
	}
	if t.needsWatch(next) && !t.watching {
		t.watching = true
		t.wg.Go(t.watch)
	}
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// downFor returns how long the Transport has been down in all. mu is held.
func (t *Transport) downFor(st *state) time.Duration {
	if st.down == nil || st.closed {
		return t.timeDown
	}
	return t.timeDown + time.Since(st.down.since)
}

// needsWatch reports whether endpoints have to be probed without traffic.
func (t *Transport) needsWatch(st *state) bool {
	away := st.active == Alternate || st.pinned
	return !st.closed && (st.down != nil || away && t.cfg.ProbeInterval != never)
}

const (
	// damping is the time over which switches are remembered.
	damping = time.Hour
	// fenceDamping is that for switches which a fence asks for. They are not to
	// wait for anything, but two endpoints that both answer probes and refuse
	// requests must not pass every request to and fro.
	fenceDamping = time.Minute
	// maxSwitches within that time latch the Transport: something is wrong that
	// moving to and fro, with a few seconds of writes at risk each time, will
	// not mend.
	maxSwitches = 4
)

// switchesBefore returns how many switches there were within memory before a
// time. mu is held.
func (t *Transport) switchesBefore(at time.Time, memory time.Duration) (n int) {
	for _, s := range t.switches {
		if at.Sub(s) < memory {
			n++
		}
	}
	return n
}

// dwellUntil returns when a fail-back may follow the last switch: MinDwell,
// doubled for every earlier switch within the hour, an hour at the most. mu is held.
func (t *Transport) dwellUntil(st *state) time.Time {
	since := st.since
	if n := len(t.switches); n > 0 {
		since = t.switches[n-1] // of the fleet, which may be earlier
	}
	dwell := t.cfg.MinDwell
	for n := t.switchesBefore(since, damping); n > 1 && dwell < damping; n-- {
		dwell *= 2
	}
	return since.Add(min(dwell, max(damping, t.cfg.MinDwell)))
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
	return backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(first), backoff.WithMaxInterval(last), backoff.WithMaxElapsedTime(0),
		backoff.WithMultiplier(probeGrowth), backoff.WithRandomizationFactor(probeJitter))
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
		return t.propose(st, to, fmt.Sprintf("of two endpoints that were down, the %v passes its probe first", to), nil, 0) == nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.state.Load() != st {
		return false
	}
	if v == stay {
		t.comeUp(fmt.Sprintf("the %v passes its probe", st.active))
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
	if err == nil && !t.risen(st) {
		return true
	}
	if err == nil {
		return t.propose(st, Primary, "the primary serves again", nil, damping) == nil
	}
	t.missed()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.state.Load() == st {
		t.endpoints[Primary].trip()
	}
	return false
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

// Switch moves all traffic to an endpoint by hand. The endpoint must pass its
// probe, otherwise nothing changes and the probe's error is returned; so is an
// error if ctx ends first or the Transport is closed. Requests under way are
// not interrupted. Reason is told to OnEvent and the log. Config.ConfirmSwitch is
// not asked. The memory of earlier switches, and with it the latch, is cleared.
//
// A fail-back follows in its time if the endpoint is [Alternate] and the
// primary passes its probes; use [Transport.Pin] to stay there. A fleet follows
// the switch, unless the Transport is pinned, even to where the Transport is.
func (t *Transport) Switch(ctx context.Context, to Endpoint, reason string) error {
	if to != Primary && to != Alternate {
		return fmt.Errorf("failover: no such endpoint: %d", to)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(t.ctx, cancel)()
	err := t.runProbe(ctx, to)

	t.mu.Lock()
	defer t.mu.Unlock()
	st := t.state.Load()
	switch {
	case st.closed:
		return ErrClosed
	case err != nil:
		return fmt.Errorf("failover: the %v does not pass its probe: %w", to, err)
	}
	t.switches = nil
	switch {
	case st.active != to:
		t.moveTo(to, reason, nil)
	case st.down != nil:
		t.comeUp(reason)
	}
	if !st.pinned {
		t.insist(reason)
	}
	return nil
}

// Pin sends all traffic to an endpoint until [Transport.Unpin], whatever its
// probes say: there are no automatic moves, and requests are not failed fast.
// Both endpoints are probed all the same, for [Transport.Status]. Pinning moves
// the traffic without a probe; [Transport.Switch] first for the careful way.
func (t *Transport) Pin(e Endpoint) {
	t.mu.Lock()
	defer t.mu.Unlock()
	st := t.state.Load()
	if st.closed || e != Primary && e != Alternate || st.pinned && st.active == e {
		return
	}
	next := *st
	next.pinned, next.down = true, nil
	t.setState(&next)
	t.emit(Event{Kind: EventPinned, From: e, To: e, Reason: "by hand"})
	if st.active != e {
		t.moveTo(e, "pinned by hand", nil)
	}
}

// Unpin allows automatic moves again. If the endpoint has failed meanwhile, the
// next fault leads to a decision. The memory of earlier switches, and with it
// the latch, is cleared, pinned or not.
func (t *Transport) Unpin() {
	t.mu.Lock()
	defer t.mu.Unlock()
	st := t.state.Load()
	t.switches = nil
	if st.closed || !st.pinned {
		return
	}
	next := *st
	next.pinned = false
	t.setState(&next)
	t.fleet.rouse()
	t.emit(Event{Kind: EventUnpinned, From: next.active, To: next.active, Reason: "by hand"})
}

// probeOutcome reads the result of a probe. A fault that does not count says
// that something answers, but not what; every other error is a failure.
func probeOutcome(e Endpoint, err error) (outcome, *Fault) {
	if err == nil {
		return passed, nil
	}
	var f *Fault
	if !errors.As(err, &f) {
		f = &Fault{Class: ClassUnavailable, Err: err}
	}
	found := *f
	found.Endpoint = e
	if found.counted() {
		return failed, &found
	}
	return inconclusive, &found
}
