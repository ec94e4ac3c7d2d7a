package failover

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/d365failover/failover/internal/redact"
)

// EventKind says what happened.
type EventKind uint8

const (
	// EventTripped: the circuit breaker of the active endpoint has opened. Both endpoints
	// are probed next, unless the Transport is pinned or down, or they were just probed.
	EventTripped EventKind = iota
	// EventSwitched: all traffic goes to the other endpoint from now on.
	EventSwitched
	// EventSwitchRefused: a switch was considered and not made, for the reason given.
	EventSwitchRefused
	// EventDown: no endpoint passes its probe. Requests are still sent to the active
	// endpoint, once each, unless Config.FailFast or WaitForUp is set. After three
	// outages within 10 minutes, a further one is reported only once it has lasted 30 s.
	EventDown
	// EventUp: the active endpoint serves again; the outage is over. A failover may have
	// moved what is behind its address to a copy that lacks the writes in Loss. If new
	// connections lead to another IP address than earlier ones did, Reason names both,
	// unless the outage was ended by the answer to a read that was sent before the first
	// fault: the connections of such reads are not watched.
	EventUp
	// EventProbed: an endpoint was probed.
	EventProbed
	// EventOutcomeUnknown: a write is in doubt.
	EventOutcomeUnknown
	// EventPinned and EventUnpinned: Pin or Unpin was called, and has changed something.
	// Unpin also releases the latch.
	EventPinned
	EventUnpinned
	// EventLatched: there were four switches within an hour. See [Status.Latched].
	EventLatched
	// EventTokensSuspect follows every EventSwitched, EventUp and EventRenewed: delta
	// tokens, ETags and session tokens of elastic tables that were issued before may not
	// match the content that is served now. To be safe, resync tracked data in full.
	EventTokensSuspect
	// EventFleetLost and EventFleetFound: the fleet's store fails, or works again. Without
	// it the Transport decides on its own.
	EventFleetLost
	EventFleetFound
	// EventLossGrown: writes that were under way when the traffic switched, or an outage
	// ended, have completed since. Loss is the report with their outcomes. There is at most
	// one such event per second and report.
	EventLossGrown
	// EventRenewed: requests have failed or waited, the active endpoint passes its probe
	// over a new connection, and there is evidence that a failover has moved what is behind
	// its address. Requests go over new connections from now on. Reason names the evidence,
	// and Loss lists the writes at risk. Without such evidence, connections are renewed as
	// well, but the event is EventSwitchRefused, or none if there were only slow requests
	// or single faults.
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

// Event is something that a [Transport] did or observed. It holds no credentials, queries or
// bodies. What it points to is shared, and must not be changed.
type Event struct {
	Kind EventKind
	Time time.Time
	// Generation is the number of switches since New, that of the event included.
	Generation uint64
	// From and To are the endpoints of a switch, made or refused, and of its consequences.
	// Otherwise both are the endpoint that the event is about.
	From, To Endpoint
	// Reason in a few words.
	Reason string
	// Fault that led to the event, nil if none did.
	Fault *Fault
	// Loss lists the writes that a switch, or an outage that has ended, puts at risk: in
	// EventSwitched, EventUp, EventRenewed and EventLossGrown, otherwise nil.
	Loss *LossReport
	// Err of a failed probe, a write in doubt, a store that fails, or a switch of the fleet
	// that is not followed; otherwise nil.
	Err error
	// Write that is in doubt, in EventOutcomeUnknown, otherwise nil.
	Write *Write
	// Duration of a probe, otherwise 0.
	Duration time.Duration
}

// Attempt is a failed attempt. See [Config.OnFault].
type Attempt struct {
	// Method of the request, path of its URL as in [Write], and its label.
	Method, Path, Label string
	// Number of the attempt in its call, from 1.
	Number int
	// Fault of the attempt. It may be shared, and must not be changed.
	Fault *Fault
	// Again: another attempt follows, at the endpoint To. Otherwise To is the endpoint
	// of the fault.
	Again bool
	To    Endpoint
	// OutcomeUnknown: the call ends here and leaves its write in doubt. [InDoubt] reports the
	// same of the response or error that the caller gets.
	OutcomeUnknown bool
}

// Switch is an automatic switch that is about to be made. See [Config.ConfirmSwitch].
type Switch struct {
	From, To Endpoint
	Reason   string
	// Fault that led to it, nil for a fail-back.
	Fault *Fault
	// Loss lists the writes that the switch would put at risk.
	Loss *LossReport
}

const (
	// maxEvents is how many events are queued for a slow OnEvent, and maxWrites how many writes
	// for a slow OnWrite.
	maxEvents = 1024
	maxWrites = 4096
	// maxRecent is how many events Status shows.
	maxRecent = 64
)

// emit queues an event. Transport.mu is held.
func (t *Transport) emit(e Event) {
	st := t.state.Load()
	if t.rule.Closed {
		return
	}
	e.Time, e.Generation = time.Now(), st.generation
	switch e.Kind {
	case EventOutcomeUnknown:
		t.endpoints[e.From].recent.trouble().inDoubt.add(e.Time)
	case EventSwitchRefused:
		t.endpoints[e.From].recent.trouble().refused.add(e.Time)
	}
	if e.Kind != EventProbed {
		t.recent = appendRecent(t.recent, e)
	}
	if t.events == nil {
		t.events = &queue[Event]{field: "Event", limit: maxEvents, handle: t.deliverEvent, crowd: crowdOfEvents}
	}
	t.events.put(t, e)
}

// appendRecent appends an event. If there are too many, it drops the oldest of the most frequent
// kind, so that a hundred writes in doubt do not displace a switch.
func appendRecent(recent []Event, e Event) []Event {
	if len(recent) == maxRecent {
		i := mostFrequent(recent, kindOf)
		recent = slices.Delete(slices.Clone(recent), i, i+1)
	}
	return append(recent, e)
}

func kindOf(e *Event) int { return int(e.Kind) }

// mostFrequent returns the index of the first value of the most frequent kind. There are no more
// kinds than of events.
func mostFrequent[T any](list []T, kind func(*T) int) int {
	var numbers, first [EventRenewed + 1]int
	most := kind(&list[0])
	for i := range list {
		k := kind(&list[i])
		if numbers[k] == 0 {
			first[k] = i
		}
		if numbers[k]++; numbers[k] > numbers[most] {
			most = k
		}
	}
	return first[most]
}

// crowdOfEvents returns the index of the first event of the most frequent kind.
func crowdOfEvents(waiting []Event) int { return mostFrequent(waiting, kindOf) }

// deliverEvent logs an event and passes it to OnEvent.
func (t *Transport) deliverEvent(e Event) {
	t.log(e)
	t.logLoss(e.Loss)
	if t.cfg.OnEvent != nil {
		t.protect("OnEvent", func() { t.cfg.OnEvent(e) })
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
	t.cfg.Logger.LogAttrs(context.Background(), level, "failover: "+e.Kind.String(), attrs...)
}

// queue passes values to a function of the program: in order, one at a time, off the request
// path.
type queue[T any] struct {
	field  string // of Config that holds the function, without its "On"
	limit  int    // of queued values
	handle func(T)
	crowd  func(waiting []T) int // which to drop if there are too many; nil: the new one

	mu      sync.Mutex
	waiting []T
	dropped int    // not logged yet
	lost    uint64 // dropped in all
	running bool   // the goroutine that calls deliver runs
	closed  bool
}

// put queues a value, and starts the goroutine that passes it on. If there are more than the
// limit, it drops one, and logs that.
func (q *queue[T]) put(t *Transport, v T) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.closed:
		return
	case len(q.waiting) == q.limit:
		q.dropped++
		q.lost++
		if q.crowd == nil {
			return
		}
		i := q.crowd(q.waiting)
		q.waiting = slices.Delete(q.waiting, i, i+1)
	}
	q.waiting = append(q.waiting, v)
	if !q.running {
		q.running = true
		t.wg.Go(func() { q.deliver(t) })
	}
}

