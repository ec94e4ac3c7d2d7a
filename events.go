package failover

import (
	"context"
	"log/slog"
	"time"
)

// EventKind says what happened.
type EventKind uint8

const (
	// EventTripped: the circuit breaker of the active endpoint has opened. Both
	// endpoints are probed now, unless the Transport is pinned or down, or has
	// done so just now.
	EventTripped EventKind = iota
	// EventSwitched: the traffic has moved.
	EventSwitched
	// EventSwitchRefused: a switch was called for, but the traffic stays where it
	// is, for the reason given.
	EventSwitchRefused
	// EventDown: neither endpoint passes its probe. Requests go to the active endpoint
	// all the same, once each, unless Config.FailFast or WaitForUp is set. In a
	// brown-out that makes the Transport go down and up by turns, the fourth outage
	// within 10 minutes and later ones are told only if they last for 30 s.
	EventDown
	// EventUp: the active endpoint passes its probe again. Behind its address there
	// may be another place than before, which lacks what Loss lists.
	EventUp
	// EventProbed: an endpoint was probed.
	EventProbed
	// EventOutcomeUnknown: a write was sent and got no definite answer.
	EventOutcomeUnknown
	// EventPinned and EventUnpinned: somebody called Pin or Unpin.
	EventPinned
	EventUnpinned
	// EventLatched: there were so many switches that further ones are up to
	// people for now, unless a fence asks for one. See [Status.Latched].
	EventLatched
	// EventTokensSuspect follows every switch: delta tokens and ETags taken at
	// the endpoint that was left, shortly before, may not match the content of
	// the other one. A full resync of what was tracked is the safe way on.
	EventTokensSuspect
	// EventFleetLost and EventFleetFound: [Config.Shared] does not answer, or
	// answers again. Without it the Transport is on its own.
	EventFleetLost
	EventFleetFound
	// EventLossGrown: writes were under way when the traffic moved or an outage ended,
	// and have ended since: Loss is the report with them added. There is one such event
	// a second at the most for a report.
	EventLossGrown
	// EventRenewed: requests have failed or waited, but the active endpoint passes its
	// probe over a new connection. Requests go over new connections from now on, because
	// a failover may have moved what is behind the address; Reason has what speaks for
	// that, and Loss the writes at risk if it is so. A false alarm that nothing of that
	// speaks for is EventSwitchRefused.
	EventRenewed
)

// String returns the kind in words, such as "switched" or "outcome unknown".
func (k EventKind) String() string {
	names := [...]string{"tripped", "switched", "switch refused", "down", "up", "probed", "outcome unknown", "pinned", "unpinned", "latched", "tokens suspect", "fleet lost", "fleet found", "loss grown", "renewed"}
	if int(k) < len(names) {
		return names[k]
	}
	return "unknown"
}

// Event is something that a [Transport] did or found. It holds no credentials,
// queries or bodies.
type Event struct {
	Kind EventKind
	Time time.Time
	// Generation of the state the event led to.
	Generation uint64
	// From and To are the endpoints of a switch, made or refused, and of what
	// follows from it. Otherwise both are the endpoint the event is about.
	From, To Endpoint
	// Reason in a few words.
	Reason string
	// Fault that led to the event, nil if none did.
	Fault *Fault
	// Loss is the report of the writes that a switch, or an outage that has ended,
	// puts at risk: in EventSwitched, EventUp and EventLossGrown, otherwise nil.
	Loss *LossReport
	// Err of a failed probe, an unknown outcome, a store that does not answer, or
	// a fleet that is not followed; otherwise nil.
	Err error
	// Write whose outcome is unknown, in EventOutcomeUnknown, otherwise nil.
	Write *Write
	// Duration of a probe, otherwise 0.
	Duration time.Duration
}

// Attempt is an attempt that met a fault. See [Config.OnFault].
type Attempt struct {
	// Method of the request, path of its URL as in [Write], and its label.
	Method, Path, Label string
	// Number of the attempt in its call, from 1.
	Number int
	// Fault that it met. It may be shared, and is not to be changed.
	Fault *Fault
	// Again: another attempt follows, at the endpoint To. Otherwise To is that
	// of the fault.
	Again bool
	To    Endpoint
	// OutcomeUnknown: the call ends here, and the write that it made may or may
	// not have been carried out. What the caller gets is a response or an error, of
	// which [InDoubt] reports as much.
	OutcomeUnknown bool
}

