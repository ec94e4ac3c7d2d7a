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

// This file holds what people use: switches by hand, and Status.

// Switch switches all traffic to an endpoint by hand. The endpoint must pass its probe;
// otherwise nothing changes and Switch returns the probe's error. It also returns an error if
// ctx ends first, the Transport is closed ([ErrClosed]), or the organization has no such
// endpoint. Requests under way are not interrupted. The reason goes to OnEvent and the log,
// with secrets redacted. Config.ConfirmSwitch is not called. Switch clears the history of
// switches, and so releases the latch ([Status.Latched]).
//
// After a switch to [Alternate], an automatic fail-back follows once the primary passes its
// probes; use [Transport.Pin] to prevent that. A pinned Transport stays pinned, at the new
// endpoint. A fleet follows, unless this Transport is pinned, even if the endpoint was active
// here before.
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
		t.switchLocked(switchover{to: to, reason: reason}, p, func(now time.Time) bool {
			t.rule.Switch(now, rule.Side(to))
			return false
		})
	} else if _, up := t.rule.Switch(time.Now(), rule.Side(to)); up {
		t.upLocked(p, reason)
	} else {
		t.publishLocked(nil)
	}
	if !t.rule.Pinned {
		t.fleet.override(reason)
	}
	return nil
}

// Pin sends all traffic to an endpoint until [Transport.Unpin], whatever its probes say:
// there are no automatic switches, and the Transport is never down. Both endpoints are still
// probed, for [Transport.Status], unless Config.ProbeInterval is negative. Pin switches
// without a probe; to be safe, call [Transport.Switch] first. Pinning an endpoint that the
// organization does not have changes nothing.
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
		t.switchLocked(switchover{to: e, reason: "pinned " + reason}, p, func(now time.Time) bool {
			t.rule.Pin(now, rule.Side(e))
			return false
		})
	} else {
		if t.rule.Pin(time.Now(), rule.Side(e)); t.outage != nil {
			t.endOutageLocked(time.Now())
		}
		t.publishLocked(nil)
	}
}

// Unpin allows automatic switches again. If the endpoint has failed meanwhile, the next fault
// that counts leads to a decision. Whether or not the Transport was pinned, Unpin clears the
// history of switches, and so releases the latch. If it was neither pinned nor latched, there
// is no event.
func (t *Transport) Unpin() { t.unpin("by hand") }

func (t *Transport) unpin(reason string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	was := t.rule.Pinned || t.rule.Latched(time.Now())
	t.rule.Unpin()
	if t.rule.Closed || !was {
		return
	}
	t.publishLocked(nil)
	t.fleet.wakeUp()
	e := Endpoint(t.rule.Active)
	t.emit(Event{Kind: EventUnpinned, From: e, To: e, Reason: reason})
}

// Status is a snapshot of a [Transport].
type Status struct {
	// Active is the endpoint that all traffic goes to, Since is when it became active, and
	// Generation the number of switches since New.
	Active     Endpoint
	Since      time.Time
	Generation uint64
	// Pinned by hand: there are no automatic switches.
	Pinned bool
	// Down: no endpoint passes its probe. Never true while pinned.
	Down bool
	// Provisional: the traffic switched here on weak evidence (the probe got a 401 or 429).
	// The first healthy answer to a request confirms the switch. The switch is undone if a
	// request meets a fault instead, a 401 included, or the other endpoint passes a probe.
	Provisional bool
	// TimeDown is the total time that the Transport has been down since New. It grows while
	// Down is true, and stops growing with Close.
	TimeDown time.Duration
	// Latched: there were four switches within an hour. Until an hour has passed since the
	// first of them, only a person ([Transport.Switch], [Transport.Unpin]) or a fence at the
	// active endpoint (up to four switches within a minute) causes another.
	Latched bool
	// Closed: Close was called.
	Closed             bool
	Primary, Alternate EndpointStatus
	// Fleet is nil without [Config.Shared].
	Fleet *FleetStatus
	// Events are the latest 64 events except those of probes, oldest first. When there are
	// more, the oldest event of the most frequent kind is dropped.
	Events []Event
	// EventsDropped is how many events were dropped because OnEvent or Logger was too slow.
	EventsDropped uint64
	// Loss is the latest loss report, nil if there is none yet. [LossReport.Verify] accepts a
	// nil report.
	Loss *LossReport
	// Losses are the latest 16 loss reports, oldest first. When there are more, the oldest of
	// the most frequent kind is dropped, so that many reports of outages at one endpoint do not
	// displace that of a switch, nor empty reports those that list writes.
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
	// LastSuccess is when the endpoint last gave a healthy answer to a request (to the
	// millisecond), zero if never.
	LastSuccess time.Time
	// LastFault is the last fault of a request, nil if there was none, and LastFaultTime
	// when it happened.
	LastFault     *Fault
	LastFaultTime time.Time
	// Faults counts the faults of requests since New, by class.
	Faults map[Class]uint64
	// Recent counts the attempts of the last minutes.
	Recent Recent
	// LastProbe is when the endpoint was last probed, zero if never, and ProbeError is the
	// result of that probe, nil if it passed.
	LastProbe  time.Time
	ProbeError error
}

// Status returns a snapshot, which is the caller's except for what it points to. It does not
// wait for the network.
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

// Org returns the organization that the Transport is for. Changing the URLs in it does not
// change the Transport.
func (t *Transport) Org() Org {
	org := t.org
	org.Primary, org.Alternate = copyURL(org.Primary), copyURL(org.Alternate)
	return org
}

// copyURL returns a copy of an origin, which has no user information.
func copyURL(u *url.URL) *url.URL {
	if u == nil {
		return nil
	}
	c := *u
	return &c
}

// url returns the origin of an endpoint, or nil if the organization does not have it.
func (t *Transport) url(e Endpoint) *url.URL {
	if e == Alternate {
		return t.org.Alternate
	}
	return t.org.Primary
}