// deliver passes on the queued values until none is left.
func (q *queue[T]) deliver(t *Transport) {
	var rest []T
	over := false
	defer func() {
		if over {
			return
		}
		q.mu.Lock() // the function has called runtime.Goexit
		defer q.mu.Unlock()
		q.waiting = append(rest, q.waiting...)
		t.wg.Go(func() { q.deliver(t) })
	}()
	for {
		q.mu.Lock()
		batch, dropped := q.waiting, q.dropped
		q.waiting, q.dropped = nil, 0
		if len(batch) == 0 {
			q.running, over = false, true
			q.mu.Unlock()
			return
		}
		q.mu.Unlock()
		for i, v := range batch {
			rest = batch[i+1:]
			q.handle(v)
		}
		if dropped > 0 {
			t.cfg.Logger.Warn("failover: dropped because On"+q.field+" is slow", "organization", t.org.Primary.Host, "dropped", dropped)
		}
	}
}

// close ends the queue: the queued values are passed on, but no further ones.
func (q *queue[T]) close() {
	if q == nil {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
}

// droppedInAll returns how many values were dropped. A nil queue has dropped none.
func (q *queue[T]) droppedInAll() uint64 {
	if q == nil {
		return 0
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.lost
}

// The following calls the program's functions in Config, whose panics must not end the process.

// protect calls f, the function in a field of Config. If it panics, protect logs that with the
// name of the field, and returns errPanicked.
func (t *Transport) protect(field string, f func()) (err error) {
	err = errPanicked // or has called runtime.Goexit
	defer func() {
		if v := recover(); v != nil {
			t.cfg.Logger.Error("failover: a function of the program panicked", "organization", t.org.Primary.Host,
				"function", "Config."+field, "panic", redact.Line(redact.Text(fmt.Sprint(v)), maxErrorText), slog.String("stack", string(debug.Stack())))
		}
	}()
	f()
	return nil
}

// protectedHandler is the program's log handler. A panic in it is ignored.
type protectedHandler struct{ slog.Handler }

func (h protectedHandler) Enabled(ctx context.Context, level slog.Level) bool {
	defer func() { _ = recover() }()
	return h.Handler.Enabled(ctx, level)
}

func (h protectedHandler) Handle(ctx context.Context, line slog.Record) error {
	defer func() { _ = recover() }()
	return h.Handler.Handle(ctx, line)
}

// errPanicked is the result of a function of the program that has panicked.
var errPanicked = errors.New("failover: the function panicked, see the log")

// realError returns err, or nil if err is a nil pointer in a non-nil interface.
func realError(err error) error {
	if v := reflect.ValueOf(err); v.Kind() == reflect.Pointer && v.IsNil() {
		return nil
	}
	return err
}
