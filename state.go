package failover

import (
	"fmt"
	"time"
)

// This file holds where traffic goes, and what that can become.

// state is one immutable picture of where traffic goes. Every attempt loads it
// once; a change replaces it and closes changed.
type state struct {
	active     Endpoint
	generation uint64 // one more with every switch
	epoch      uint64 // one more with every judgement: a switch, or the end of an outage
	since      time.Time
	pinned     bool
	down       *outage // nil unless neither endpoint serves
	closed     bool
	changed    chan struct{}
}

// outage is what is known while neither endpoint serves. Guarded by Transport.mu.
type outage struct {
	since  time.Time
	faults [2]*Fault // by endpoint, of the probes that failed
	until  time.Time // when both are probed again
}

// moveTo makes e the active endpoint. mu is held.
func (t *Transport) moveTo(e Endpoint, reason string, f *Fault) {
	st := t.state.Load()
	now := time.Now()
	next := &state{active: e, generation: st.generation + 1, epoch: st.epoch + 1, since: now, pinned: st.pinned}
	loss := t.reportLossLocked(st.active, e, next.epoch, reason)
	if e == Alternate {
		t.endpoints[Primary].trip()
	} else {
		t.endpoints[Alternate].reset()
	}
	t.endpoints[e].reset()
	t.hold, t.objection = hold{}, ""
	latched := t.latched(damping)
	t.switches = append(t.switches[len(t.switches)-t.switchesBefore(now, damping):], now)
	t.setState(next)
	if t.decision != nil {
		t.decision.cancel()
	}
	if !next.pinned { // a pin is this process's own
		t.tellFleet(reason)
	}
	t.emit(Event{Kind: EventSwitched, From: st.active, To: e, Reason: reason, Fault: f, Loss: loss})
	t.emit(Event{Kind: EventTokensSuspect, From: st.active, To: e, Reason: fmt.Sprintf(
		"the %v may not have the content that the last delta tokens and ETags of the %v are about", e, st.active)})
	t.tellLatched(latched)
}

// remember takes over the times of a fleet's switches. mu is held.
func (t *Transport) remember(switches []time.Time) {
	latched := t.latched(damping)
	t.switches = switches
	t.tellLatched(latched)
}

// tellLatched tells that the Transport is latched, if it was not before. mu is held.
func (t *Transport) tellLatched(before bool) {
	if !before && t.latched(damping) {
		e := t.state.Load().active
		t.emit(Event{Kind: EventLatched, From: e, To: e, Reason: fmt.Sprintf("%d switches within an hour", maxSwitches)})
	}
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

// outlook returns the faults that the last probes of an outage have met, and how
// long it is until the next.
func (t *Transport) outlook(o *outage) (faults [2]*Fault, retryAfter time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return o.faults, max(0, time.Until(o.until))
}

// comeUp ends Down at the active endpoint. mu is held.
func (t *Transport) comeUp(reason string) {
	next := *t.state.Load()
	next.down = nil
	next.epoch++
	loss := t.reportLossLocked(next.active, next.active, next.epoch, reason)
	t.objection = ""
	t.endpoints[next.active].reset()
	t.setState(&next)
	t.emit(Event{Kind: EventUp, From: next.active, To: next.active, Reason: reason, Loss: loss})
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
