package failover

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"time"

	"github.com/d365failover/failover/internal/redact"
	"github.com/d365failover/failover/internal/rule"
)

// This file is what people use: switches by hand, and a look at where things stand.

// Switch moves all traffic to an endpoint by hand. The endpoint must pass its
// probe, otherwise nothing changes and the probe's error is returned; so is an
// error if ctx ends first or the Transport is closed. Requests under way are
// not interrupted. Reason is told to OnEvent and the log, without
// what looks like a secret. Config.ConfirmSwitch is
// not asked. The memory of earlier switches, and with it the latch, is cleared.
//
// A fail-back follows in its time if the endpoint is [Alternate] and the
// primary passes its probes; use [Transport.Pin] to stay there. A pinned
// Transport stays pinned, at the new endpoint. A fleet follows
// the switch, unless the Transport is pinned, even to where the Transport is.
func (t *Transport) Switch(ctx context.Context, to Endpoint, reason string) error {
	reason = redact.Line(redact.Text(reason), maxErrorText)
	if to != Primary && to != Alternate {
		return fmt.Errorf("failover: no such endpoint: %d", to)
	}
	if t.url(to) == nil {
		return errNoAlternate
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(t.ctx, cancel)()
	if err := t.runProbe(ctx, to); err != nil {
		switch {
		case t.ctx.Err() != nil:
			return ErrClosed
		case ctx.Err() != nil:
			return ctx.Err()
		}
		return fmt.Errorf("failover: the %v does not pass its probe: %w", to, err)
	}
	p := t.newPool()
	t.mu.Lock()
	defer t.unlock()
	if t.rule.Closed {
		return ErrClosed
	}
	if Endpoint(t.rule.Active) != to {
		t.moveLocked(move{to: to, reason: reason}, p, func(now time.Time) bool {
			t.rule.Switch(now, rule.Side(to))
			return false
		})
	} else if _, up := t.rule.Switch(time.Now(), rule.Side(to)); up {
		t.upLocked(p, reason)
	} else {
		t.publishLocked(nil)
	}
	if !t.rule.Pinned {
		t.fleet.insist(reason)
	}
	return nil
}

// Pin sends all traffic to an endpoint until [Transport.Unpin], whatever its
// probes say: there are no automatic moves, and Down does not apply.
// Both endpoints are probed all the same, for [Transport.Status], unless
// Config.ProbeInterval is negative. Pinning moves
// the traffic without a probe; [Transport.Switch] first for the careful way.
// To pin an endpoint that the organization does not have changes nothing.
func (t *Transport) Pin(e Endpoint) { t.pin(e, "by hand") }

func (t *Transport) pin(e Endpoint, reason string) {
	if e != Primary && e != Alternate || t.url(e) == nil {
		return
	}
	p := t.newPool()
	t.mu.Lock()
	defer t.unlock()
	if t.rule.Closed || t.rule.Pinned && Endpoint(t.rule.Active) == e {
		return
	}
	t.emit(Event{Kind: EventPinned, From: e, To: e, Reason: reason})
	if Endpoint(t.rule.Active) != e {
		t.moveLocked(move{to: e, reason: "pinned " + reason}, p, func(now time.Time) bool {
			t.rule.Pin(now, rule.Side(e))
			return false
		})
		return
	}
	if t.rule.Pin(time.Now(), rule.Side(e)); t.outage != nil {
		t.endOutageLocked(time.Now())
	}
	t.publishLocked(nil)
}

// Unpin allows automatic moves again. If the endpoint has failed meanwhile, the
// next fault leads to a decision. The memory of earlier switches, and with it
// the latch, is cleared, pinned or not.
func (t *Transport) Unpin() { t.unpin("by hand") }

func (t *Transport) unpin(reason string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	was := t.rule.Pinned
	t.rule.Unpin()
	if t.rule.Closed || !was {
		return
	}
	t.publishLocked(nil)
	t.fleet.rouse()
	e := Endpoint(t.rule.Active)
	t.emit(Event{Kind: EventUnpinned, From: e, To: e, Reason: reason})
}

// Status is a snapshot of a [Transport].
type Status struct {
	// Active endpoint, since when, and how many switches led here.
	Active     Endpoint
	Since      time.Time
	Generation uint64
	// Pinned by hand; no automatic moves.
	Pinned bool
	// Down: neither endpoint serves. Never true while pinned.
	Down bool
	// Provisional: the traffic was moved here on weak evidence (a 401 or 429), and
	// the endpoint has not given a healthy answer to a request since. It goes back at
	// the first answer that is not healthy, or as soon as the endpoint that was left
	// passes a probe; the next such move then waits for a minute at the least.
	Provisional bool
	// TimeDown is how long the Transport has been down in all, since New. It
	// grows while Down is true, and no more after Close.
	TimeDown time.Duration
	// Latched: four switches within an hour. Further ones need a hand
	// ([Transport.Switch], [Transport.Unpin]), the fence of the active endpoint
	// (but no more than four within a minute), or time.
	Latched bool
	// Closed: Close was called.
	Closed             bool
	Primary, Alternate EndpointStatus
	// Fleet is nil without [Config.Shared].
	Fleet *FleetStatus
	// Events are the last 64, oldest first, probes left out.
	Events []Event
	// EventsDropped is how many events OnEvent and the Logger were too slow for
	// and have never been told of.
	EventsDropped uint64
	// Loss is the last loss report, nil if there was no reason for one yet.
	Loss *LossReport
	// Losses are the last 16 loss reports, oldest first.
	Losses []*LossReport
	// WritesDropped is how many writes were dropped because OnWrite was too slow.
	WritesDropped uint64
}

// EndpointStatus is what a [Transport] knows of one endpoint.
type EndpointStatus struct {
	// URL is the origin of the endpoint, such as
	// "https://contoso.api.crm.dynamics.com".
	URL string
	// State of the circuit breaker.
	State State
	// LastSuccess is when the endpoint last answered a request in good health
	// (to the millisecond), zero if it never did.
	LastSuccess time.Time
	// LastFault is the last fault of a request, nil if there was none, and
	// LastFaultTime when it was met.
	LastFault     *Fault
	LastFaultTime time.Time
	// Faults of requests since New.
	Faults map[Class]uint64
	// Recent counts the attempts of the last minutes.
	Recent Recent
	// LastProbe is when the endpoint was last probed, zero if never, and
	// ProbeError what that probe found, nil if it passed.
	LastProbe  time.Time
	ProbeError error
}

// Status returns a snapshot. It does not block on the network.
func (t *Transport) Status() Status {
	t.mu.Lock()
	defer t.mu.Unlock()
	st := t.state.Load()
	status := Status{
		Active: st.active, Since: st.since, Generation: st.generation,
		Pinned: st.pinned, Down: st.down, Provisional: st.provisional, TimeDown: t.timeDownLocked(),
		Latched: t.rule.Latched(time.Now()), Closed: st.closed,
		Primary:   t.endpoints[Primary].status(t.org.Primary, t.started),
		Alternate: t.endpoints[Alternate].status(t.org.Alternate, t.started),
		Events:    slices.Clone(t.recent), EventsDropped: t.events.droppedInAll(),
		Losses: t.books.reports(), WritesDropped: t.writes.droppedInAll(),
	}
	if n := len(status.Losses); n > 0 {
		status.Loss = status.Losses[n-1]
	}
	if t.fleet != nil {
		fleet := t.fleet.status
		fleet.Record.Earlier, fleet.Witnesses = slices.Clone(fleet.Record.Earlier), slices.Clone(fleet.Witnesses)
		fleet.Apart = fleet.Record.Active != st.active
		if !time.Now().Before(t.fleet.witnessed) {
			fleet.Witnesses, fleet.WitnessCount = nil, 0
		}
		status.Fleet = &fleet
	}
	return status
}

// Org returns the organization that the Transport is for.
func (t *Transport) Org() Org { return t.org }

// url returns the origin of an endpoint, nil if the organization does not have it.
func (t *Transport) url(e Endpoint) *url.URL {
	if e == Alternate {
		return t.org.Alternate
	}
	return t.org.Primary
}