// Switch is a switch that is about to be made. See [Config.ConfirmSwitch].
type Switch struct {
	From, To Endpoint
	Reason   string
	// Fault that led to it, nil for a fail-back.
	Fault *Fault
	// Loss lists the writes that are at risk in the switch.
	Loss *LossReport
}

const (
	// maxEvents bounds the events that wait for a slow OnEvent.
	maxEvents = 1024
	// maxRecent is how many events Status shows.
	maxRecent = 64
)

// eventQueue hands events on in order, one at a time. Guarded by Transport.mu.
type eventQueue struct {
	waiting []Event
	dropped int     // not logged yet
	lost    uint64  // dropped in all
	running bool    // the dispatching goroutine runs
	recent  []Event // the last ones, probes left out
}

// emit queues an event, and starts the goroutine that hands it on. mu is held.
func (t *Transport) emit(e Event) {
	st := t.state.Load()
	if t.rule.Closed {
		return
	}
	q := &t.events
	e.Time, e.Generation = time.Now(), st.generation
	switch e.Kind {
	case EventOutcomeUnknown:
		t.endpoints[e.From].recent.trouble().inDoubt.add(e.Time)
	case EventSwitchRefused:
		t.endpoints[e.From].recent.trouble().refused.add(e.Time)
	}
	if e.Kind != EventProbed {
		if len(q.recent) == maxRecent {
			q.recent = q.recent[1:]
		}
		q.recent = append(q.recent, e)
	}
	if len(q.waiting) == maxEvents {
		q.dropped++
		q.lost++
		return
	}
	q.waiting = append(q.waiting, e)
	if !q.running {
		q.running = true
		t.wg.Go(t.dispatch)
	}
}

// dispatch hands the waiting events to the log and OnEvent, and ends when none is left.
func (t *Transport) dispatch() {
	for {
		t.mu.Lock()
		q := &t.events
		batch, dropped := q.waiting, q.dropped
		q.waiting, q.dropped = nil, 0
		if len(batch) == 0 {
			q.running = false
			t.mu.Unlock()
			return
		}
		t.mu.Unlock()
		for _, e := range batch {
			t.log(e)
			t.logLoss(e.Loss)
			if t.cfg.OnEvent != nil {
				t.protect("OnEvent", func() { t.cfg.OnEvent(e) })
			}
		}
		if dropped > 0 {
			t.cfg.Logger.Warn("failover: events dropped because OnEvent is slow", "organization", t.org.Primary.Host, "dropped", dropped)
		}
	}
}

// log writes the line of one event.
func (t *Transport) log(e Event) {
	level := slog.LevelInfo
	switch e.Kind {
	case EventSwitched, EventTripped, EventOutcomeUnknown, EventLatched, EventTokensSuspect, EventFleetLost, EventLossGrown:
		level = slog.LevelWarn
	case EventDown:
		level = slog.LevelError
	case EventProbed:
		level = slog.LevelDebug
	}
	ctx := context.Background()
	if !t.cfg.Logger.Enabled(ctx, level) {
		return
	}
	attrs := make([]slog.Attr, 0, 13)
	attrs = append(attrs,
		slog.String("organization", t.org.Primary.Host),
		slog.Uint64("generation", e.Generation),
		slog.String("from", e.From.String()),
		slog.String("to", e.To.String()),
		slog.String("reason", e.Reason))
	if e.Loss != nil {
		attrs = append(attrs, slog.Int("at_risk", len(e.Loss.AtRisk)), slog.Int("unknown", len(e.Loss.Unknown)), slog.Bool("truncated", e.Loss.Truncated))
	}
	if e.Write != nil {
		attrs = append(attrs, slog.String("method", e.Write.Method), slog.String("path", e.Write.Path), slog.String("label", e.Write.Label))
	}
	if e.Fault != nil {
		attrs = append(attrs, slog.String("fault", e.Fault.Error()))
	}
	if e.Err != nil {
		attrs = append(attrs, slog.String("error", e.Err.Error()))
	}
	t.cfg.Logger.LogAttrs(ctx, level, "failover: "+e.Kind.String(), attrs...)
}
